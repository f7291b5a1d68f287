//! Rows into Parquet files: one per combination of partition values, with statistics for readers that skip files.
//!
//! Invariant: when this returns, every file that is named is complete and, on a local file system, on the disk. A file that no
//! commit names is harmless: nobody reads it, and VACUUM removes it.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use deltalake::kernel::Add;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use parquet::basic::{Compression as Pages, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use url::Url;

use super::config::Compression;
use super::table::TableError;

/// Where and how files are written.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The table's root.
    pub url: Url,
    /// All columns, in the table's order.
    pub schema: SchemaRef,
    /// Columns whose values stand in the path and not in the file.
    pub partition_by: Vec<String>,
    /// How pages are compressed.
    pub compression: Compression,
}

/// Writes rows to new files. Encoding runs on a thread for blocking work.
///
/// # Errors
/// Where a file cannot be written.
pub async fn write(layout: Layout, batches: Vec<RecordBatch>) -> Result<Vec<Add>, TableError> {
    let runtime = tokio::runtime::Handle::current();
    let adds = tokio::task::spawn_blocking(move || {
        let partition_by = (!layout.partition_by.is_empty()).then(|| layout.partition_by.clone());
        let mut writer = RecordBatchWriter::try_new(layout.url.as_str(), layout.schema.clone(), partition_by, None)?
            .with_writer_properties(properties(&layout)?);
        let adds = runtime.block_on(async {
            for batch in batches {
                writer.write(batch).await?;
            }
            writer.flush().await
        })?;
        for add in &adds {
            sync(local_path(&layout.url, &add.path))?;
        }
        Ok::<_, TableError>(adds)
    });
    adds.await.map_err(|error| TableError::Unavailable(error.to_string()))?
}

fn properties(layout: &Layout) -> Result<WriterProperties, TableError> {
    let compression = match layout.compression {
        Compression::Zstd => {
            let level = ZstdLevel::try_new(1).map_err(|error| TableError::Refused(error.to_string()))?;
            Pages::ZSTD(level)
        }
        Compression::Snappy => Pages::SNAPPY,
        Compression::None => Pages::UNCOMPRESSED,
    };
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        .set_created_by(concat!("anabranch ", env!("CARGO_PKG_VERSION")).to_owned());
    for field in layout.schema.fields() {
        // Bytes have no order that a reader could skip by.
        if matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_)) {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_statistics_enabled(column, EnabledStatistics::None);
        }
    }
    Ok(properties.build())
}

/// Where an object of a table on a local file system lies; `None`: it lies elsewhere.
pub fn local_path(root: &Url, object: &str) -> Option<PathBuf> {
    if root.scheme() != "file" {
        return None;
    }
    let mut url = root.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(object.split('/'));
    url.to_file_path().ok()
}

/// Makes a file and its name in the folder survive a loss of power. Object stores have done so when they answer.
///
/// # Errors
/// Where the disk refuses.
pub fn sync(path: Option<PathBuf>) -> Result<(), TableError> {
    let Some(path) = path else { return Ok(()) };
    let on_disk = || {
        std::fs::File::open(&path)?.sync_all()?;
        path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    };
    on_disk().map_err(|error: std::io::Error| TableError::Unavailable(format!("{}: {error}", path.display())))
}
