//! Where partitions begin: the group's committed offset, without one what ledgers hold, without them the configured start.
//!
//! Invariant: an offset at which reading begins lies within what the log holds, and belongs to this topic; where that is not so, the
//! route stops and asks. It never jumps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ack::keys::DeadKeys;
use crate::ack::{Holds, TopicPartition};
use crate::config::OutOfRange;

/// Where a partition without a group offset begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The oldest record.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first record at or after so many milliseconds since 1970-01-01T00:00Z.
    Timestamp(i64),
    /// The offset of each partition, by topic; partitions that are not named begin at the oldest record.
    Offsets(HashMap<String, BTreeMap<i32, i64>>),
}

/// What the ledgers of a route hold of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The sink whose ledger it is.
    pub sink: Arc<str>,
    /// The offset behind the last one that it holds.
    pub next: i64,
    /// The topic's id when it was written, where the broker gave one.
    pub topic_id: Option<Arc<str>>,
}

/// Of several ledgers, for each partition the one that holds the least: each sink drops what it has.
pub type Ledgers = HashMap<TopicPartition, Held>;

/// What is known of a partition before it is read.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// The group's offset.
    pub committed: Option<i64>,
    /// The topic's id when that was committed, where this router did and the broker gave one.
    pub committed_in: Option<&'a str>,
    /// First offset that the log holds, and the one behind its last; `None`: its leader did not answer.
    pub log: Option<(i64, i64)>,
    /// What ledgers hold.
    pub held: Option<&'a Held>,
    /// The topic's id now.
    pub topic_id: Option<&'a str>,
}

impl Known<'_> {
    /// Whether the group's offset is that of an earlier topic of the same name.
    pub fn is_made_anew(&self) -> bool {
        self.committed_in.zip(self.topic_id).is_some_and(|(then, now)| then != now)
    }
}

/// Where a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// At the group's offset.
    Group(i64),
    /// At an offset that the group does not know yet.
    Other(i64),
    /// Where the configuration says.
    Configured,
}

/// Decides where a partition of `route` begins.
///
/// # Errors
/// Explains why nobody but the user can tell, and what to write to say it.
pub fn decide(route: &str, name: &TopicPartition, known: &Known<'_>, rule: OutOfRange) -> Result<Decided, String> {
    if let Some(offset) = known.committed
        && known.is_made_anew()
    {
        return match (rule, known.log) {
            (OutOfRange::Earliest, Some((first, _))) => Ok(Decided::Other(first)),
            (OutOfRange::Latest, Some((_, end))) => Ok(Decided::Other(end)),
            _ => Err(format!(
                "{name}: the group's offset {offset} is one of an earlier topic of this name: {}",
                made_anew(route, &name.topic)
            )),
        };
    }
    let (offset, whose) = match (known.committed, known.held) {
        (Some(offset), _) => (offset, "the group's offset".to_owned()),
        (None, Some(held)) => {
            if let (Some(then), Some(now)) = (held.topic_id.as_deref(), known.topic_id)
                && then != now
            {
                return Err(format!("sink {:?}: {}", held.sink, other_topic(name, held.next - 1)));
            }
            if let Some((_, end)) = known.log
                && held.next > end
            {
                return Err(format!("sink {:?}: {}", held.sink, ahead(name, held.next - 1, end)));
            }
            (held.next, format!("the ledger of sink {:?}", held.sink))
        }
        (None, None) => return Ok(Decided::Configured),
    };
    let Some((first, end)) = known.log.filter(|(first, end)| offset < *first || offset > *end) else {
        return Ok(if known.committed.is_some() { Decided::Group(offset) } else { Decided::Other(offset) });
    };
    match rule {
        OutOfRange::Earliest => Ok(Decided::Other(first)),
        OutOfRange::Latest => Ok(Decided::Other(end)),
        OutOfRange::Stop => Err(out_of_range(route, name, &whose, offset, first, end)),
    }
}

/// Why a route does not begin at an offset that its log does not hold.
pub fn out_of_range(route: &str, name: &TopicPartition, whose: &str, offset: i64, first: i64, end: i64) -> String {
    let what = if offset < first {
        format!("{} records were deleted before they were read (retention)", first - offset)
    } else {
        "the topic was made anew, or the group comes from another cluster".to_owned()
    };
    format!(
        "{name}: {whose} is {offset}, the log holds {first} to {end}: {what}; choose where to go on: `out_of_range = \"earliest\"` in \
         [route.{route}] goes on at the oldest record, \"latest\" behind the newest"
    )
}

/// Why an offset of a topic that was deleted is no place to go on, and what to choose.
pub fn made_anew(route: &str, topic: &str) -> String {
    format!(
        "topic {topic:?} was deleted and made anew, and its records are others; choose where to go on: `out_of_range = \"earliest\"` in \
         [route.{route}] reads it from its oldest record, \"latest\" begins behind its newest"
    )
}

/// Why a ledger that is ahead of its partition is no reason to drop records.
pub fn ahead(name: &TopicPartition, held: i64, end: i64) -> String {
    format!(
        "the ledger holds {name} up to offset {held}, but the partition ends at {end}: the topic was made anew, or the group \
         moved to another cluster, and new records would be taken for old ones; give the sink a ledger of its own for this topic \
         (`ledger = \"NAME\"`) to write all of them, or another table"
    )
}

/// Why a ledger of another topic of the same name is no reason to drop records.
pub fn other_topic(name: &TopicPartition, held: i64) -> String {
    format!(
        "the ledger holds {name} up to offset {held}, of an earlier topic of this name: the topic was deleted and made anew, \
         and new records would be taken for old ones; give the sink a ledger of its own for this topic (`ledger = \"NAME\"`) to write all of \
         them, or another table"
    )
}

/// Most bytes of a note: brokers take 4096 by default (`offset.metadata.max.bytes`).
const NOTE_BYTES_MAX: usize = 3500;

/// Bytes of a key's digest, its offset, and what stands between.
const NOTE_KEY_BYTES: usize = 40;

/// What stands beside a committed offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// What ledgers held by then.
    pub holds: Holds,
    /// The topic's id.
    pub topic_id: Option<String>,
    /// The keys of dead letters whose later records follow them.
    pub dead_keys: DeadKeys,
}

/// What is committed beside an offset: what ledgers hold by then, which topic it is, and the keys of dead letters, of which there are
/// few. Where it is too much, those ledgers stay that hold the most recent records.
pub fn note(holds: &Holds, topic_id: Option<&str>, dead_keys: &DeadKeys) -> String {
    let mut note = serde_json::Map::new();
    if let Some(id) = topic_id {
        note.insert("topic_id".to_owned(), id.into());
    }
    let mut newest: Vec<_> = holds.iter().collect();
    newest.sort_by_key(|(_, last)| std::cmp::Reverse(**last));
    let mut kept = serde_json::Map::new();
    let mut bytes = 96 + dead_keys.len() * NOTE_KEY_BYTES;
    for (place, last) in newest {
        // Quotes, colon, comma and the digits of any offset.
        bytes += place.len() + 24;
        if bytes > NOTE_BYTES_MAX {
            break;
        }
        kept.insert(place.to_string(), (*last).into());
    }
    if !kept.is_empty() {
        note.insert("ledgers".to_owned(), kept.into());
    }
    if !dead_keys.is_empty() {
        let keys = dead_keys.iter().map(|(digest, offset)| (format!("{digest:016x}"), (*offset).into()));
        note.insert("keys".to_owned(), keys.collect::<serde_json::Map<_, _>>().into());
    }
    if note.is_empty() { String::new() } else { serde_json::Value::from(note).to_string() }
}

/// What a note says; nothing where another program wrote it.
pub fn read_note(text: &str) -> Note {
    let Ok(note) = serde_json::from_str::<serde_json::Value>(text) else { return Note::default() };
    let ledgers = note["ledgers"].as_object().into_iter().flatten();
    let keys = note["keys"].as_object().into_iter().flatten();
    Note {
        holds: ledgers.filter_map(|(place, last)| Some((place.as_str().into(), last.as_i64()?))).collect(),
        topic_id: note["topic_id"].as_str().map(str::to_owned),
        dead_keys: keys.filter_map(|(digest, offset)| Some((u64::from_str_radix(digest, 16).ok()?, offset.as_i64()?))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::keys::DEAD_KEYS_MAX;

    fn name() -> TopicPartition {
        TopicPartition { topic: "orders".into(), partition: 3 }
    }

    fn held(next: i64, id: Option<&str>) -> Held {
        Held { sink: "lake".into(), next, topic_id: id.map(Into::into) }
    }

    #[test]
    fn the_groups_offset_counts_whatever_ledgers_hold() {
        for next in [10, 50, 1000] {
            let ledger = held(next, Some("another"));
            let known = Known { committed: Some(20), log: Some((0, 100)), held: Some(&ledger), topic_id: Some("id"), ..Known::default() };
            assert_eq!(decide("r", &name(), &known, OutOfRange::Stop), Ok(Decided::Group(20)));
        }
        let unanswered = Known { committed: Some(20), ..Known::default() };
        assert_eq!(decide("r", &name(), &unanswered, OutOfRange::Stop), Ok(Decided::Group(20)), "the leader will say so itself");
    }

    #[test]
    fn without_a_group_offset_ledgers_count_and_without_them_the_configuration() {
        let ledger = held(50, None);
        let known = Known { log: Some((0, 100)), held: Some(&ledger), topic_id: Some("id"), ..Known::default() };
        assert_eq!(decide("r", &name(), &known, OutOfRange::Stop), Ok(Decided::Other(50)));
        assert_eq!(decide("r", &name(), &Known { held: None, ..known }, OutOfRange::Stop), Ok(Decided::Configured));
    }

    #[test]
    fn an_offset_that_the_log_does_not_hold_stops_and_asks() {
        for (offset, why) in [(4, "6 records were deleted"), (101, "made anew")] {
            let known = Known { committed: Some(offset), log: Some((10, 100)), ..Known::default() };
            let text = decide("r", &name(), &known, OutOfRange::Stop).unwrap_err();
            assert!(text.contains("orders/3") && text.contains(why) && text.contains("out_of_range"), "{text}");
            assert_eq!(decide("r", &name(), &known, OutOfRange::Earliest), Ok(Decided::Other(10)));
            assert_eq!(decide("r", &name(), &known, OutOfRange::Latest), Ok(Decided::Other(100)));
        }
        for offset in [10, 100] {
            let known = Known { committed: Some(offset), log: Some((10, 100)), ..Known::default() };
            assert_eq!(decide("r", &name(), &known, OutOfRange::Stop), Ok(Decided::Group(offset)));
        }
    }

    #[test]
    fn a_ledger_ahead_of_the_end_or_of_another_topic_stops_and_asks() {
        let ledger = held(101, None);
        let known = Known { log: Some((0, 100)), held: Some(&ledger), topic_id: Some("id"), ..Known::default() };
        for rule in [OutOfRange::Stop, OutOfRange::Earliest] {
            let text = decide("r", &name(), &known, rule).unwrap_err();
            assert!(text.contains("up to offset 100") && text.contains("ends at 100") && text.contains("ledger = "), "{text}");
        }
        let ledger = held(50, Some("before"));
        let known = Known { held: Some(&ledger), ..known };
        let text = decide("r", &name(), &known, OutOfRange::Earliest).unwrap_err();
        assert!(text.contains("earlier topic of this name"), "{text}");
    }

    #[test]
    fn an_offset_of_an_earlier_topic_of_the_same_name_stops_and_asks_though_the_log_holds_it() {
        let known = Known { committed: Some(50), committed_in: Some("then"), log: Some((0, 100)), topic_id: Some("now"), held: None };
        let text = decide("r", &name(), &known, OutOfRange::Stop).unwrap_err();
        assert!(text.contains("orders/3") && text.contains("made anew") && text.contains("out_of_range"), "{text}");
        assert_eq!(decide("r", &name(), &known, OutOfRange::Earliest), Ok(Decided::Other(0)));
        assert_eq!(decide("r", &name(), &known, OutOfRange::Latest), Ok(Decided::Other(100)));
        for (then, now) in [(Some("now"), Some("now")), (None, Some("now")), (Some("then"), None)] {
            let known = Known { committed_in: then, topic_id: now, ..known };
            assert_eq!(decide("r", &name(), &known, OutOfRange::Stop), Ok(Decided::Group(50)), "{then:?} {now:?}");
        }
    }

    #[test]
    fn a_note_says_what_ledgers_hold_which_topic_it_is_and_which_keys_are_dead_and_stays_short() {
        let holds = Holds::from([("lake#1".into(), 12), ("lake#2".into(), 7)]);
        let keys: DeadKeys = (0..DEAD_KEYS_MAX as u64).map(|key| (u64::MAX - key, i64::MAX - 1)).collect();
        let none = DeadKeys::new();
        for (holds, id, keys) in [
            (&holds, Some("id"), &keys),
            (&holds, Some("id"), &none),
            (&holds, None, &none),
            (&Holds::new(), Some("id"), &none),
            (&Holds::new(), None, &keys),
            (&Holds::new(), None, &none),
        ] {
            let read = Note { holds: holds.clone(), topic_id: id.map(str::to_owned), dead_keys: keys.clone() };
            assert_eq!(read_note(&note(holds, id, keys)), read);
        }
        assert_eq!(note(&Holds::new(), None, &none), "");
        let many: Holds = (0..1000).map(|at| (format!("a-sink-with-a-name#{at:08x}").into(), at)).collect();
        let id = Some("MkU3OEVBNTcwNTJENDM2Qk");
        let text = note(&many, id, &keys);
        assert!(text.len() <= 4096, "{}", text.len());
        assert_eq!(read_note(&text).dead_keys, keys, "ledgers make room for keys");
        let text = note(&many, id, &none);
        assert!(text.len() <= 4096, "{}", text.len());
        let kept = read_note(&text).holds;
        assert!(kept.len() > 50 && kept.values().all(|last| *last >= 1000 - kept.len() as i64), "the newest stay");
        for foreign in ["", "consumer-7", "[1]", "{\"ledgers\":3}", "{\"ledgers\":{\"a\":\"b\"}}", "{\"keys\":{\"x\":1,\"1\":\"2\"}}"] {
            assert_eq!(read_note(foreign), Note::default(), "{foreign}");
        }
    }
}
