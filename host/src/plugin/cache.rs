//! Compiled code on disk, so that a start need not compile again.
//!
//! Invariant: only files that this module wrote are loaded: files of this user in a folder of this user, with mode 0600, under a name
//! made of the digest of the component and the version of the compiler, and with the digest of their contents in front. Loading
//! machine code is one of the few things here that are `unsafe`.

#![allow(unsafe_code, reason = "compiled code is loaded, from files that nobody else can have written")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

const DIGEST_LEN: usize = 32;
/// Files that are kept; the one that was written first goes first.
const FILES_MAX: usize = 100;

/// The folder of compiled code; `None`: the user has no home, so nothing is kept.
pub fn folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|base| base.is_absolute());
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("anabranch").join("code"))
}

/// Where the compiled code of the component with this digest is kept.
pub fn path(folder: &Path, engine: &Engine, digest: &str) -> PathBuf {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    folder.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
}

/// Whether nobody but this user can write there.
fn is_ours(metadata: &fs::Metadata) -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let user = unsafe { libc::geteuid() };
    metadata.uid() == user && metadata.permissions().mode() & 0o077 == 0
}

/// The compiled code of a component, if it was kept and is sound.
pub fn load(engine: &Engine, path: &Path) -> Option<Component> {
    if !is_ours(&fs::metadata(path.parent()?).ok()?) {
        return None;
    }
    // The open file is looked at, not its name, so that it cannot be another one by the time it is read.
    let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || !is_ours(&metadata) {
        return None;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let (kept, code) = bytes.split_at_checked(DIGEST_LEN)?;
    if Sha256::digest(code).as_slice() != kept {
        return None;
    }
    // SAFETY: the bytes are those that `store` wrote from a component that this engine compiled: mode and owner keep others out, the
    // digest keeps damage out, and wasmtime itself refuses code of another version or configuration.
    unsafe { Component::deserialize(engine, code) }.ok()
}

/// Keeps compiled code; a cache that cannot be written costs time at the next start, nothing else.
pub fn store(path: &Path, component: &Component) {
    if let Err(problem) = try_store(path, component) {
        tracing::debug!(path = %path.display(), %problem, "compiled code is not kept");
    }
}

fn try_store(path: &Path, component: &Component) -> Result<(), Box<dyn std::error::Error>> {
    /// Threads of one process may compile the same component at the same time.
    static FILES: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().ok_or("it has no folder")?;
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let code = component.serialize()?;
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!("{}-{number}.tmp", std::process::id()));
    // What a process of the same number left behind may be anything.
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(&Sha256::digest(&code)).and_then(|()| file.write_all(&code)).and_then(|()| file.sync_all());
    if let Err(problem) = written.and_then(|()| fs::rename(&temporary, path)) {
        let _ = fs::remove_file(&temporary);
        return Err(problem.into());
    }
    make_room(folder)?;
    Ok(())
}

/// Removes what was written first, so that at most [`FILES_MAX`] files are left.
fn make_room(folder: &Path) -> std::io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> =
        fs::read_dir(folder)?.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort();
    let surplus = files.len().saturating_sub(FILES_MAX);
    files.iter().take(surplus).for_each(|(_, path)| drop(fs::remove_file(path)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_COMPONENT: &[u8] = &[0, b'a', b's', b'm', 0x0d, 0, 1, 0];

    fn kept() -> (tempfile::TempDir, Engine, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let path = path(&folder.path().join("code"), &engine, "d1");
        store(&path, &Component::new(&engine, EMPTY_COMPONENT).unwrap());
        (folder, engine, path)
    }

    #[test]
    fn code_is_kept_for_its_user_alone_and_found_again() {
        let (_folder, engine, path) = kept();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(load(&engine, &path).is_some());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn code_that_changed_is_not_loaded() {
        let (_folder, engine, path) = kept();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(load(&engine, &path).is_none());
        fs::write(&path, &bytes[..10]).unwrap();
        assert!(load(&engine, &path).is_none());
    }

    #[test]
    fn code_that_others_could_have_written_is_not_loaded() {
        let (_folder, engine, path) = kept();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&path, 0o620);
        assert!(load(&engine, &path).is_none(), "a group may write the file");
        mode(&path, 0o600);
        mode(path.parent().unwrap(), 0o770);
        assert!(load(&engine, &path).is_none(), "a group may write into the folder");
        mode(path.parent().unwrap(), 0o700);
        let elsewhere = path.with_file_name("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(load(&engine, &path).is_none(), "a link leads anywhere");
    }

    #[test]
    fn the_files_have_a_bound() {
        let (_folder, engine, first) = kept();
        let component = Component::new(&engine, EMPTY_COMPONENT).unwrap();
        for number in 0..FILES_MAX {
            store(&first.with_file_name(format!("{number}.cwasm")), &component);
        }
        assert_eq!(fs::read_dir(first.parent().unwrap()).unwrap().count(), FILES_MAX);
        assert!(!first.exists(), "the oldest went");
    }
}
