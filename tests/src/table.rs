//! Delta tables as a reader sees them, without the code that writes them.
//!
//! Invariant: rows come from the data files that the table's log names now, and each value says its type.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use deltalake::DeltaTable;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use url::Url;

use crate::block_on;

/// A value of a table.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub enum Cell {
    /// No value.
    Null,
    /// Boolean.
    Bool(bool),
    /// byte, short and integer.
    Int(i32),
    /// long.
    Long(i64),
    /// float.
    Float(f32),
    /// double.
    Double(f64),
    /// string.
    Text(String),
    /// binary.
    Bytes(Vec<u8>),
    /// Unscaled value, precision, scale.
    Decimal(i128, u8, i8),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
    /// Microseconds since 1970, no zone.
    LocalTimestamp(i64),
    /// array.
    List(Vec<Cell>),
    /// map, sorted by key.
    Map(BTreeMap<String, Cell>),
    /// struct.
    Struct(BTreeMap<String, Cell>),
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }
}

/// A row: values by column.
pub type Row = BTreeMap<String, Cell>;

/// All rows of the table in a folder; none where there is no table yet.
pub fn rows(folder: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for (file, partition) in files(folder) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap()).unwrap().build().unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            for index in 0..batch.num_rows() {
                let schema = batch.schema();
                let named = schema.fields().iter().zip(batch.columns()).map(|(field, column)| (field.name().clone(), cell(column, index)));
                rows.push(named.chain(partition.clone()).collect());
            }
        }
    }
    rows
}

/// One column of 64-bit integers; quick for large tables. None where there is no table yet.
pub fn longs(folder: &Path, column: &str) -> Vec<i64> {
    if !is_there(folder) {
        return Vec::new();
    }
    longs_of(folder, &open(folder), column)
}

/// The same of the version that was opened.
pub fn longs_of(folder: &Path, table: &DeltaTable, column: &str) -> Vec<i64> {
    let mut values = Vec::new();
    for (file, _) in files_of(folder, table) {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap()).unwrap();
        let mask = ProjectionMask::columns(builder.parquet_schema(), [column]);
        for batch in builder.with_projection(mask).build().unwrap() {
            let batch = batch.unwrap();
            values.extend(batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    values
}

/// How many rows the table in a folder has, counted in its data files.
pub fn count(folder: &Path) -> usize {
    let count = files(folder).into_iter().map(|(file, _)| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
        reader.metadata().file_metadata().num_rows() as usize
    });
    count.sum()
}

/// Whether there is a table: the folder of its log is made before the first entry.
fn is_there(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder.join("_delta_log"));
    entries.into_iter().flatten().any(|entry| entry.unwrap().path().extension().is_some_and(|end| end == "json"))
}

/// The table in a folder, opened now.
pub fn open(folder: &Path) -> DeltaTable {
    let url = Url::from_directory_path(folder).unwrap();
    block_on(deltalake::open_table(url)).unwrap_or_else(|error| panic!("table {}: {error}", folder.display()))
}

/// Data files, each with the values of the partition columns, as text.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Row)> {
    if !is_there(folder) {
        return Vec::new();
    }
    files_of(folder, &open(folder))
}

fn files_of(folder: &Path, table: &DeltaTable) -> Vec<(std::path::PathBuf, Row)> {
    let state = table.snapshot().unwrap();
    let log = state.log_data();
    let files = log.iter().map(|file| {
        let values = file.remove_action(false).partition_values.unwrap_or_default();
        let values = values.into_iter().map(|(name, value)| (name, value.map_or(Cell::Null, Cell::Text)));
        (folder.join(file.path().as_ref()), values.collect())
    });
    files.collect()
}

fn cell(array: &ArrayRef, index: usize) -> Cell {
    if array.is_null(index) {
        return Cell::Null;
    }
    let all = |items: ArrayRef| (0..items.len()).map(|index| cell(&items, index)).collect::<Vec<_>>();
    match array.data_type() {
        DataType::Boolean => Cell::Bool(array.as_boolean().value(index)),
        DataType::Int8 => Cell::Int(array.as_primitive::<Int8Type>().value(index).into()),
        DataType::Int16 => Cell::Int(array.as_primitive::<Int16Type>().value(index).into()),
        DataType::Int32 => Cell::Int(array.as_primitive::<Int32Type>().value(index)),
        DataType::Int64 => Cell::Long(array.as_primitive::<Int64Type>().value(index)),
        DataType::Float32 => Cell::Float(array.as_primitive::<Float32Type>().value(index)),
        DataType::Float64 => Cell::Double(array.as_primitive::<Float64Type>().value(index)),
        DataType::Utf8 => Cell::text(array.as_string::<i32>().value(index)),
        DataType::Binary => Cell::Bytes(array.as_binary::<i32>().value(index).to_vec()),
        DataType::Decimal128(precision, scale) => Cell::Decimal(array.as_primitive::<Decimal128Type>().value(index), *precision, *scale),
        DataType::Date32 => Cell::Date(array.as_primitive::<Date32Type>().value(index)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let value = array.as_primitive::<TimestampMicrosecondType>().value(index);
            if zone.is_some() { Cell::Timestamp(value) } else { Cell::LocalTimestamp(value) }
        }
        DataType::List(_) => Cell::List(all(array.as_list::<i32>().value(index))),
        DataType::Map(..) => {
            let entries = array.as_map().value(index);
            let keys = entries.column(0).as_string::<i32>();
            Cell::Map(keys.iter().map(|key| key.unwrap().to_owned()).zip(all(entries.column(1).clone())).collect())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            Cell::Struct(fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), cell(column, index))).collect())
        }
        other => panic!("a column of type {other}: no Delta table has it"),
    }
}
