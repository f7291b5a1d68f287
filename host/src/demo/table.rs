//! Reading back the demo's table, independently of the sink that wrote it.
//!
//! Invariant: rows are counted in the data files that the table's log names, not in what the log says of them.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use url::Url;

/// What is in a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Rows.
    pub rows: u64,
    /// Data files.
    pub files: u64,
    /// Bytes of the data files.
    pub bytes: u64,
    /// Table commits.
    pub commits: u64,
}

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its log.
    #[error("the log of the table in {folder}: {source}")]
    Log {
        /// The folder.
        folder: String,
        /// What is wrong.
        source: Box<deltalake::DeltaTableError>,
    },
    /// A data file.
    #[error("data file {file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// Reads the table in `folder`; one that was never written has nothing in it.
///
/// # Errors
/// See [`ReadError`].
pub async fn contents(folder: &Path) -> Result<Contents, ReadError> {
    if !folder.join("_delta_log").is_dir() {
        return Ok(Contents::default());
    }
    let shown = folder.display().to_string();
    let log = |source| ReadError::Log { folder: shown.clone(), source: Box::new(source) };
    let url =
        Url::from_directory_path(folder).map_err(|()| ReadError::File { file: shown.clone(), reason: "not an absolute path".into() })?;
    let table = deltalake::open_table(url).await.map_err(log)?;
    let snapshot = table.snapshot().map_err(log)?;
    let mut contents = Contents { commits: snapshot.version() as u64, ..Contents::default() };
    for file in snapshot.log_data().iter() {
        let path = folder.join(file.path().as_ref());
        let (rows, bytes) = rows_and_bytes(&path).map_err(|reason| ReadError::File { file: path.display().to_string(), reason })?;
        contents.rows += rows;
        contents.bytes += bytes;
        contents.files += 1;
    }
    Ok(contents)
}

fn rows_and_bytes(path: &Path) -> Result<(u64, u64), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
    Ok((reader.metadata().file_metadata().num_rows() as u64, bytes))
}
