//! What a row costs, beside what Arrow and Parquet alone cost for the same rows in the same run.

use std::time::{Duration, Instant};

use apache_avro::types::Value as Avro;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::lake::Lake;
use super::route::{Route, SINK_MAX, one_table, send};
use crate::sink::delta::{read_table, row_count};
use crate::sink::{Piece, Sink};
use crate::value::{Appender, Rows, table_fields};

const ORDER_OF_12: &str = r#"{"type":"record","name":"Order","fields":[
{"name":"id","type":"long"},{"name":"customer","type":"long"},{"name":"status","type":"string"},{"name":"sku","type":"string"},
{"name":"quantity","type":"int"},{"name":"price","type":"double"},{"name":"currency","type":"string"},{"name":"paid","type":"boolean"},
{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},{"name":"city","type":["null","string"],"default":null},
{"name":"discount","type":["null","double"],"default":null},{"name":"note","type":"string"}]}"#;

fn order_of_12(id: i64) -> Avro {
    let text = |text: &str| Avro::String(text.to_owned());
    let optional = |value: Option<Avro>| value.map_or(Avro::Union(0, Box::new(Avro::Null)), |value| Avro::Union(1, Box::new(value)));
    Avro::Record(vec![
        ("id".into(), Avro::Long(id)),
        ("customer".into(), Avro::Long(id * 7919 % 50_000)),
        ("status".into(), text(["NEW", "PAID", "SENT", "DONE"][id as usize % 4])),
        ("sku".into(), text(&format!("sku-{}", id * 31 % 5_000))),
        ("quantity".into(), Avro::Int((id % 9) as i32 + 1)),
        ("price".into(), Avro::Double((id % 10_000) as f64 / 100.0)),
        ("currency".into(), text(["EUR", "GBP", "USD"][id as usize % 3])),
        ("paid".into(), Avro::Boolean(id % 2 == 0)),
        ("at".into(), Avro::TimestampMicros(1_700_000_000_000_000 + id * 1_000)),
        ("city".into(), optional((id % 3 > 0).then(|| text(["Köln", "York", "Oslo"][id as usize % 3])))),
        ("discount".into(), optional((id % 5 == 0).then_some(Avro::Double(0.1)))),
        ("note".into(), text("")),
    ])
}

/// Arrow and Parquet alone: the same values into the same columns, and those into one file.
fn floor(pieces: &[Piece]) -> (Duration, Duration, usize) {
    let entry = pieces[0].outputs.schemas.get(1).expect("a schema").clone();
    let fields = table_fields(&entry.schema);
    let started = Instant::now();
    let mut rows = Rows::new(&fields).expect("columns");
    let appender = Appender::new(&entry.schema, &fields).expect("fits");
    for piece in pieces {
        for view in piece.iter() {
            rows.append(&appender, view.value().expect("a value")).expect("fits");
        }
    }
    let batch = rows.finish().expect("rows");
    let arrow = started.elapsed();
    let started = Instant::now();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("a level"))).build();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    (arrow, started.elapsed(), file.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_costs_little_more_than_arrow_and_parquet_for_it() {
    // Few in the suite, where this only has to run; many to measure: ANABRANCH_SPEED_ROWS=2000000.
    let wanted = std::env::var("ANABRANCH_SPEED_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_480_usize);
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    // The same 1024 values again and again: making them is not what is measured.
    let values: Vec<_> = (0..1024).map(|id| Some(order_of_12(id))).collect();
    let pieces: Vec<_> = (0..wanted / 1024).map(|piece| route.piece(slot, 0, piece as i64 * 1024, ORDER_OF_12, &values)).collect();
    let count: usize = pieces.iter().map(Piece::len).sum();
    let (arrow, parquet, size) = floor(&pieces);

    let (outbox, inbox) = route.urgency.inbox();
    let sink = super::super::Delta::new(&one_table(&lake), route.around.clone()).expect("a place");
    pieces.into_iter().for_each(|piece| send(&outbox, piece));
    drop(outbox);
    let started = Instant::now();
    tokio::time::timeout(SINK_MAX, sink.run(inbox)).await.expect("the sink ends in time").expect("written");
    let whole = started.elapsed();
    assert_eq!(row_count(&lake.uri()).await.expect("a count"), count as u64);
    assert_eq!(read_table(&lake.uri()).await.expect("rows").iter().map(|batch| batch.num_rows()).sum::<usize>(), count);

    let each = |time: Duration| time.as_nanos() as f64 / count as f64;
    let floor = each(arrow) + each(parquet);
    println!(
        "{count} rows of 12 columns: sink {:.0} ns a row ({:.2} M rows/s); Arrow alone {:.0}, Parquet alone {:.0} ({} B a row); ratio {:.2}",
        each(whole),
        1e3 / each(whole),
        each(arrow),
        each(parquet),
        size / count,
        each(whole) / floor
    );
}
