//! The whole sink, piece by piece: what is in the table, and what may be committed to Kafka.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use apache_avro::types::Value as Avro;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use tokio::time::Instant;

use super::lake::Lake;
use super::route::{ORDER, ORDER_AND_CITY, ORDER_WITH_TEXT_ID, Route, one_table, order, send, until, with_change, with_destinations};
use crate::config::{ByteSize, DurationText};
use crate::output::Change;
use crate::sink::delta::config::{Batch, Column, Metadata, OnChange, OnDoubt};
use crate::sink::delta::{Config, probe, read_table, row_count};
use crate::sink::{Message, SinkError};
use crate::stop::StopReason;
use crate::value::Format;

/// Every piece a commit of its own, as soon as nothing else is under way.
fn at_once(lake: &Lake) -> Config {
    Config { batch: Batch { rows_max: 1, ..Batch::default() }, ..one_table(lake) }
}

#[tokio::test]
async fn what_comes_is_in_the_table_once_the_route_ends() {
    let (lake, route) = (Lake::new(), Route::new());
    let (slot, other) = (route.assign(0), route.assign(1));
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, route.orders(slot, 0, 0, &[1, 2, 3]));
    send(&outbox, route.orders(other, 1, 0, &[11, 12]));
    send(&outbox, route.orders(slot, 0, 5, &[4]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3, 4, 11, 12]);
    assert_eq!(row_count(&lake.uri()).await.expect("a count"), 6);
    assert_eq!((route.committable(slot), route.committable(other)), (Some(6), Some(2)));
    assert_eq!(route.around.metrics.outputs.get(), 6);
    assert_eq!(lake.log_entries().len(), 2, "one commit creates the table, one holds everything");
}

#[tokio::test]
async fn after_a_crash_between_commit_and_settling_nothing_is_there_twice() {
    let lake = Lake::new();
    // Each run is a process of its own; none of the first ones' offsets reach Kafka.
    for _ in 0..3 {
        let route = Route::new();
        let (slot, other) = (route.assign(0), route.assign(1));
        let (outbox, task) = route.start(&one_table(&lake));
        send(&outbox, route.orders(slot, 0, 0, &[1, 2, 3]));
        send(&outbox, route.orders(other, 1, 7, &[11, 12]));
        drop(outbox);
        task.await.expect("no panic").expect("written");
        assert_eq!(route.committable(slot), Some(3), "what the table holds is settled");
    }
    let route = Route::new();
    let slot = route.assign(0);
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, route.orders(slot, 0, 1, &[2, 3, 4, 5]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3, 4, 5, 11, 12]);
    assert_eq!(route.around.metrics.skipped.get(), 2);
}

#[tokio::test]
async fn a_second_owner_fences_the_first_whose_partition_is_read_again() {
    let lake = Lake::new();
    let (zombie, owner) = (Route::new(), Route::new());
    let (at_zombie, at_owner) = (zombie.assign(0), owner.assign(0));
    let (to_zombie, first) = zombie.start(&at_once(&lake));
    send(&to_zombie, zombie.orders(at_zombie, 0, 0, &[1, 2]));
    zombie.settled(at_zombie, 2).await;

    let (to_owner, second) = owner.start(&at_once(&lake));
    send(&to_owner, owner.orders(at_owner, 0, 2, &[3, 4]));
    owner.settled(at_owner, 4).await;

    send(&to_zombie, zombie.orders(at_zombie, 0, 2, &[3]));
    let mut rewinds = Vec::new();
    until("a rewind", || {
        rewinds = zombie.acks.take_rewinds();
        !rewinds.is_empty()
    })
    .await;
    let rewind = rewinds.remove(0);
    assert_eq!((rewind.from, rewind.reason), (Some(2), "another owner has committed to the table"));
    // Read again, what the other owner wrote is known.
    zombie.acks.rewound(rewind.slot);
    send(&to_zombie, zombie.orders(rewind.slot, 0, 2, &[3, 4, 5]));
    drop((to_zombie, to_owner));
    first.await.expect("no panic").expect("written");
    second.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3, 4, 5]);
    assert_eq!(zombie.committable(rewind.slot), Some(5));
}

#[tokio::test]
async fn behind_a_batch_that_was_dropped_nothing_is_written_until_it_came_again() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&at_once(&lake));
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    route.settled(slot, 1).await;
    // A plugin wants these again; what is behind them is on its way already.
    drop(route.orders(slot, 0, 1, &[2]));
    send(&outbox, route.orders(slot, 0, 2, &[3]));
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lake.ids().await, [1], "the ledger never goes over a gap");
    let rewind = route.acks.take_rewinds().remove(0);
    route.acks.rewound(rewind.slot);
    send(&outbox, route.orders(rewind.slot, 0, 1, &[2, 3]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3]);
}

#[tokio::test]
async fn rows_of_a_partition_that_left_are_not_written_and_others_are() {
    let (lake, route) = (Lake::new(), Route::new());
    let (leaves, stays) = (route.assign(0), route.assign(1));
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, route.orders(leaves, 0, 0, &[1, 2]));
    send(&outbox, route.orders(stays, 1, 0, &[11]));
    send(&outbox, route.orders(leaves, 0, 2, &[3]));
    route.acks.revoke(&[leaves], |_| {});
    outbox.send(Message::Abandon(leaves));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [11]);
    assert_eq!(route.committable(stays), Some(1));
}

#[tokio::test]
async fn a_partition_that_comes_back_goes_on_where_its_new_owner_stopped() {
    let (lake, route, other) = (Lake::new(), Route::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&at_once(&lake));
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    route.settled(slot, 1).await;
    route.acks.revoke(&[slot], |_| {});
    outbox.send(Message::Abandon(slot));

    let theirs = other.assign(0);
    let (to_other, second) = other.start(&at_once(&lake));
    send(&to_other, other.orders(theirs, 0, 1, &[2, 3]));
    drop(to_other);
    second.await.expect("no panic").expect("written");

    // Their commit to Kafka was lost: we read from before it.
    let back = route.assign(0);
    send(&outbox, route.orders(back, 0, 1, &[2, 3, 4]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3, 4]);
    assert_eq!(route.acks.take_rewinds().len(), 0, "the ledger is read when a partition comes, so nothing is fenced");
}

#[tokio::test]
async fn a_commit_waits_for_the_dead_letters_of_what_it_covers() {
    let (lake, mut route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&at_once(&lake));
    let values = [Some(order(1)), None, Some(order(3))];
    let piece = route.piece(slot, 0, 0, ORDER, &values);
    let broken = route.piece_of(slot, 0, 3, Format::Avro, route.schemas.register(ORDER).expect("a schema"), vec![Some(vec![0xff])]);
    send(&outbox, piece);
    send(&outbox, broken);
    send(&outbox, route.orders(slot, 0, 4, &[5]));
    // The tombstone is skipped; the first commit covers no letter.
    until("two rows", || route.around.metrics.outputs.get() >= 2).await;
    let letter = route.next_letter().await;
    let letter_text =
        letter.iter().next().expect("one").headers().iter().any(|(name, value)| *name == b"anabranch.class" && *value == Some(b"decode"));
    assert!(letter_text, "the letter says why");
    // Many times as long as a commit takes: one that does not wait has to show.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(500);
    while std::time::Instant::now() < until {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(lake.ids().await, [1, 3], "the letter is not durable, so what covers it is not committed");
    }
    assert_eq!(route.committable(slot), Some(3));
    letter.token.settle();
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 3, 5]);
    assert_eq!(route.committable(slot), Some(5));
    assert_eq!((route.around.metrics.given_up.get(), route.around.metrics.skipped.get()), (1, 1));
}

#[tokio::test]
async fn no_commit_covers_records_that_became_dead_letters_before_the_sink_before_those_are_durable() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&at_once(&lake));
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    until("the first row", || route.around.metrics.outputs.get() == 1).await;
    let (durable, waited) = tokio::sync::oneshot::channel();
    // Records 1 to 3 were given up by a plugin: nothing of them comes here but this.
    outbox.send(Message::Letters(slot, futures::FutureExt::shared(waited)));
    send(&outbox, route.orders(slot, 0, 4, &[5]));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(lake.ids().await, [1], "the ledger would cover records 1 to 3");
    durable.send(()).expect("it is waited for");
    until("the second row", || route.around.metrics.outputs.get() == 2).await;
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 5]);
}

#[tokio::test]
async fn a_dead_letter_that_is_lost_has_its_partition_read_again() {
    let (lake, mut route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&one_table(&lake));
    let handle = route.schemas.register(ORDER).expect("a schema");
    send(&outbox, route.piece_of(slot, 0, 0, Format::Avro, handle, vec![Some(vec![0xff])]));
    send(&outbox, route.orders(slot, 0, 1, &[2]));
    drop(route.next_letter().await);
    drop(outbox);
    task.await.expect("no panic").expect("ended");
    assert!(lake.ids().await.is_empty());
    assert_eq!(route.acks.take_rewinds().first().map(|rewind| rewind.from), Some(Some(0)));
}

#[tokio::test]
async fn dead_letters_come_in_no_order_and_none_is_taken_for_one_that_is_there() {
    let (lake, mut route) = (Lake::new(), Route::new());
    route.around.without_ledger = true;
    let slot = route.assign(0);
    let (outbox, task) = route.start(&at_once(&lake));
    // The decoder gives up a late record before a sink gives up an early one.
    let (early, late) = (route.orders(slot, 0, 0, &[1]), route.orders(slot, 0, 5, &[6]));
    send(&outbox, late);
    until("a row", || route.around.metrics.outputs.get() >= 1).await;
    send(&outbox, early);
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 6]);
    assert_eq!(route.committable(slot), Some(6));
}

#[tokio::test]
async fn without_a_place_for_dead_letters_nothing_behind_the_bad_record_is_committed() {
    let (lake, route) = (Lake::new(), Route::with_place(false));
    let slot = route.assign(0);
    let (outbox, task) = route.start(&one_table(&lake));
    let handle = route.schemas.register(ORDER).expect("a schema");
    send(&outbox, route.piece_of(slot, 0, 0, Format::Avro, handle, vec![Some(vec![0xff])]));
    send(&outbox, route.orders(slot, 0, 1, &[2]));
    drop(outbox);
    task.await.expect("no panic").expect("ended");
    assert!(lake.ids().await.is_empty());
    assert!(matches!(route.stop.reason(), Some(StopReason::DeadLetter(text)) if text.contains("orders/0 offset 0")));
}

#[tokio::test]
async fn columns_are_added_in_the_commit_that_needs_them() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    let Avro::Record(mut fields) = order(2) else { panic!("a record") };
    fields.push(("city".into(), Avro::Union(1, Box::new(Avro::String("Köln".into())))));
    send(&outbox, route.piece(slot, 0, 1, ORDER_AND_CITY, &[Some(Avro::Record(fields))]));
    send(&outbox, route.orders(slot, 0, 2, &[3]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    let mut found = Vec::new();
    for batch in read_table(&lake.uri()).await.expect("a table") {
        let (ids, cities) = (batch.column(0).as_primitive::<Int64Type>().clone(), batch.column(2).as_string::<i32>().clone());
        found.extend((0..batch.num_rows()).map(|row| (ids.value(row), cities.is_valid(row).then(|| cities.value(row).to_owned()))));
    }
    found.sort();
    assert_eq!(found, [(1, None), (2, Some("Köln".into())), (3, None)]);
    assert_eq!(lake.log_entries().len(), 2, "the columns came with the rows");
}

#[tokio::test]
async fn a_column_of_another_type_is_a_dead_letter_that_names_both_types() {
    let (lake, mut route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    let value = Avro::Record(vec![("id".into(), Avro::Array(vec![])), ("name".into(), Avro::String("x".into()))]);
    send(&outbox, route.piece(slot, 0, 1, ORDER_WITH_TEXT_ID, &[Some(value)]));
    let letter = route.next_letter().await;
    let headers = letter
        .iter()
        .next()
        .expect("one")
        .headers()
        .iter()
        .map(|(_, value)| String::from_utf8_lossy(value.unwrap_or_default()).into_owned())
        .collect::<Vec<_>>();
    assert!(headers.iter().any(|text| text.contains("\"id\"") && text.contains("Int64") && text.contains("List")), "{headers:?}");
    letter.token.settle();
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1]);
    assert_eq!(route.committable(slot), Some(2));
}

#[tokio::test]
async fn metadata_columns_say_where_a_row_comes_from() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(4);
    let name = |name: &str| Some(name.to_owned());
    let metadata = Metadata {
        topic: name("_topic"),
        partition: name("_partition"),
        offset: name("_offset"),
        timestamp: name("_at"),
        key: name("_key"),
    };
    let (outbox, task) = route.start(&Config { metadata, ..one_table(&lake) });
    send(&outbox, route.orders(slot, 4, 30, &[1, 2]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    let batches = read_table(&lake.uri()).await.expect("a table");
    let column = |name: &str| batches[0].column_by_name(name).expect("a column").clone();
    assert_eq!(column("_topic").as_string::<i32>().value(0), "orders");
    assert_eq!(column("_partition").as_primitive::<Int32Type>().value(1), 4);
    assert_eq!(column("_offset").as_primitive::<Int64Type>().value(1), 31);
    assert_eq!(column("_key").as_binary::<i32>().value(1), b"k1");
    let at = column("_at");
    assert_eq!(at.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(1), 1_700_000_000_001_000);
}

#[tokio::test]
async fn rows_lie_in_the_folder_of_their_partition_values() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let config = Config { partition_by: vec!["name".into()], ..one_table(&lake) };
    let (outbox, task) = route.start(&config);
    let named = |id, name: &str| Some(Avro::Record(vec![("id".into(), Avro::Long(id)), ("name".into(), Avro::String(name.into()))]));
    send(&outbox, route.piece(slot, 0, 0, ORDER, &[named(1, "a b"), named(2, "é/%"), named(3, "a b")]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    let mut found = Vec::new();
    for batch in read_table(&lake.uri()).await.expect("a table") {
        let (ids, names) = (batch.column(0).as_primitive::<Int64Type>().clone(), batch.column(1).as_string::<i32>().clone());
        found.extend((0..batch.num_rows()).map(|row| (ids.value(row), names.value(row).to_owned())));
    }
    found.sort();
    assert_eq!(found, [(1, "a b".into()), (2, "é/%".into()), (3, "a b".into())]);

    let (outbox, task) = route.start(&Config { partition_by: vec!["id".into()], ..one_table(&lake) });
    send(&outbox, route.orders(slot, 0, 3, &[4]));
    drop(outbox);
    let refused = task.await.expect("no panic");
    assert!(matches!(&refused, Err(SinkError::Configuration { reason, .. }) if reason.contains("partitioned by [name]")), "{refused:?}");
}

#[tokio::test]
async fn destinations_name_the_tables_below_a_root() {
    let (lake, mut route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let root = lake.folder.path().to_str().expect("a name").to_owned();
    let config = Config { root: Some(root.clone()), tables_max: 2, ..Config::default() };
    let (outbox, task) = route.start(&config);
    send(&outbox, with_destinations(route.orders(slot, 0, 0, &[1, 2, 3, 4]), &["shop/a", "shop/b"]));
    send(&outbox, with_destinations(route.orders(slot, 0, 4, &[5, 6, 7]), &["shop/a", "../x", "shop/c"]));
    let letters = route.next_letter().await;
    assert_eq!(letters.len(), 2, "one name leads out, one is a table too many");
    letters.token.settle();
    drop(outbox);
    task.await.expect("no panic").expect("written");
    for (name, rows) in [("shop/a", 3), ("shop/b", 2)] {
        assert_eq!(row_count(&format!("{root}/{name}")).await.expect("a count"), rows);
    }
    assert_eq!(route.committable(slot), Some(7));

    // Again, after a crash: each table has a ledger of its own.
    let again = Route::new();
    let slot = again.assign(0);
    let (outbox, task) = again.start(&config);
    send(&outbox, with_destinations(again.orders(slot, 0, 0, &[1, 2, 3, 4]), &["shop/a", "shop/b"]));
    send(&outbox, with_destinations(again.orders(slot, 0, 5, &[8]), &["shop/b"]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(row_count(&format!("{root}/shop/a")).await.expect("a count"), 3);
    assert_eq!(row_count(&format!("{root}/shop/b")).await.expect("a count"), 3);
}

#[tokio::test]
async fn changes_and_tombstones_are_what_the_configuration_makes_of_them() {
    for (on_change, rows, letters) in [(OnChange::Reject, 0, 1), (OnChange::Skip, 0, 0), (OnChange::Append, 1, 0)] {
        let (lake, mut route) = (Lake::new(), Route::new());
        let slot = route.assign(0);
        let (outbox, task) = route.start(&Config { on_change, ..one_table(&lake) });
        send(&outbox, with_change(route.orders(slot, 0, 0, &[1]), Change::Upsert));
        send(&outbox, with_change(route.orders(slot, 0, 1, &[2]), Change::Create));
        if letters > 0 {
            let letter = route.next_letter().await;
            letter.token.settle();
        }
        drop(outbox);
        task.await.expect("no panic").expect("written");
        assert_eq!(lake.ids().await.len(), rows + 1, "{on_change:?}");
        assert_eq!(route.around.metrics.given_up.get(), letters);
        assert_eq!(route.committable(slot), Some(2));
    }
}

#[tokio::test]
async fn values_without_a_schema_need_columns() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let json = |route: &Route, slot, first| {
        route.piece_of(slot, 0, first, Format::Json, 0, vec![Some(br#"{"id":7,"at":"2024-02-29T12:00:00Z","more":1}"#.to_vec())])
    };
    let (outbox, task) = route.start(&one_table(&lake));
    send(&outbox, json(&route, slot, 0));
    drop(outbox);
    let refused = task.await.expect("no panic");
    assert!(
        matches!(&refused, Err(SinkError::Configuration { reason, .. }) if reason.contains("`columns`") && reason.contains("orders/0 offset 0")),
        "{refused:?}"
    );

    let route = Route::new();
    let slot = route.assign(0);
    let column = |name: &str, data_type: &str| Column { name: name.into(), data_type: data_type.into() };
    let columns = vec![column("id", "long"), column("at", "timestamp"), column("price", "decimal(10,2)")];
    let (outbox, task) = route.start(&Config { columns, ..one_table(&lake) });
    send(&outbox, json(&route, slot, 0));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [7]);
}

#[tokio::test(start_paused = true)]
async fn rows_are_committed_at_their_age_by_count_and_by_bytes() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let batch = Batch { rows_max: 4, age_max: DurationText::s(10), ..Batch::default() };
    let (outbox, task) = route.start(&Config { batch, ..one_table(&lake) });
    let started = Instant::now();
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    send(&outbox, route.orders(slot, 0, 1, &[2]));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(route.committable(slot), None);
    until("a table commit", || route.committable(slot) == Some(2)).await;
    assert!(started.elapsed() >= Duration::from_secs(10) && started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    send(&outbox, route.orders(slot, 0, 2, &[3, 4, 5, 6]));
    let started = Instant::now();
    until("a table commit", || route.committable(slot) == Some(6)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "four rows are enough");
    drop(outbox);
    task.await.expect("no panic").expect("written");

    let batch = Batch { bytes_max: ByteSize::bytes(50), age_max: DurationText::s(1000), ..Batch::default() };
    let (outbox, task) = route.start(&Config { batch, ..one_table(&lake) });
    send(&outbox, route.orders(slot, 0, 6, &[7, 8, 9, 10, 11, 12]));
    let started = Instant::now();
    until("a table commit", || route.committable(slot) == Some(12)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "fifty bytes are enough");
    drop(outbox);
    task.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn what_is_urgent_is_committed_at_once() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&Config { batch: Batch { age_max: DurationText::s(1000), ..Batch::default() }, ..one_table(&lake) });
    send(&outbox, route.orders(slot, 0, 0, &[1, 2]));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(route.committable(slot), None);
    route.urgency.raise();
    route.settled(slot, 2).await;
    send(&outbox, route.orders(slot, 0, 2, &[3]));
    route.settled(slot, 3).await;
    route.urgency.lower();
    drop(outbox);
    task.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_waited_for() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&at_once(&lake));
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    route.settled(slot, 1).await;
    // A log that is a file refuses even the superuser, whom permissions do not stop.
    let log = lake.path().join("_delta_log");
    let aside = lake.path().join("aside");
    std::fs::rename(&log, &aside).expect("moved");
    std::fs::write(&log, b"in the way").expect("a file");
    std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o400)).expect("a mode");
    send(&outbox, route.orders(slot, 0, 1, &[2, 3]));
    until("the place to show as down", || !route.metrics.not_ready().is_empty()).await;
    assert_eq!(route.committable(slot), None);
    std::fs::remove_file(&log).expect("removed");
    std::fs::rename(&aside, &log).expect("moved back");
    route.settled(slot, 3).await;
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3]);
    assert_eq!(route.metrics.not_ready(), []);
    assert!(route.around.metrics.retries.get() > 0);
}

#[tokio::test]
async fn checkpoints_come_in_time_however_often_the_process_restarts() {
    let lake = Lake::new();
    let config = Config { checkpoint_interval: 7, ..at_once(&lake) };
    let mut next = 0;
    for _ in 0..8 {
        let route = Route::new();
        let slot = route.assign(0);
        let (outbox, task) = route.start(&config);
        for _ in 0..3 {
            send(&outbox, route.orders(slot, 0, next, &[next]));
            next += 1;
            route.settled(slot, next).await;
        }
        drop(outbox);
        task.await.expect("no panic").expect("written");
    }
    let checkpoints = lake.log_entries().into_iter().filter(|name| name.contains(".checkpoint")).count();
    assert!(checkpoints >= 3, "24 commits, one checkpoint in 7: {checkpoints}");
    assert_eq!(lake.ids().await, (0..24).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_table_ahead_under_another_decision_stops_and_explains() {
    let lake = Lake::new();
    let first = Route::new();
    let slot = first.assign(0);
    let (outbox, task) = first.start(&one_table(&lake));
    send(&outbox, first.orders(slot, 0, 0, &[1, 2, 3]));
    drop(outbox);
    task.await.expect("no panic").expect("written");

    let mut other = Route::new();
    other.around.decision = "d2".into();
    let slot = other.assign(0);
    let (outbox, task) = other.start(&one_table(&lake));
    send(&outbox, other.orders(slot, 0, 1, &[2, 3, 4]));
    drop(outbox);
    let stopped = task.await.expect("no panic");
    assert!(
        matches!(&stopped, Err(SinkError::Environment { reason, .. }) if reason.contains("on_other_decision") && reason.contains("up to offset 2")),
        "{stopped:?}"
    );
    assert_eq!(lake.ids().await, [1, 2, 3]);

    let mut accepting = Route::new();
    accepting.around.decision = "d2".into();
    let slot = accepting.assign(0);
    let (outbox, task) = accepting.start(&Config { on_other_decision: OnDoubt::Accept, ..one_table(&lake) });
    send(&outbox, accepting.orders(slot, 0, 1, &[2, 3, 4]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3, 4]);

    // Not ahead, no question: the group's offset is behind nothing.
    let mut later = Route::new();
    later.around.decision = "d3".into();
    let slot = later.assign(0);
    let (outbox, task) = later.start(&one_table(&lake));
    send(&outbox, later.orders(slot, 0, 4, &[5]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn a_record_that_another_decision_put_into_one_table_is_not_put_into_another() {
    let lake = Lake::new();
    let root = lake.folder.path().to_str().expect("a name").to_owned();
    let config = Config { root: Some(root.clone()), ..Config::default() };
    let former = Route::new();
    let slot = former.assign(0);
    let (outbox, task) = former.start(&config);
    send(&outbox, with_destinations(former.orders(slot, 0, 0, &[1, 2]), &["one"]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    // Killed before the offsets reached Kafka; the new plugin chooses another table.
    let mut new = Route::new();
    new.around.decision = "d2".into();
    let slot = new.assign(0);
    let (outbox, task) = new.start(&config);
    send(&outbox, with_destinations(new.orders(slot, 0, 0, &[1, 2]), &["two"]));
    drop(outbox);
    let stopped = task.await.expect("no panic");
    assert!(
        matches!(&stopped, Err(SinkError::Environment { reason, .. }) if reason.contains("/one") && reason.contains("on_other_decision")),
        "{stopped:?}"
    );
    assert!(row_count(&format!("{root}/two")).await.is_err(), "nothing was written");
}

#[tokio::test]
async fn a_table_that_was_restored_stops_the_sink() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&at_once(&lake));
    for at in 0..3 {
        send(&outbox, route.orders(slot, 0, at, &[at]));
        route.settled(slot, at + 1).await;
    }
    for version in 2..=3 {
        std::fs::remove_file(lake.path().join(format!("_delta_log/{version:020}.json"))).expect("a log entry");
    }
    send(&outbox, route.orders(slot, 0, 3, &[3]));
    let stopped = task.await.expect("no panic");
    assert!(matches!(&stopped, Err(SinkError::Environment { reason, .. }) if reason.contains("restored")), "{stopped:?}");
}

#[tokio::test]
async fn a_probe_says_what_is_in_the_way() {
    let lake = Lake::new();
    probe(&one_table(&lake)).await.expect("a folder that can be made");
    assert!(!lake.path().exists(), "a probe creates nothing");
    std::fs::write(lake.path(), b"x").expect("a file");
    assert!(probe(&one_table(&lake)).await.is_err_and(|reason| reason.contains("is a file")));
    std::fs::remove_file(lake.path()).expect("removed");
    lake.table(&["id"]).await;
    probe(&one_table(&lake)).await.expect("a table");
    let partitioned = Config { partition_by: vec!["id".into()], ..one_table(&lake) };
    assert!(probe(&partitioned).await.is_err_and(|reason| reason.contains("partitioned by []")));
}

#[tokio::test]
async fn a_partition_column_that_is_none_is_an_error_of_the_configuration() {
    let (lake, route) = (Lake::new(), Route::new());
    let slot = route.assign(0);
    let (outbox, task) = route.start(&Config { partition_by: vec!["day".into()], ..one_table(&lake) });
    send(&outbox, route.orders(slot, 0, 0, &[1]));
    let refused = task.await.expect("no panic");
    assert!(
        matches!(&refused, Err(SinkError::Configuration { reason, .. }) if reason.contains("\"day\"") && reason.contains("id, name")),
        "{refused:?}"
    );
    drop(outbox);
}
