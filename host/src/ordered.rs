//! Ordered keys: behind a record that the route gave up, later records of its key follow it into the dead letters, where the route says so.
//!
//! Invariant: what becomes of a record depends on it and the records before it alone: only what is given up before the sinks counts, which
//! comes out alike when a partition is read again.

use std::sync::Arc;

use crate::ack::Token;
use crate::ack::keys::{DEAD_KEYS_MAX, digest};
use crate::config::{Action, OnError};
use crate::dead::{Class, Letter};
use crate::output::Outputs;

/// Takes the outputs of records that come behind a dead letter of their key, and adds a letter for each such record. Records without a
/// key, and those of which plugins left nothing, are not concerned. `letters`: those of the batch, ordered by record; they stay so.
///
/// # Errors
/// Where a partition has too many dead keys to remember, in words for the user.
pub fn follow(route: &str, token: &Token, on_error: &OnError, outputs: &mut Outputs, letters: &mut Vec<Letter>) -> Result<(), String> {
    let mut dead = token.dead_keys();
    if dead.is_empty() && letters.is_empty() {
        return Ok(());
    }
    let batch = outputs.batch.clone();
    let by: Arc<str> = "after_dead_letter".into();
    let mut own = letters.iter().peekable();
    let mut following = Vec::new();
    for record in 0..batch.len() {
        let (mut has_letter, mut died) = (false, false);
        while let Some(letter) = own.next_if(|letter| letter.record as usize == record) {
            has_letter = true;
            died |= on_error.of(letter.class) == Action::DeadLetter;
        }
        let Some(key) = batch.keys.get(record) else { continue };
        let (digest, offset) = (digest(key), batch.offsets[record]);
        match dead.get(&digest) {
            Some(first) if *first < offset => following.push((record as u32, *first, has_letter)),
            _ if !died => (),
            _ if token.key_died(digest, offset) => _ = dead.insert(digest, offset),
            _ => return Err(no_room(route, &batch.topic, batch.partition)),
        }
    }
    for (record, first, has_letter) in &following {
        // A letter of its own says more.
        if !has_letter && outputs.list.binary_search_by_key(record, |output| output.input).is_ok() {
            let message = format!("the record at offset {first}, of the same key, is a dead letter");
            let (class, code) = (Class::AfterDeadLetter, Class::AfterDeadLetter.name().to_owned());
            letters.push(Letter { record: *record, class, code, message, by: by.clone(), digest: None, attempts: 1 });
        }
    }
    outputs.list.retain(|output| following.binary_search_by_key(&output.input, |(record, ..)| *record).is_err());
    letters.sort_by_key(|letter| letter.record);
    Ok(())
}

fn no_room(route: &str, topic: &str, partition: i32) -> String {
    format!(
        "{topic}/{partition}: more than {DEAD_KEYS_MAX} keys have dead letters, and later records of theirs are to follow: mend what gives \
         records up; to let all keys go on, start once with `after_dead_letter = \"go_on\"` in [route.{route}]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::{Acks, Slot, TopicPartition};
    use crate::batch::{Batch, Entries, Handles, Headers};
    use crate::output::{Formats, SinkSet};
    use crate::schemas::Schemas;
    use crate::value::Format;

    struct Partition {
        acks: Acks,
        slot: Slot,
        /// Whether its batches are settled once they are decided; where not, they are to be read again.
        settles: bool,
    }

    impl Partition {
        fn new() -> Partition {
            let acks = Acks::new();
            let slot = acks.assign(TopicPartition { topic: "orders".into(), partition: 0 }, Some(0));
            Partition { acks, slot, settles: true }
        }

        /// Decides a batch with these keys from offset `first`; records at positions `bad` are given up, those at `dropped` filtered.
        /// Returns offsets that go on, and those that follow.
        fn decide(&self, first: i64, keys: &[Option<&str>], bad: &[u32], dropped: &[u32], class: Class) -> (Vec<i64>, Vec<i64>) {
            self.try_decide(first, keys, bad, dropped, class).unwrap()
        }

        fn try_decide(
            &self,
            first: i64,
            keys: &[Option<&str>],
            bad: &[u32],
            dropped: &[u32],
            class: Class,
        ) -> Result<(Vec<i64>, Vec<i64>), String> {
            let count = keys.len();
            let (mut entries, mut values) = (Entries::default(), Entries::default());
            keys.iter().for_each(|key| entries.push(key.map(str::as_bytes)));
            keys.iter().for_each(|_| values.push(Some(b"{}")));
            let batch = Batch {
                topic: "orders".into(),
                partition: 0,
                offsets: (first..first + count as i64).collect(),
                timestamps: vec![0; count],
                keys: entries,
                values,
                headers: Headers::default(),
                key_schemas: Handles::All(0),
                value_schemas: Handles::All(0),
                permit: None,
            };
            let formats = Formats { key: Format::Raw, value: Format::Json };
            let mut outputs = Outputs::unchanged(Arc::new(batch), formats, Schemas::new().snapshot(), SinkSet::first(1));
            outputs.list.retain(|output| !bad.contains(&output.input) && !dropped.contains(&output.input));
            let letter = |record: &u32| Letter {
                record: *record,
                class,
                code: "x".into(),
                message: "bad".into(),
                by: "decode".into(),
                digest: None,
                attempts: 1,
            };
            let mut letters: Vec<Letter> = bad.iter().map(letter).collect();
            let token = self.acks.dispatch(self.slot, first, first + count as i64, count as u64).unwrap();
            let on_error = OnError { plugin_reject: Action::Drop, ..OnError::default() };
            follow("orders", &token, &on_error, &mut outputs, &mut letters)?;
            if self.settles {
                token.settle();
            }
            assert!(letters.is_sorted_by_key(|letter| letter.record));
            let following = letters.iter().filter(|letter| letter.class == Class::AfterDeadLetter);
            let go_on = outputs.list.iter().map(|output| first + i64::from(output.input));
            Ok((go_on.collect(), following.map(|letter| first + i64::from(letter.record)).collect()))
        }
    }

    #[test]
    fn later_records_of_a_dead_key_follow_and_others_go_on() {
        let orders = Partition::new();
        let keys = [Some("a"), Some("b"), Some("a"), Some("b"), None, Some("a")];
        assert_eq!(orders.decide(0, &keys, &[1], &[], Class::Decode), (vec![0, 2, 4, 5], vec![3]));
        assert_eq!(orders.decide(6, &keys, &[], &[], Class::Decode), (vec![6, 8, 10, 11], vec![7, 9]));
    }

    #[test]
    fn a_record_that_plugins_drop_stays_dropped_and_one_that_is_bad_itself_says_so() {
        let orders = Partition::new();
        let keys = [Some("a"), Some("a"), Some("a"), Some("a")];
        assert_eq!(orders.decide(0, &keys, &[0, 2], &[1], Class::Decode), (vec![], vec![3]));
    }

    #[test]
    fn records_without_a_key_and_those_that_are_no_dead_letters_hold_nothing_back() {
        let orders = Partition::new();
        assert_eq!(orders.decide(0, &[None, None], &[0], &[], Class::Decode), (vec![1], vec![]));
        // `on_error` drops this class.
        assert_eq!(orders.decide(2, &[Some("a"), Some("a")], &[0], &[], Class::PluginReject), (vec![3], vec![]));
    }

    #[test]
    fn what_is_read_again_is_decided_alike() {
        let orders = Partition { settles: false, ..Partition::new() };
        let keys = [Some("a"), Some("a"), Some("b"), Some("a")];
        let once = orders.decide(0, &keys, &[1], &[], Class::Decode);
        assert_eq!(once, (vec![0, 2], vec![3]));
        let rewind = orders.acks.take_rewinds().remove(0);
        orders.acks.rewound(rewind.slot);
        let again = Partition { slot: rewind.slot, ..orders };
        assert_eq!(again.decide(0, &keys, &[1], &[], Class::Decode), once);
    }

    #[test]
    fn too_many_dead_keys_stop_and_say_how_to_go_on() {
        let names: Vec<String> = (0..=DEAD_KEYS_MAX).map(|number| number.to_string()).collect();
        let keys: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
        let bad: Vec<u32> = (0..keys.len() as u32).collect();
        let text = Partition::new().try_decide(0, &keys, &bad, &[], Class::Decode).unwrap_err();
        assert!(
            text.contains("orders/0") && text.contains("64 keys") && text.contains("after_dead_letter") && text.contains("[route.orders]")
        );
    }
}
