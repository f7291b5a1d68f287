//! Single commits: against other writers, with answers that are lost, over restarts.

use deltalake::kernel::{Action, Add};
use deltalake::protocol::DeltaOperation;

use super::lake::{Lake, LostAnswers, append, commit_as_other};
use crate::ack::TopicPartition;
use crate::sink::delta::commit::{CommitError, Progress, commit};
use crate::sink::delta::config::Config;
use crate::sink::delta::read::{ledger_positions, row_count};
use crate::sink::delta::table::Table;

#[tokio::test]
async fn rows_and_their_ledger_land_in_one_commit() {
    let lake = Lake::new();
    let mut table = lake.table(&["id", "name"]).await;
    let mut flush = lake.flush(&["id", "name"], &[1, 2, 3], None, 12).await;
    assert_eq!(commit(&mut table, &mut flush).await.expect("landed"), 1);
    assert_eq!(table.positions.get("g/s/t/0"), Some(&12));
    assert_eq!(lake.ids().await, [1, 2, 3]);
    assert_eq!(row_count(&lake.uri()).await.expect("a count"), 3);

    let again = Table::open(lake.store()).await.expect("readable").expect("a table");
    assert_eq!(again.positions.get("g/s/t/0"), Some(&12));
    assert_eq!(again.brought("g/s/t/0").await.expect("readable").and_then(|brought| brought.decision).as_deref(), Some("d1"));
    let config = Config { uri: Some(lake.uri()), ..Config::default() };
    let name = TopicPartition { topic: "t".into(), partition: 0 };
    assert_eq!(ledger_positions(&config, "g", "s").await.expect("readable"), [(name, 13, None)]);
    assert_eq!(ledger_positions(&config, "g", "other").await.expect("readable"), []);
}

#[tokio::test]
async fn a_lost_answer_is_found_in_the_log_and_nothing_lands_twice() {
    let lake = Lake::new();
    for as_conflict in [false, true] {
        let held = lake.table(&["id"]).await.positions.get("g/s/t/0").copied();
        let next = held.map_or(0, |held| held + 1);
        let mut table = lake.table_on(LostAnswers::new(lake.store(), 1, as_conflict), &["id"]).await;
        let mut flush = lake.flush(&["id"], &[next], held, next).await;
        let first = commit(&mut table, &mut flush).await;
        if as_conflict {
            first.expect("found at once");
        } else {
            assert!(matches!(first, Err(CommitError::Unavailable(_))), "{first:?}");
            assert_eq!(flush.progress, Progress::Unsure);
            commit(&mut table, &mut flush).await.expect("found");
        }
        assert_eq!(table.positions.get("g/s/t/0"), Some(&next));
    }
    assert_eq!(lake.ids().await, [0, 1]);
}

#[tokio::test]
async fn a_lost_answer_is_found_behind_the_commits_of_others() {
    let lake = Lake::new();
    lake.table(&["id"]).await;
    let mut table = lake.table_on(LostAnswers::new(lake.store(), 1, false), &["id"]).await;
    let mut flush = lake.flush(&["id"], &[1], None, 1).await;
    commit(&mut table, &mut flush).await.expect_err("lost");
    for id in [50, 51] {
        let theirs = lake.flush(&["id"], &[id], None, 0).await;
        commit_as_other(&mut lake.other().await, theirs.adds.into_iter().map(Action::Add).collect(), append()).await;
    }
    assert_eq!(commit(&mut table, &mut flush).await.expect("found"), 1);
    assert_eq!(lake.ids().await, [1, 50, 51]);
}

#[tokio::test]
async fn a_paused_owner_is_refused_after_another_has_committed() {
    let lake = Lake::new();
    let mut paused = lake.table(&["id"]).await;
    let mut flush = lake.flush(&["id"], &[1, 2], None, 2).await;
    let mut owner = lake.table(&["id"]).await;
    commit(&mut owner, &mut lake.flush(&["id"], &[1, 2, 3], None, 3).await).await.expect("landed");
    assert!(matches!(commit(&mut paused, &mut flush).await, Err(CommitError::Moved(_))));
    // Nor does it help to have seen the table in between.
    paused.refresh(None).await.expect("readable");
    assert!(matches!(commit(&mut paused, &mut flush).await, Err(CommitError::Moved(_))));
    assert_eq!(lake.ids().await, [1, 2, 3]);
}

#[tokio::test]
async fn two_owners_of_different_partitions_never_get_in_each_others_way() {
    let lake = Lake::new();
    let mut one = lake.table(&["id"]).await;
    let mut other = lake.table(&["id"]).await;
    for at in 0..5 {
        let held = (at > 0).then(|| at - 1);
        commit(&mut one, &mut lake.flush(&["id"], &[at], held, at).await).await.expect("landed");
        let mut flush = lake.flush(&["id"], &[100 + at], held, at).await;
        flush.positions[0].app_id = "g/s/t/1".into();
        commit(&mut other, &mut flush).await.expect("landed");
    }
    assert_eq!(lake.ids().await, [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]);
    one.refresh(None).await.expect("readable");
    assert_eq!(one.positions.get("g/s/t/1"), Some(&4), "what others commit is known after a look");
}

#[tokio::test]
async fn a_concurrent_compaction_delete_or_new_column_is_no_obstacle() {
    let lake = Lake::new();
    let names = ["id", "name"];
    let mut table = lake.table(&names).await;
    commit(&mut table, &mut lake.flush(&names, &[1, 2], None, 2).await).await.expect("landed");
    let removal = |table: &deltalake::DeltaTable, data_change| -> Vec<Action> {
        table.snapshot().expect("loaded").log_data().iter().map(|file| Action::Remove(file.remove_action(data_change))).collect()
    };

    let mut other = lake.other().await;
    let mut actions = removal(&other, false);
    let compacted = lake.flush(&names, &[1, 2], None, 0).await.adds;
    actions.extend(compacted.into_iter().map(|add| Action::Add(Add { data_change: false, ..add })));
    commit_as_other(&mut other, actions, DeltaOperation::Optimize { predicate: None, target_size: 1 << 20 }).await;
    commit(&mut table, &mut lake.flush(&names, &[3], Some(2), 3).await).await.expect("landed");
    assert_eq!(lake.ids().await, [1, 2, 3]);

    let mut other = lake.other().await;
    let gone = removal(&other, true);
    commit_as_other(&mut other, gone, DeltaOperation::Delete { predicate: None }).await;
    commit(&mut table, &mut lake.flush(&names, &[4], Some(3), 4).await).await.expect("landed");
    assert_eq!(lake.ids().await, [4]);

    let mut wider = lake.table(&names).await;
    let mut theirs = lake.flush(&["id", "extra"], &[6], None, 9).await;
    theirs.positions[0].app_id = "other".into();
    commit(&mut wider, &mut theirs).await.expect("landed");
    commit(&mut table, &mut lake.flush(&names, &[5], Some(4), 5).await).await.expect("landed");
    let found: Vec<String> = table.schema().expect("loaded").fields().map(|field| field.name().clone()).collect();
    assert_eq!(found, ["id", "name", "extra"]);
    assert_eq!(lake.ids().await, [4, 5, 6]);
}

#[tokio::test]
async fn a_restored_table_is_noticed() {
    let lake = Lake::new();
    let mut table = lake.table(&["id"]).await;
    commit(&mut table, &mut lake.flush(&["id"], &[1], None, 1).await).await.expect("landed");
    commit(&mut table, &mut lake.flush(&["id"], &[2], Some(1), 2).await).await.expect("landed");
    std::fs::remove_file(lake.path().join("_delta_log/00000000000000000002.json")).expect("a log entry");
    table.refresh(None).await.expect("readable");
    let refused = commit(&mut table, &mut lake.flush(&["id"], &[3], Some(2), 3).await).await;
    assert!(matches!(refused, Err(CommitError::Restored(_))), "{refused:?}");
}

#[tokio::test]
async fn checkpoints_carry_the_ledger_and_outlive_their_log_entries() {
    let lake = Lake::new();
    let mut table = lake.table(&["id"]).await;
    for at in 0..6 {
        let held = (at > 0).then(|| at - 1);
        commit(&mut table, &mut lake.flush(&["id"], &[at], held, at).await).await.expect("landed");
    }
    assert_eq!(table.clone().write_checkpoint().await.expect("written"), 6);
    for version in 0..6 {
        std::fs::remove_file(lake.path().join(format!("_delta_log/{version:020}.json"))).expect("a log entry");
    }
    let mut again = Table::open(lake.store()).await.expect("readable").expect("a table");
    assert_eq!(again.checkpoint, Some(6));
    assert_eq!(again.positions.get("g/s/t/0"), Some(&5));
    commit(&mut again, &mut lake.flush(&["id"], &[6], Some(5), 6).await).await.expect("landed");
    assert_eq!(lake.ids().await, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn two_that_create_a_table_at_once_share_it() {
    let lake = Lake::new();
    let names = ["id"];
    let (one, other) = tokio::join!(lake.table(&names), lake.table(&names));
    let id = |table: &Table| table.metadata().expect("loaded").id().to_owned();
    assert_eq!(id(&one), id(&other));
    assert_eq!((one.version(), other.version()), (0, 0));
}
