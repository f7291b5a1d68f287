//! Values at the ends of their types: a table that holds them stays readable, and what its log says of them is true.

use apache_avro::types::Value as Avro;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Date32Type, Decimal128Type, TimestampMicrosecondType};

use super::lake::Lake;
use super::route::{Route, one_table, send};
use crate::sink::delta::read_table;

const SCHEMA: &str = r#"{"type":"record","name":"Extremes","fields":[
{"name":"wide","type":{"type":"bytes","logicalType":"decimal","precision":38,"scale":10}},
{"name":"whole","type":{"type":"bytes","logicalType":"decimal","precision":38,"scale":0}},
{"name":"on","type":{"type":"int","logicalType":"date"}},
{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
{"name":"inner","type":{"type":"record","name":"Inner","fields":[{"name":"days","type":{"type":"array","items":{"type":"int","logicalType":"date"}}}]}},
{"name":"by_name","type":{"type":"map","values":{"type":"int","logicalType":"date"}}}]}"#;

const NINES: i128 = 99_999_999_999_999_999_999_999_999_999_999_999_999;

fn row(decimal: i128, days: i32, micros: i64) -> Avro {
    let decimal = || Avro::Decimal(apache_avro::Decimal::from(decimal.to_be_bytes()));
    Avro::Record(vec![
        ("wide".into(), decimal()),
        ("whole".into(), decimal()),
        ("on".into(), Avro::Date(days)),
        ("at".into(), Avro::TimestampMicros(micros)),
        ("inner".into(), Avro::Record(vec![("days".into(), Avro::Array(vec![Avro::Date(days)]))])),
        ("by_name".into(), Avro::Map([("a".to_owned(), Avro::Date(days))].into())),
    ])
}

#[tokio::test]
async fn decimals_dates_and_instants_beyond_what_statistics_can_say_are_written_and_read() {
    // The last two are what Debezium makes of a database's infinite dates and instants.
    let ends = [(0, 0, 0), (NINES, i32::MAX, i64::MAX), (-NINES, i32::MIN, i64::MIN), (1, 2_146_033_979, 9_223_371_331_200_000_000)];
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let rows: Vec<_> = ends.iter().map(|(decimal, days, micros)| Some(row(*decimal, *days, *micros))).collect();
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, route.piece(slot, 0, 0, SCHEMA, &rows));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(route.committable(slot), Some(4));

    // A restart opens the table again.
    let batches = read_table(&lake.uri()).await.expect("a table that can be read");
    let batch = &batches[0];
    let column = |name: &str| batch.column_by_name(name).expect("a column");
    for name in ["wide", "whole"] {
        assert_eq!(column(name).as_primitive::<Decimal128Type>().values(), &ends.map(|(decimal, ..)| decimal));
    }
    assert_eq!(column("on").as_primitive::<Date32Type>().values(), &ends.map(|(_, days, _)| days));
    assert_eq!(column("at").as_primitive::<TimestampMicrosecondType>().values(), &ends.map(|(.., micros)| micros));
    assert_eq!(column("inner").len(), 4);

    let log = std::fs::read_to_string(lake.path().join("_delta_log/00000000000000000001.json")).expect("the commit of the rows");
    for name in ["wide", "whole", "on", "at"] {
        assert!(!log.contains(&format!("\\\"{name}\\\":")), "statistics of {name} in {log}");
    }
}

#[tokio::test]
async fn what_statistics_can_say_stays_in_the_log_for_readers_that_skip_files() {
    let schema = r#"{"type":"record","name":"Usual","fields":[
        {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
        {"name":"on","type":{"type":"int","logicalType":"date"}}]}"#;
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let row = |cents: i32, days: i32| {
        let price = Avro::Decimal(apache_avro::Decimal::from(cents.to_be_bytes()));
        Some(Avro::Record(vec![("price".into(), price), ("on".into(), Avro::Date(days))]))
    };
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, route.piece(slot, 0, 0, schema, &[row(1234, 2_932_896), row(-5, -719_162)]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    let log = std::fs::read_to_string(lake.path().join("_delta_log/00000000000000000001.json")).expect("the commit of the rows");
    let add =
        log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")).find_map(|line| line.get("add").cloned());
    let stats: serde_json::Value = serde_json::from_str(add.expect("a file")["stats"].as_str().expect("statistics")).expect("JSON");
    assert_eq!(stats["minValues"], serde_json::json!({"price": -0.05, "on": "0001-01-01"}));
    assert_eq!(stats["maxValues"], serde_json::json!({"price": 12.34, "on": "9999-12-31"}));
}
