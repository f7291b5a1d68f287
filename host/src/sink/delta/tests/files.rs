//! What stands in the files of a table: all rows, however many chunks they were gathered in, and encodings that suit the values.

use std::fs::File;

use apache_avro::types::Value as Avro;
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::lake::Lake;
use super::route::{Route, one_table, send};
use crate::sink::delta::read_table;

const SCHEMA: &str = r#"{"type":"record","name":"Order","fields":[
{"name":"id","type":"long"},{"name":"customer","type":"string"},{"name":"status","type":"string"},{"name":"coupon","type":["null","string"]}]}"#;
const PIECE: i64 = 1_000;
/// Some megabytes, which are several chunks.
const ROWS: i64 = 60_000;

fn status(id: i64) -> &'static str {
    ["NEW", "PAID", "SENT", "DONE"][id as usize % 4]
}

fn coupon(id: i64) -> Option<String> {
    (id % 3 == 0).then(|| format!("{}% off", id % 50))
}

fn row(id: i64) -> Option<Avro> {
    let coupon = coupon(id).map_or(Avro::Union(0, Box::new(Avro::Null)), |text| Avro::Union(1, Box::new(Avro::String(text))));
    Some(Avro::Record(vec![
        ("id".into(), Avro::Long(id)),
        ("customer".into(), Avro::String(format!("customer number {id}"))),
        ("status".into(), Avro::String(status(id).to_owned())),
        ("coupon".into(), coupon),
    ]))
}

#[tokio::test]
async fn rows_of_several_chunks_are_there_in_order_and_values_that_hardly_repeat_have_no_dictionary() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&one_table(&lake));
    for first in (0..ROWS).step_by(PIECE as usize) {
        send(&outbox, route.piece(slot, 0, first, SCHEMA, &(first..first + PIECE).map(row).collect::<Vec<_>>()));
    }
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(route.committable(slot), Some(ROWS));

    let mut next = 0;
    for batch in read_table(&lake.uri()).await.expect("a table that can be read") {
        let text = |name: &str| batch.column_by_name(name).expect("a column").as_string::<i32>().clone();
        let ids = batch.column_by_name("id").expect("a column").as_primitive::<Int64Type>();
        let (customers, states, coupons) = (text("customer"), text("status"), text("coupon"));
        for at in 0..batch.num_rows() {
            let seen = coupons.is_valid(at).then(|| coupons.value(at).to_owned());
            assert_eq!(ids.value(at), next);
            assert_eq!((customers.value(at), states.value(at), seen), (&*format!("customer number {next}"), status(next), coupon(next)));
            next += 1;
        }
    }
    assert_eq!(next, ROWS);

    let files = std::fs::read_dir(lake.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut looked_at = 0;
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "parquet")) {
        let reader = SerializedFileReader::new(File::open(file).expect("a file")).expect("Parquet");
        let group = reader.metadata().row_group(0);
        let has_dictionary = group.columns().iter().map(|column| column.dictionary_page_offset().is_some());
        assert_eq!(has_dictionary.collect::<Vec<_>>(), [false, false, true, true]);
        looked_at += 1;
    }
    assert!(looked_at > 0);
}
