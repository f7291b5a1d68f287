//! The log of a table on a local file system, so that it survives a loss of power.
//!
//! Invariant: an entry gets its name when its bytes are on the disk, never before, and only if no other entry has the name: a
//! reader finds a whole entry or none.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use deltalake::kernel::Version;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::{DeltaResult, ObjectStore, ObjectStoreError};
use uuid::Uuid;

/// A log store of the library, with its own way to write entries.
#[derive(Clone)]
pub struct LocalLog {
    inner: LogStoreRef,
    folder: PathBuf,
}

impl LocalLog {
    /// The log in `folder`, read as `inner` does.
    pub fn new(inner: LogStoreRef, folder: PathBuf) -> Self {
        LocalLog { inner, folder }
    }
}

/// Writes an entry; the same name a second time is an error of kind `AlreadyExists`.
fn write_entry(folder: &Path, name: &str, entry: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let staged = folder.join(format!("_commit_{}.json.tmp", Uuid::new_v4()));
    let written = File::create_new(&staged).and_then(|mut file| {
        file.write_all(entry)?;
        file.sync_all()
    });
    // A link, unlike a rename, never replaces what is there.
    let linked = written.and_then(|()| fs::hard_link(&staged, folder.join(name)));
    // What is left over here is no entry, and is cleaned up with old ones.
    let _ = fs::remove_file(&staged);
    linked?;
    File::open(folder)?.sync_all()
}

#[async_trait::async_trait]
impl LogStore for LocalLog {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn read_commit_entry(&self, version: Version) -> DeltaResult<Option<Bytes>> {
        self.inner.read_commit_entry(version).await
    }

    async fn write_commit_entry(&self, version: Version, entry: CommitOrBytes, id: Uuid) -> Result<(), TransactionError> {
        let CommitOrBytes::LogBytes(bytes) = entry else {
            return self.inner.write_commit_entry(version, entry, id).await;
        };
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || write_entry(&folder, &format!("{version:020}.json"), &bytes)).await;
        match written.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(TransactionError::VersionAlreadyExists(version)),
            Err(error) => Err(ObjectStoreError::Generic { store: "local log", source: Box::new(error) }.into()),
        }
    }

    async fn abort_commit_entry(&self, version: Version, entry: CommitOrBytes, id: Uuid) -> Result<(), TransactionError> {
        self.inner.abort_commit_entry(version, entry, id).await
    }

    async fn get_latest_version(&self, start: Version) -> DeltaResult<Version> {
        self.inner.get_latest_version(start).await
    }

    fn object_store(&self, id: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.object_store(id)
    }

    fn root_object_store(&self, id: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.inner.root_object_store(id)
    }

    fn config(&self) -> &LogStoreConfig {
        self.inner.config()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_whole_and_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("_delta_log");
        write_entry(&log, "0.json", b"first").expect("written");
        let refused = write_entry(&log, "0.json", b"second").expect_err("taken");
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(log.join("0.json")).expect("there"), b"first");
        assert_eq!(fs::read_dir(&log).expect("a folder").count(), 1, "nothing is left over");
    }
}
