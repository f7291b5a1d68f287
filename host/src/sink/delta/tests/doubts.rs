//! When a table's ledger may not be believed: the sink stops and explains, and nothing is dropped on a wrong ledger's word.

use std::sync::Arc;

use super::lake::Lake;
use super::route::{Route, one_table, send, with_destinations};
use crate::ack::{Beginning, Holds, Slot, TopicPartition};
use crate::sink::SinkError;
use crate::sink::delta::config::OnDoubt;
use crate::sink::delta::read::ledger_positions;
use crate::sink::delta::table::Table;
use crate::sink::delta::{Config, row_count};

/// A process of its own writes these ids, from offset `first` on. Returns what the ledger is said to hold beside the commit.
async fn write(config: &Config, route: &Route, slot: Slot, first: i64, ids: &[i64]) -> Result<Holds, SinkError> {
    let (outbox, task) = route.start(config);
    send(&outbox, route.orders(slot, 0, first, ids));
    drop(outbox);
    task.await.expect("no panic")?;
    Ok(route.acks.take_committable(Some(&[slot])).remove(0).holds)
}

fn refused(result: Result<Holds, SinkError>) -> String {
    match result {
        Err(SinkError::Environment { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn begin(route: &Route, holds: Holds) -> Slot {
    let name = TopicPartition { topic: "orders".into(), partition: 0 };
    route.acks.begin(name, Beginning { start: Some(0), committed: true, holds, ..Beginning::default() })
}

fn with_id(id: &str) -> Route {
    let route = Route::new();
    route.around.logs.set_topic_ids([("orders".to_owned(), id.to_owned())]);
    route
}

#[tokio::test]
async fn a_ledger_ahead_of_the_end_of_its_partition_stops_and_explains() {
    let lake = Lake::new();
    let route = Route::new();
    write(&one_table(&lake), &route, route.assign(0), 0, &[1, 2, 3]).await.expect("written");

    let ends_at = |end: i64| {
        let route = Route::new();
        route.around.logs.ask(Some(Arc::new(move |_, _| Ok(end))));
        route
    };
    let route = ends_at(2);
    let text = refused(write(&one_table(&lake), &route, route.assign(0), 0, &[7, 8]).await);
    assert!(text.contains("orders/0 up to offset 2") && text.contains("ends at 2") && text.contains("ledger = "), "{text}");
    assert_eq!(lake.ids().await, [1, 2, 3]);
    let route = ends_at(3);
    write(&one_table(&lake), &route, route.assign(0), 0, &[1, 2, 3]).await.expect("the same log, read again");
    assert_eq!(lake.ids().await, [1, 2, 3]);

    // The choice: a ledger of its own.
    let renamed = Config { ledger: Some("orders-2".into()), ..one_table(&lake) };
    let route = ends_at(2);
    write(&renamed, &route, route.assign(0), 0, &[7, 8]).await.expect("written");
    assert_eq!(lake.ids().await, [1, 2, 3, 7, 8]);
}

#[tokio::test]
async fn while_nobody_knows_where_a_partition_ends_nothing_is_dropped() {
    let lake = Lake::new();
    let route = Route::new();
    write(&one_table(&lake), &route, route.assign(0), 0, &[1, 2, 3]).await.expect("written");

    let route = Route::new();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    route.around.logs.ask(Some(Arc::new(move |_, _| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0..2 => Err("no answer".into()),
        _ => Ok(3),
    })));
    write(&one_table(&lake), &route, route.assign(0), 0, &[1, 2, 3]).await.expect("written");
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_ledger_of_an_earlier_topic_of_the_same_name_stops_and_explains() {
    let lake = Lake::new();
    let route = with_id("first");
    write(&one_table(&lake), &route, route.assign(0), 0, &[1, 2, 3]).await.expect("written");
    let positions = ledger_positions(&one_table(&lake), "g", "lake").await.expect("readable");
    let name = TopicPartition { topic: "orders".into(), partition: 0 };
    assert_eq!(positions, [(name, 3, Some("first".into()))]);

    // The topic was made anew and has grown beyond the old one's end: offsets alone tell nothing.
    let route = with_id("second");
    route.around.logs.ask(Some(Arc::new(|_, _| Ok(1000))));
    let text = refused(write(&one_table(&lake), &route, route.assign(0), 1, &[8, 9]).await);
    assert!(text.contains("earlier topic of this name") && text.contains("ledger = "), "{text}");
    assert_eq!(lake.ids().await, [1, 2, 3]);

    let route = with_id("first");
    write(&one_table(&lake), &route, route.assign(0), 1, &[2, 3, 4]).await.expect("the same topic");
    assert_eq!(lake.ids().await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_table_that_holds_less_than_was_committed_stops_and_explains() {
    let lake = Lake::new();
    let route = Route::new();
    let slot = route.assign(0);
    let holds = write(&one_table(&lake), &route, slot, 0, &[1, 2, 3]).await.expect("written");
    assert_eq!(holds.values().collect::<Vec<_>>(), [&2]);
    // The process ends. The table is dropped and created again, or restored: the offsets below are not in it any more.
    std::fs::remove_dir_all(lake.path()).expect("removed");

    let route = Route::new();
    let text = refused(write(&one_table(&lake), &route, begin(&route, holds.clone()), 3, &[4]).await);
    assert!(text.contains("up to offset 2") && text.contains("holds nothing") && text.contains("restored = \"accept\""), "{text}");
    assert_eq!(row_count(&lake.uri()).await.expect("a table"), 0, "nothing was written");

    let accepting = Config { restored: OnDoubt::Accept, ..one_table(&lake) };
    let route = Route::new();
    let holds = write(&accepting, &route, begin(&route, holds), 3, &[4]).await.expect("written");
    assert_eq!(holds.values().collect::<Vec<_>>(), [&3], "and counts on what is there now");
    assert_eq!(lake.ids().await, [4]);
    // From then on it is as good as any.
    let route = Route::new();
    write(&one_table(&lake), &route, begin(&route, holds), 4, &[5]).await.expect("written");
    assert_eq!(lake.ids().await, [4, 5]);
}

#[tokio::test]
async fn the_least_of_the_tables_below_a_root_is_where_a_group_without_offsets_begins() {
    let lake = Lake::new();
    let root = lake.folder.path().to_str().expect("a name").to_owned();
    let config = Config { root: Some(root), ..Config::default() };
    let route = Route::new();
    let slot = route.assign(0);
    let (outbox, task) = route.start(&config);
    send(&outbox, with_destinations(route.orders(slot, 0, 0, &[1, 2, 3]), &["a", "b", "a"]));
    drop(outbox);
    task.await.expect("no panic").expect("written");
    let name = TopicPartition { topic: "orders".into(), partition: 0 };
    assert_eq!(ledger_positions(&config, "g", "lake").await.expect("readable"), [(name, 2, None)]);
    assert_eq!(route.acks.take_committable(None).remove(0).holds.len(), 2, "each table for itself");
}

#[tokio::test]
async fn a_commit_names_the_topics_of_its_rows() {
    let lake = Lake::new();
    let route = with_id("first");
    write(&one_table(&lake), &route, route.assign(0), 0, &[1]).await.expect("written");
    let table = Table::open(lake.store()).await.expect("readable").expect("a table");
    let brought = table.brought("g/lake/orders/0").await.expect("readable").expect("in the log");
    assert_eq!(brought.topics.get("orders").map(String::as_str), Some("first"));
    assert_eq!(brought.decision.as_deref(), Some("d1"));
}
