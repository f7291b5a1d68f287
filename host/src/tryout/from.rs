//! Which records are tried: `--from` as users write it.
//!
//! Invariant: what is no place to begin at is refused with all that would be.

use std::str::FromStr;

use crate::ack::TopicPartition;

/// Where trying begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum From {
    /// The newest records that are there.
    #[default]
    Newest,
    /// The oldest records that are there.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first records of this time or later, milliseconds since 1970-01-01T00:00Z.
    Time(i64),
    /// At these offsets, of these partitions only.
    Offsets(Vec<(TopicPartition, i64)>),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => return Ok(From::Newest),
            "earliest" => return Ok(From::Earliest),
            "latest" => return Ok(From::Latest),
            _ => (),
        }
        if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
            return Ok(From::Time(time.timestamp_millis()));
        }
        let offsets: Option<Vec<_>> = text.split(',').map(position).collect();
        offsets.map(From::Offsets).ok_or_else(|| {
            "no place to begin at: write newest, earliest, latest, a time such as 2026-01-31T12:00:00Z, or TOPIC/PARTITION:OFFSET (several with commas)"
                .to_owned()
        })
    }
}

/// `orders/3:1200`.
fn position(text: &str) -> Option<(TopicPartition, i64)> {
    let (place, offset) = text.trim().rsplit_once(':')?;
    let (topic, partition) = place.rsplit_once('/')?;
    let partition = partition.parse().ok().filter(|partition| *partition >= 0)?;
    let offset = offset.parse().ok().filter(|offset| *offset >= 0)?;
    (!topic.is_empty()).then(|| (TopicPartition { topic: topic.into(), partition }, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_begin_is_understood_and_nothing_else() {
        let at = |partition, offset| (TopicPartition { topic: "shop.orders".into(), partition }, offset);
        for (text, from) in [
            ("newest", From::Newest),
            ("earliest", From::Earliest),
            ("latest", From::Latest),
            ("1970-01-01T00:00:01.5Z", From::Time(1500)),
            ("shop.orders/3:1200", From::Offsets(vec![at(3, 1200)])),
            ("shop.orders/3:1200, shop.orders/0:7", From::Offsets(vec![at(3, 1200), at(0, 7)])),
        ] {
            assert_eq!(text.parse(), Ok(from), "{text}");
        }
        for text in ["", "oldest", "12", "orders:3", "orders/3", "orders/-1:3", "/1:3", "orders/1:-3", "orders/1:3,"] {
            assert!(text.parse::<From>().unwrap_err().contains("TOPIC/PARTITION:OFFSET"), "{text}");
        }
    }
}
