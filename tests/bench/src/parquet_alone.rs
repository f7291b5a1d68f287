//! The baseline of the table rows: Arrow columns and Parquet files of the same orders, with nothing around them.

use std::fs::File;
use std::time::Instant;

use anabranch::value::{Appender, Format, Rows, Schema, Value, table_fields};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::orders::{Form, Orders};

/// Arguments of the baseline.
#[derive(Debug, clap::Args)]
pub struct Alone {
    #[arg(long)]
    records: usize,
    #[arg(long)]
    folder: std::path::PathBuf,
}

/// Orders that are made before the clock starts, and written again and again; so many are a file.
const ORDERS: usize = 200_000;

/// Appends orders to columns and writes them. Prints the seconds that it took.
pub fn write(arguments: &Alone) {
    let text = Form::AvroSmall.schema().expect("it is Avro");
    let schema = Schema::avro(&text, &[]).expect("the schema is good");
    let mut orders = Orders::new(Form::AvroSmall, 1, 7);
    let (mut key, mut values) = (Vec::new(), vec![Vec::new(); ORDERS]);
    values.iter_mut().for_each(|value| orders.next(&mut key, value));
    let fields = table_fields(&schema);
    let appender = Appender::new(&schema, &fields).expect("the columns are made for it");
    let started = Instant::now();
    for number in 0..arguments.records.div_ceil(ORDERS) {
        let mut rows = Rows::new(&fields).expect("the columns are good");
        for value in &values {
            let value = Value { format: Format::Avro, schema: Some(&schema), bytes: &value[5..] };
            rows.append(&appender, value).expect("the order fits");
        }
        let batch = rows.finish().expect("the rows are whole");
        let level = ZstdLevel::try_new(1).expect("1 is a level");
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let file = File::create(arguments.folder.join(format!("{number}.parquet"))).expect("the folder can be written");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("the columns are good");
        writer.write(&batch).expect("the disk has room");
        writer.close().expect("the disk has room");
    }
    println!("{} 0", started.elapsed().as_secs_f64());
}
