//! Rows into Parquet files: one per combination of partition values, with statistics for readers that skip files.
//!
//! Invariant: when this returns, every file that is named is complete and, on a local file system, on the disk. A file that no
//! commit names is harmless: nobody reads it, and VACUUM removes it.

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch};
use arrow::datatypes::{DataType, Date32Type, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use deltalake::kernel::Add;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use parquet::basic::{Compression as Pages, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use url::Url;

use super::config::Compression;
use super::table::TableError;

/// A decimal of so many digits is the same number as a float (IEEE 754 binary64).
const DECIMAL_DIGITS_MAX: u8 = 15;
/// The years 1 to 9999, in days and in microseconds since 1970.
const DAYS: RangeInclusive<i32> = -719_162..=2_932_896;
const MICROS: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

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
            .with_writer_properties(properties(&layout, &batches)?);
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

fn properties(layout: &Layout, batches: &[RecordBatch]) -> Result<WriterProperties, TableError> {
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
    let mut silent = Vec::new();
    for (index, field) in layout.schema.fields().iter().enumerate() {
        let arrays: Vec<ArrayRef> = batches.iter().map(|batch| batch.column(index).clone()).collect();
        without_statistics(&arrays, field, &mut Vec::new(), &mut silent);
        if is_varied(&arrays) {
            let path = ColumnPath::from(vec![field.name().clone()]);
            properties = properties.set_column_dictionary_enabled(path, false);
        }
    }
    for path in silent {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(path), EnabledStatistics::None);
    }
    Ok(properties.build())
}

/// How many values of a column are looked at, and how many of a hundred of them are different where a dictionary is not worth it.
const SAMPLE: usize = 4_096;
const VARIED_PERCENT: usize = 99;

/// Whether hardly a value comes twice: looking each of them up costs as much as writing it, and the dictionary would be as long as the
/// column, until Parquet's writer gives it up in the middle.
fn is_varied(arrays: &[ArrayRef]) -> bool {
    let rows: usize = arrays.iter().map(|array| array.len()).sum();
    let step = rows.div_ceil(SAMPLE).max(1);
    let (mut hashes, hasher) = (Vec::new(), RandomState::new());
    for array in arrays {
        let data = array.to_data();
        let rows = (0..array.len()).step_by(step).filter(|row| array.is_valid(*row));
        match array.data_type() {
            DataType::Utf8 | DataType::Binary => {
                let (offsets, bytes) = (data.buffer::<i32>(0), data.buffers()[1].as_slice());
                hashes.extend(rows.map(|row| hasher.hash_one(&bytes[offsets[row] as usize..offsets[row + 1] as usize])));
            }
            numbers => {
                let Some(width) = numbers.primitive_width() else { return false };
                let bytes = &data.buffers()[0][data.offset() * width..];
                hashes.extend(rows.map(|row| hasher.hash_one(&bytes[row * width..][..width])));
            }
        }
    }
    let looked_at = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    hashes.len() * 100 > looked_at * VARIED_PERCENT
}

/// Adds the paths (as Parquet has them) of columns without statistics to `silent`: those of bytes, which have no order that a reader
/// could skip by, and those whose least or greatest value the log cannot say. It has decimals as floats, so that a wide one is rounded,
/// often beyond its own type; and days and instants as text of four-digit years. A wrong bound hides rows, and one that cannot be read
/// makes the table unreadable.
fn without_statistics(arrays: &[ArrayRef], field: &Field, parents: &mut Vec<String>, silent: &mut Vec<Vec<String>>) {
    parents.push(field.name().clone());
    let is_silent = match field.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => true,
        DataType::Decimal128(precision, _) => *precision > DECIMAL_DIGITS_MAX,
        DataType::Date32 => !all_within(arrays.iter().map(|array| array.as_primitive::<Date32Type>()), DAYS),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            !all_within(arrays.iter().map(|array| array.as_primitive::<TimestampMicrosecondType>()), MICROS)
        }
        DataType::Struct(fields) => {
            for (index, field) in fields.iter().enumerate() {
                let arrays: Vec<ArrayRef> = arrays.iter().map(|array| array.as_struct().column(index).clone()).collect();
                without_statistics(&arrays, field, parents, silent);
            }
            false
        }
        DataType::List(item) => {
            let arrays: Vec<ArrayRef> = arrays.iter().map(|array| array.as_list::<i32>().values().clone()).collect();
            parents.push("list".to_owned());
            without_statistics(&arrays, item, parents, silent);
            parents.pop();
            false
        }
        DataType::Map(entries, _) => {
            let arrays: Vec<ArrayRef> = arrays.iter().map(|array| Arc::new(array.as_map().entries().clone()) as ArrayRef).collect();
            without_statistics(&arrays, entries, parents, silent);
            false
        }
        _ => false,
    };
    if is_silent {
        silent.push(parents.clone());
    }
    parents.pop();
}

fn all_within<'a, T: ArrowPrimitiveType>(mut arrays: impl Iterator<Item = &'a PrimitiveArray<T>>, range: RangeInclusive<T::Native>) -> bool
where
    T::Native: PartialOrd,
{
    arrays.all(|array| array.iter().flatten().all(|value| range.contains(&value)))
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
