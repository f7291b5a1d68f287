//! What settling, dropping, rewinding and revoking mean for the offsets that are committed.

use super::*;

fn name(partition: i32) -> TopicPartition {
    TopicPartition { topic: "orders".into(), partition }
}

fn offsets(moved: Vec<Committable>) -> Vec<(i32, i64)> {
    moved.into_iter().map(|due| (due.name.partition, due.offset)).collect()
}

#[test]
fn a_settled_batch_moves_the_commit_and_only_once() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    acks.dispatch(slot, 0, 10, 10).unwrap().settle();
    assert_eq!(offsets(acks.take_committable(None)), [(0, 10)]);
    assert_eq!(offsets(acks.take_committable(None)), []);
}

#[test]
fn a_dropped_token_rewinds_to_the_first_offset_owed() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    acks.dispatch(slot, 0, 10, 10).unwrap().settle();
    let kept = acks.dispatch(slot, 10, 20, 10).unwrap();
    drop(acks.dispatch(slot, 20, 30, 10).unwrap());
    let rewinds = acks.take_rewinds();
    assert_eq!(rewinds.len(), 1);
    assert_eq!(rewinds[0].from, Some(10));
    assert!(!kept.is_current());
    kept.settle();
    assert_eq!(acks.settled_late(), 1);
    assert_eq!(offsets(acks.take_committable(None)), [(0, 10)], "a late settlement commits nothing");
}

#[test]
fn what_comes_behind_a_dropped_piece_is_not_current_even_before_the_rewind() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let dropped = acks.dispatch(slot, 0, 5, 5).unwrap();
    let behind = acks.dispatch(slot, 5, 9, 4).unwrap();
    assert!(behind.is_current());
    drop(dropped);
    assert!(!behind.is_current());
    let rewind = acks.take_rewinds().remove(0);
    assert!(acks.is_current(rewind.slot));
}

#[test]
fn nothing_is_dispatched_between_a_rewind_and_its_end() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    drop(acks.dispatch(slot, 0, 5, 5));
    let rewind = acks.take_rewinds().remove(0);
    assert!(acks.dispatch(slot, 5, 9, 4).is_none(), "the old life is over");
    assert!(acks.dispatch(rewind.slot, 5, 9, 4).is_none(), "the new one has not begun");
    acks.rewound(rewind.slot);
    acks.dispatch(rewind.slot, 0, 5, 5).unwrap().settle();
    assert_eq!(offsets(acks.take_committable(None)), [(0, 5)]);
}

#[test]
fn rewinds_without_progress_are_counted_and_progress_ends_the_count() {
    let acks = Acks::new();
    let mut slot = acks.assign(name(0), Some(0));
    for expected in 1..=3 {
        drop(acks.dispatch(slot, 0, 5, 5));
        let rewind = acks.take_rewinds().remove(0);
        assert_eq!(rewind.without_progress, expected);
        acks.rewound(rewind.slot);
        slot = rewind.slot;
    }
    acks.dispatch(slot, 0, 5, 5).unwrap().settle();
    drop(acks.dispatch(slot, 5, 6, 1));
    assert_eq!(acks.take_rewinds()[0].without_progress, 1);
}

#[test]
fn an_ack_after_the_revoke_commits_nothing() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    acks.dispatch(slot, 0, 10, 10).unwrap().settle();
    let late = acks.dispatch(slot, 10, 20, 10).unwrap();
    let mut committed = Vec::new();
    acks.revoke(&[slot], |moved| committed = offsets(moved));
    assert_eq!(committed, [(0, 10)]);
    late.settle();
    assert_eq!(acks.settled_late(), 1);
    assert!(acks.slots().is_empty());
}

#[test]
fn a_partition_that_comes_back_does_not_hear_of_its_former_life() {
    let acks = Acks::new();
    let first = acks.assign(name(0), Some(0));
    let late = acks.dispatch(first, 0, 10, 10).unwrap();
    acks.revoke(&[first], |_| ());
    let second = acks.assign(name(0), Some(0));
    let token = acks.dispatch(second, 0, 10, 10).unwrap();
    drop(late);
    assert!(acks.take_rewinds().is_empty(), "a token of the former life rewinds nothing");
    token.settle();
    assert_eq!(offsets(acks.take_committable(None)), [(0, 10)]);
}

#[test]
fn a_drain_ends_with_the_last_settlement() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let token = acks.dispatch(slot, 0, 10, 10).unwrap();
    acks.stop_dispatch(&[slot]);
    assert!(acks.dispatch(slot, 10, 11, 1).is_none());
    let now = std::time::Instant::now();
    assert_eq!(acks.drained(&[slot], now), [slot], "the deadline names who still owes");
    let settler = std::thread::spawn(move || token.settle());
    assert!(acks.drained(&[slot], now + Duration::from_secs(60)).is_empty());
    settler.join().unwrap();
}

#[test]
fn a_head_that_does_not_move_is_reported_with_its_offset() {
    let acks = Acks::new();
    let slot = acks.assign(name(3), Some(0));
    let _owed = acks.dispatch(slot, 7, 9, 2).unwrap();
    assert!(acks.stuck(Duration::ZERO).0.is_empty(), "first seen now");
    let stuck = loop {
        let (stuck, _) = acks.stuck(Duration::ZERO);
        if !stuck.is_empty() {
            break stuck;
        }
    };
    assert_eq!((stuck[0].name.partition, stuck[0].first), (3, 7));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_stays_is_told_of_ever_more_rarely() {
    let acks = Acks::new();
    let slot = acks.assign(name(3), Some(0));
    let _owed = acks.dispatch(slot, 7, 9, 2).unwrap();
    let mut told = Vec::new();
    for seconds in 0..500_u64 {
        let (stuck, oldest) = acks.stuck(Duration::from_secs(60));
        assert_eq!(oldest.as_secs(), seconds);
        told.extend(stuck.iter().map(|stuck| stuck.since.as_secs()));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(told, [61, 123, 247, 495]);
}

#[test]
fn a_batch_that_settles_behind_the_head_is_no_progress() {
    let acks = Acks::new();
    let mut slot = acks.assign(name(0), Some(0));
    for expected in 1..=3 {
        let head = acks.dispatch(slot, 0, 5, 5).unwrap();
        acks.dispatch(slot, 5, 9, 4).unwrap().settle();
        drop(head);
        let rewind = acks.take_rewinds().remove(0);
        assert_eq!(rewind.without_progress, expected, "or a route would deliver the same records for ever");
        acks.rewound(rewind.slot);
        slot = rewind.slot;
    }
}

#[test]
fn a_rewind_names_the_life_that_ended_and_the_one_that_begins() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    drop(acks.dispatch(slot, 0, 5, 5));
    let rewind = acks.take_rewinds().remove(0);
    assert_eq!(rewind.old, slot);
    assert_ne!(rewind.slot, slot);
}

#[test]
fn a_start_that_the_group_does_not_know_is_due_at_once() {
    let acks = Acks::new();
    acks.begin(name(0), Beginning { start: Some(7), committed: false, ..Beginning::default() });
    acks.begin(name(1), Beginning { start: Some(7), committed: true, ..Beginning::default() });
    assert_eq!(offsets(acks.take_committable(None)), [(0, 7)]);
    assert_eq!(offsets(acks.take_committable(None)), []);
}

#[test]
fn what_ledgers_hold_goes_with_the_next_commit_and_is_never_less() {
    let acks = Acks::new();
    let lake: Arc<str> = "lake".into();
    let holds = Holds::from([("old".into(), 3), (lake.clone(), 4)]);
    let slot = acks.begin(name(0), Beginning { start: Some(5), committed: true, holds, ..Beginning::default() });
    let token = acks.dispatch(slot, 5, 10, 5).unwrap();
    token.hold(&lake, 9);
    acks.hold(slot, &lake, 2);
    token.settle();
    let due = acks.take_committable(None).remove(0);
    assert_eq!((due.offset, due.holds), (10, Holds::from([("old".into(), 3), (lake, 9)])));
}

#[test]
fn keys_of_dead_letters_outlive_a_rewind_and_go_with_the_next_commit() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let token = acks.dispatch(slot, 0, 10, 10).unwrap();
    assert!(token.key_died(7, 5) && token.key_died(7, 3) && token.key_died(7, 9));
    drop(token);
    let rewind = acks.take_rewinds().remove(0);
    acks.rewound(rewind.slot);
    let token = acks.dispatch(rewind.slot, 0, 10, 10).unwrap();
    let first = keys::DeadKeys::from([(7, 3)]);
    assert_eq!(token.dead_keys(), first, "the first dead letter counts");
    token.settle();
    assert_eq!(acks.take_committable(None)[0].dead_keys, first);
    let token = acks.dispatch(rewind.slot, 10, 20, 10).unwrap();
    assert!((1..keys::DEAD_KEYS_MAX as u64).all(|key| token.key_died(100 + key, 10)));
    assert!(!token.key_died(8, 11), "there is no room for more");
    assert!(token.key_died(7, 11));
    token.settle();
}

#[test]
fn the_sinks_of_others_do_not_wait_for_the_commit_of_what_leaves() {
    let acks = Acks::new();
    let (leaves, stays) = (acks.assign(name(0), Some(0)), acks.assign(name(1), Some(0)));
    acks.dispatch(leaves, 0, 10, 10).unwrap().settle();
    let other = acks.dispatch(stays, 0, 10, 10).unwrap();
    acks.revoke(&[leaves], |due| {
        assert_eq!(offsets(due), [(0, 10)]);
        // With the lock held this would never end.
        other.settle();
    });
    assert_eq!(offsets(acks.take_committable(None)), [(1, 10)]);
}

#[test]
fn a_drain_does_not_wait_for_a_partition_that_wants_to_be_read_again() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let token = acks.dispatch(slot, 0, 10, 10).unwrap();
    let began = std::time::Instant::now();
    let dropper = std::thread::spawn({
        let acks = acks.clone();
        move || acks.drained(&[slot], began + Duration::from_secs(60))
    });
    drop(token);
    assert!(dropper.join().unwrap().is_empty());
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_jump_begins_anew_where_the_log_begins() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(5));
    assert!(acks.is_settled(slot));
    acks.jump(slot, 100);
    assert_eq!(offsets(acks.take_committable(None)), [(0, 100)]);
    acks.dispatch(slot, 100, 101, 1).unwrap().settle();
    assert_eq!(offsets(acks.take_committable(None)), [(0, 101)]);
}

#[test]
fn a_failed_commit_is_due_again() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    acks.dispatch(slot, 0, 10, 10).unwrap().settle();
    assert_eq!(offsets(acks.take_committable(None)), [(0, 10)]);
    acks.commit_failed(&[name(0)]);
    assert_eq!(offsets(acks.take_committable(None)), [(0, 10)]);
}

#[test]
fn a_commit_that_lands_behind_a_later_one_makes_that_due_again() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    acks.dispatch(slot, 0, 10, 10).unwrap().settle();
    assert_eq!(offsets(acks.take_committable(None)), [(0, 10)]);
    acks.dispatch(slot, 10, 20, 10).unwrap().settle();
    assert_eq!(offsets(acks.take_committable(None)), [(0, 20)]);
    acks.commit_landed(&HashMap::from([(name(0), 20)]));
    assert_eq!(offsets(acks.take_committable(None)), []);
    // The first one was sent twice, and came last.
    acks.commit_landed(&HashMap::from([(name(0), 10)]));
    assert_eq!(offsets(acks.take_committable(None)), [(0, 20)]);
}

#[test]
fn counts_of_resolved_ranges_add_up_over_rewinds_and_revokes() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let token = acks.dispatch(slot, 0, 10, 10).unwrap();
    token.decided(4, 1);
    token.settle();
    drop(acks.dispatch(slot, 10, 20, 10));
    let rewind = acks.take_rewinds().remove(0);
    acks.rewound(rewind.slot);
    acks.dispatch(rewind.slot, 10, 20, 10).unwrap().settle();
    acks.revoke(&[rewind.slot], |_| ());
    let counts = acks.counts();
    assert_eq!((counts.read, counts.filtered, counts.dead_lettered, counts.delivered()), (20, 4, 1, 15));
}

fn due(readiness: transaction::Readiness) -> transaction::Due {
    match readiness {
        transaction::Readiness::Ready(due) => due,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transaction_settles_its_pieces_and_commits_their_offsets_in_one_step() {
    let acks = Acks::new();
    acks.commit_by_sink();
    let (first, second) = (acks.assign(name(0), Some(0)), acks.assign(name(1), Some(0)));
    let tokens = vec![acks.dispatch(first, 0, 10, 10).unwrap(), acks.dispatch(first, 10, 12, 2).unwrap()];
    // All of this batch was filtered: no piece, and its offset goes along.
    acks.dispatch(second, 0, 7, 7).unwrap().settle();
    let prepared = due(acks.prepare(&tokens));
    assert_eq!(prepared.iter().map(|(_, due)| (due.name.partition, due.offset)).collect::<Vec<_>>(), [(0, 12), (1, 7)]);
    assert!(!acks.is_idle(), "nothing is settled before it has landed");
    let late = std::time::Instant::now();
    assert_eq!(acks.drained(&[first, second], late), [first, second], "a drain waits for the commit");
    acks.landed(&prepared, tokens);
    assert!(acks.is_idle());
    assert_eq!(acks.drained(&[first, second], late), []);
    assert_eq!(due(acks.prepare(&[])), []);
    assert_eq!(acks.counts().read, 19);
}

#[test]
fn a_transaction_waits_for_the_dead_letters_of_its_records() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let first = acks.dispatch(slot, 0, 10, 10).unwrap();
    let letter = first.another();
    let tokens = vec![first, acks.dispatch(slot, 10, 20, 10).unwrap()];
    assert_eq!(acks.prepare(&tokens), transaction::Readiness::Waiting);
    letter.settle();
    assert_eq!(due(acks.prepare(&tokens))[0].1.offset, 20);
    acks.landed(&vec![], tokens);
}

#[test]
fn a_partition_is_not_read_again_while_its_offset_is_being_committed() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let tokens = vec![acks.dispatch(slot, 0, 10, 10).unwrap()];
    let prepared = due(acks.prepare(&tokens));
    drop(acks.dispatch(slot, 10, 20, 10));
    assert!(acks.take_rewinds().is_empty());
    acks.landed(&prepared, tokens);
    assert_eq!(acks.take_rewinds()[0].from, Some(10), "not below what was committed");
}

#[test]
fn a_transaction_that_did_not_land_is_read_again_from_before_it() {
    let acks = Acks::new();
    let slot = acks.assign(name(0), Some(0));
    let tokens = vec![acks.dispatch(slot, 0, 10, 10).unwrap()];
    let prepared = due(acks.prepare(&tokens));
    acks.not_landed(&prepared);
    tokens.into_iter().for_each(|token| token.rewind("aborted"));
    assert_eq!(acks.take_rewinds()[0].from, Some(0));
    assert_eq!(offsets(acks.take_committable(None)), []);
}

#[test]
fn a_transaction_with_a_partition_that_left_or_is_read_again_is_not_committed() {
    let acks = Acks::new();
    let (first, second) = (acks.assign(name(0), Some(0)), acks.assign(name(1), Some(0)));
    let tokens = vec![acks.dispatch(first, 0, 10, 10).unwrap(), acks.dispatch(second, 0, 10, 10).unwrap()];
    acks.want_rewind(first, "test");
    assert_eq!(acks.prepare(&tokens), transaction::Readiness::Gone);
    let tokens = vec![tokens.into_iter().nth(1).unwrap()];
    acks.revoke(&[second], |_| ());
    assert_eq!(acks.prepare(&tokens), transaction::Readiness::Gone);
}
