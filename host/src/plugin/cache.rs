//! Compiled code on disk, so that a start need not compile again.
//!
//! Invariant: only files that this module wrote are loaded: below a folder of the user's own, with mode 0600, under a name made of the
//! digest of the component and the version of the compiler, and with the digest of their contents in front. Loading machine code is
//! the second of the two places that may be `unsafe`.

#![allow(unsafe_code)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

const DIGEST_LEN: usize = 32;

/// The folder of compiled code; `None`: the user has no home, so nothing is kept.
fn folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(base.join("anabranch").join("code"))
}

fn path(engine: &Engine, digest: &str) -> Option<PathBuf> {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Some(folder()?.join(format!("{digest}-{:016x}.cwasm", hasher.finish())))
}

/// The compiled code of a component, if it was kept and is sound.
pub fn load(engine: &Engine, digest: &str) -> Option<Component> {
    let path = path(engine, digest)?;
    let metadata = fs::metadata(&path).ok()?;
    // A file that others may write is not ours to trust; 0 stands for files of a user that runs as root.
    let own = fs::metadata(path.parent()?).ok()?.uid() == metadata.uid();
    if !own || metadata.permissions().mode() & 0o077 != 0 {
        return None;
    }
    let bytes = fs::read(&path).ok()?;
    let (kept, code) = bytes.split_at_checked(DIGEST_LEN)?;
    if Sha256::digest(code).as_slice() != kept {
        return None;
    }
    // SAFETY: the bytes are those that `store` wrote from a component that this engine compiled: mode and owner keep others out, the
    // digest keeps damage out, and wasmtime itself refuses code of another version or configuration.
    unsafe { Component::deserialize(engine, code) }.ok()
}

/// Keeps compiled code; a cache that cannot be written costs time at the next start, nothing else.
pub fn store(engine: &Engine, digest: &str, component: &Component) {
    let kept = || -> Option<()> {
        let path = path(engine, digest)?;
        let folder = path.parent()?;
        fs::create_dir_all(folder).ok()?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).ok()?;
        let code = component.serialize().ok()?;
        let temporary = folder.join(format!("{digest}-{}.tmp", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).ok()?;
        file.write_all(&Sha256::digest(&code)).ok()?;
        file.write_all(&code).ok()?;
        file.sync_all().ok()?;
        fs::rename(&temporary, &path).ok()
    };
    if kept().is_none() {
        tracing::debug!(digest, "compiled code is not kept");
    }
}
