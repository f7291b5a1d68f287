//! What a process costs: read from the kernel's own accounts of it.
//!
//! Invariant: the CPU time is that of the whole process to its end: it is read when the process has ended and before it is reaped.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ran to its end.
#[derive(Debug)]
pub struct Cost {
    /// From start to end.
    pub wall: Duration,
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Largest resident set.
    pub memory_max: u64,
    /// Until the first byte of its standard output.
    pub first_output: Option<Duration>,
    /// Standard output.
    pub stdout: String,
    /// Standard error output.
    pub stderr: String,
}

/// The kernel counts in this unit (`getconf CLK_TCK`; 100 on every Linux of today).
const TICKS_PER_SECOND: u64 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs a command to its end.
///
/// # Panics
/// Where it does not exit with 0.
pub fn run(command: &mut Command) -> Cost {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let mut stdout = child.stdout.take().unwrap();
    let output = std::thread::spawn(move || {
        let mut first = [0];
        let count = stdout.read(&mut first).unwrap_or(0);
        let at = (count > 0).then(|| started.elapsed());
        let mut bytes = first[..count].to_vec();
        stdout.read_to_end(&mut bytes).map(|_| (at, String::from_utf8_lossy(&bytes).into_owned()))
    });
    let (cpu, memory_max) = watch(&child);
    let wall = started.elapsed();
    let status = child.wait().unwrap();
    let stderr = errors.join().unwrap().unwrap();
    let (first_output, stdout) = output.join().unwrap().unwrap();
    assert!(status.success(), "{command:?} ended with {status}:\n{stderr}");
    Cost { wall, cpu, memory_max, first_output, stdout, stderr }
}

/// What a process has cost until now; one that has ended and was not reaped has no memory any more.
#[derive(Debug, Clone, Copy)]
pub struct SoFar {
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Largest resident set.
    pub memory_max: Option<u64>,
    /// Whether it has ended.
    pub has_ended: bool,
}

/// What a process of this one has cost until now.
pub fn so_far(id: u32) -> SoFar {
    let folder = format!("/proc/{id}");
    let stat = fs::read_to_string(format!("{folder}/stat")).unwrap();
    // proc_pid_stat(5): the name in parentheses may hold spaces; behind it come state, and as 12th and 13th user and system time.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let cpu = Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    SoFar { cpu, memory_max: peak.map(|peak| peak * 1024), has_ended: fields[0] == "Z" }
}

/// Waits until the process has ended; it is not reaped.
fn watch(child: &Child) -> (Duration, u64) {
    let mut memory_max = 0;
    loop {
        let cost = so_far(child.id());
        memory_max = cost.memory_max.unwrap_or(memory_max);
        if cost.has_ended {
            return (cost.cpu, memory_max);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
