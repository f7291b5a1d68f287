//! A small file system of a test's own, which may be full or read-only: that stops even the superuser.
//!
//! Invariant: it is unmounted when it is dropped.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::folder;

/// A page: the least that such a file system gives a file.
const PAGE: usize = 4 << 10;

/// A mounted file system in memory.
#[derive(Debug)]
pub struct Volume {
    folder: PathBuf,
}

impl Volume {
    /// Mounts one of this size, such as `2m`.
    ///
    /// # Panics
    /// Where neither this user nor `sudo -n` may mount.
    pub fn new(size: &str) -> Volume {
        let volume = Volume { folder: folder("volume") };
        volume.mount(&format!("size={size},mode=0777"));
        volume
    }

    fn mount(&self, options: &str) {
        let arguments = ["-t", "tmpfs", "-o", options, "tmpfs"];
        let mounted = privileged("mount", |command| command.args(arguments).arg(&self.folder));
        mounted
            .unwrap_or_else(|said| panic!("mount -o {options} {}: {said}; run the tests as a user who may mount", self.folder.display()));
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Leaves no space on it.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        loop {
            match file.write_all(&[0; PAGE]) {
                Ok(()) => (),
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{}: {error}", self.ballast().display()),
            }
        }
    }

    /// Gives back what [`Volume::fill`] took.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Refuses or allows writes. `None`: a file is being written, so it is not refused yet.
    pub fn set_read_only(&self, is_read_only: bool) -> Option<()> {
        let options = if is_read_only { "remount,ro" } else { "remount,rw" };
        match privileged("mount", |command| command.args(["-o", options]).arg(&self.folder)) {
            Ok(()) => Some(()),
            Err(said) if said.contains("busy") => None,
            Err(said) => panic!("mount -o {options} {}: {said}", self.folder.display()),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = privileged("umount", |command| command.arg("-l").arg(&self.folder));
    }
}

/// Runs a command as this user, or else by `sudo`; what it said where both refuse.
fn privileged(program: &str, arguments: impl Fn(&mut Command) -> &mut Command) -> Result<(), String> {
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    let mut said = String::new();
    for command in [&mut Command::new(program), &mut sudo] {
        match arguments(command).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => said += String::from_utf8_lossy(&output.stderr).trim(),
            Err(error) => said += &format!("; {}: {error}", command.get_program().display()),
        }
    }
    Err(said)
}
