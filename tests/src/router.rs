//! The real binary, in a folder of its own, with a configuration of the test.
//!
//! Invariant: the binary is the one that the build made or `ANABRANCH_BIN` names, and no test waits for it without a deadline.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::process::{Process, folder, tail};
use crate::wait::{until, until_true};

/// Longest wait for a router that was asked to end by itself.
pub const END_MAX: Duration = Duration::from_secs(60);

/// The binary: at `ANABRANCH_BIN`, or in the build folder.
///
/// # Panics
/// Where it is not there, with the remedy.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ANABRANCH_BIN") {
        return PathBuf::from(path);
    }
    built("debug/anabranch").expect("the binary is not there: cargo build --package anabranch, or set ANABRANCH_BIN")
}

/// The component of a plugin for tests, made of the crate of this name below `tests/guests`.
///
/// # Panics
/// Where it is not there, with the remedy.
pub fn test_component(name: &str) -> PathBuf {
    let file = format!("test-components/anabranch-test-{name}.wasm");
    let remedy = "OUT=$CARGO_TARGET_DIR/test-components plugins/build.sh tests/guests/*";
    built(&file).unwrap_or_else(|| panic!("{file} is not in the build folder: {remedy}"))
}

fn built(file: &str) -> Option<PathBuf> {
    // A test is <build folder>/debug/deps/NAME; with a build folder of its own, results are in the target folder.
    let beside = std::env::current_exe().ok().and_then(|test| Some(test.ancestors().nth(3)?.join(file)));
    let target = std::env::var_os("CARGO_TARGET_DIR").map(|target| Path::new(&target).join(file));
    target.into_iter().chain(beside).find(|path| path.is_file())
}

/// The binary as a command. Permissions hold for it also where root runs the tests, who could write to what is read-only.
fn anabranch() -> Command {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Command::new(binary());
    }
    // Becomes the router, with the same process id.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-dac_override", "--"]).arg(binary());
    command
}

/// A configuration in a folder of its own, which routers run.
#[derive(Debug)]
pub struct Place {
    /// The folder, in which relative paths of the configuration begin.
    pub folder: PathBuf,
}

impl Place {
    /// A folder with this configuration.
    pub fn new(config: &str) -> Place {
        let place = Place { folder: folder("router") };
        place.configure(config);
        place
    }

    /// Writes another configuration.
    pub fn configure(&self, config: &str) {
        fs::write(self.config(), config).unwrap();
    }

    /// The configuration's file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("anabranch.toml")
    }

    /// A path within the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts `anabranch COMMAND anabranch.toml OPTIONS..`.
    pub fn start(&self, command: &str, options: &[&str]) -> Router {
        self.start_with(command, options, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(&self, command: &str, options: &[&str], variables: &[(&str, &str)]) -> Router {
        let mut router = anabranch();
        router.arg(command).arg(self.config()).args(options).envs(variables.iter().copied()).current_dir(&self.folder);
        let number = fs::read_dir(&self.folder).unwrap().count();
        Router(Process::start(&format!("run-{number}"), &mut router, &self.folder))
    }

    /// `anabranch run`.
    pub fn run(&self) -> Router {
        self.start("run", &[])
    }

    /// `anabranch run --until-end`, to its end.
    ///
    /// # Panics
    /// Where it does not exit with 0.
    pub fn run_until_end(&self) -> Ended {
        let ended = self.start("run", &["--until-end"]).end(END_MAX);
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        ended
    }
}

/// A running router.
#[derive(Debug)]
pub struct Router(Process);

/// A router that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error output: the log.
    pub stderr: String,
}

impl Ended {
    /// Its exit code; none: a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

impl Router {
    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        self.0.signal(name);
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Bytes of memory that it has now (resident set size).
    pub fn memory(&self) -> u64 {
        let status = text(&PathBuf::from(format!("/proc/{}/status", self.id())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        line.unwrap_or_else(|| panic!("no VmRSS in {status}")) << 10
    }

    /// Lines of its log so far that have all of `parts`.
    pub fn lines_with(&self, parts: &[&str]) -> Vec<String> {
        let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
        self.log().lines().filter(has_all).map(str::to_owned).collect()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Panics
    /// Where it had ended by itself.
    pub fn kill(mut self) {
        assert!(self.0.ended().is_none(), "the router ended before it was killed:\n{}", self.log());
        self.0.kill();
    }

    /// The file of its log.
    pub fn log_path(&self) -> &Path {
        &self.0.stderr
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        text(&self.0.stderr)
    }

    /// Waits until the log has `what`.
    pub fn wait_log(&mut self, what: &str, within: Duration) {
        until_true(&format!("{what:?} in {}", self.0.stderr.display()), within, || self.log().contains(what));
    }

    /// Waits for something while the router runs.
    ///
    /// # Panics
    /// Where the router ends, or `within` passes.
    pub fn until<T>(&mut self, what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
        until(what, within, || {
            let found = look();
            if found.is_none()
                && let Some(status) = self.0.ended()
            {
                panic!("the router ended ({status}) while {what} was waited for:\n{}", self.log());
            }
            found
        })
    }

    /// Waits for its end.
    pub fn end(mut self, within: Duration) -> Ended {
        let status = self.0.wait(within);
        let status = status.unwrap_or_else(|| panic!("the router still runs after {within:?}:\n{}", tail(&self.0.stderr, 50)));
        Ended { status, stdout: text(&self.0.stdout), stderr: text(&self.0.stderr) }
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    /// Where it does not exit with 0.
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        let ended = self.end(END_MAX);
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        ended
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the router's log ends with:\n{}", tail(&self.0.stderr, 40));
        }
    }
}
