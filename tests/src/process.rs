//! Processes of a test: servers and routers, with their output in a file.
//!
//! Invariant: a process that was started ends when its [`Process`] is dropped, and also when the test process ends in any other way:
//! a guard of its own waits for the end of a pipe, which the system closes for whoever dies. Both are killed by process id.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait::poll;

/// A folder of this test process, below the temporary folder; those that earlier processes left are removed.
pub fn folder(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let all = std::env::temp_dir().join("anabranch-tests");
    let own = all.join(std::process::id().to_string());
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            if !Path::new("/proc").join(entry.file_name()).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    let folder = own.join(format!("{number}-{name}"));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A TCP port on loopback that nobody listens at. Somebody else may take it before it is used: whoever starts a server tries again.
pub fn free_port() -> u16 {
    free_ports::<1>()[0]
}

/// So many of them, all different.
pub fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until each is known, or the system might give one twice.
    let listeners = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    guard: Child,
    /// Standard output.
    pub stdout: PathBuf,
    /// Standard error output.
    pub stderr: PathBuf,
}

impl Process {
    /// Starts a command; its output goes to `NAME.out` and `NAME.err` in `folder`.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Process {
        let [stdout, stderr] = ["out", "err"].map(|end| folder.join(format!("{name}.{end}")));
        let append = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        command.stdin(Stdio::null()).stdout(append(&stdout)).stderr(append(&stderr));
        // In groups of their own: Ctrl-C reaches the test process alone, and its end is what ends these.
        let child = command.process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name}: {}: {error}", command.get_program().display()));
        let guard = Command::new("/bin/sh")
            .args(["-c", "read -r word || kill -9 \"$1\"", "guard", &child.id().to_string()])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        Process { child, guard, stdout, stderr }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("/bin/sh").args(["-c", "kill -s \"$1\" \"$2\"", "kill", name, &self.id().to_string()]).status().unwrap();
        assert!(sent.success(), "signal {name} to process {}", self.id());
    }

    /// How it ended; `None`: it still runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end; `None`: it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        poll(within, || self.ended())
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard first: a process id that is free again may soon be another's.
        if let Some(mut pipe) = self.guard.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.guard.wait();
        self.kill();
    }
}

/// The last lines of a file, for a message.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a command to its end.
///
/// # Panics
/// With its output, where it fails.
pub fn run(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; tests/setup.sh test installs it"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?} failed ({}):\n{}", output.status, String::from_utf8_lossy(&said));
}
