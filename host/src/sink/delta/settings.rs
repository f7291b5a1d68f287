//! What a Delta sink is told, checked: where its tables are, how rows are gathered, and what it does with what is no row.
//!
//! Invariant: a name of a table leads to a folder below the root and to no other, and no table lies within another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Field;
use url::Url;

use super::config::{Column, Compression, Config, Metadata, OnChange, OnDoubt};
use super::table::{TableError, log_store};

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// All rows go to one table.
    One(Url),
    /// The destination names the table, below a root.
    Below {
        /// Folder of the tables.
        root: Url,
        /// How many different tables may be written.
        tables_max: usize,
    },
}

/// A Delta sink's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the tables are.
    pub place: Place,
    /// Columns by which new tables are partitioned, and existing ones must be.
    pub partition_by: Vec<String>,
    /// Rows after which a table commit is made.
    pub rows_max: usize,
    /// Bytes of gathered rows after which a table commit is made; about twice as much is held while a commit is under way.
    pub bytes_max: usize,
    /// Age of the oldest gathered row after which a table commit is made.
    pub age_max: Duration,
    /// Compression of files.
    pub compression: Compression,
    /// Columns that say where a row comes from.
    pub metadata: Metadata,
    /// Records without a value.
    pub on_tombstone: OnChange,
    /// Records that update or delete a row.
    pub on_change: OnChange,
    /// Columns of values that have no schema.
    pub columns: Vec<Field>,
    /// Name of the ledger; `None`: group and sink name it.
    pub ledger: Option<String>,
    /// Commits between two checkpoints.
    pub checkpoint_interval: u64,
    /// A ledger is ahead and was written under another decision.
    pub on_other_decision: OnDoubt,
    /// A table holds less than it did.
    pub restored: OnDoubt,
}

/// How long the name of a table may be, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// How long one segment of it may be: what file systems take.
const SEGMENT_BYTES_MAX: usize = 255;

impl Settings {
    /// What a configuration asks for.
    ///
    /// # Errors
    /// Says what is wrong with its place or its columns.
    pub fn new(config: &Config) -> Result<Settings, String> {
        let place = match (&config.uri, &config.root) {
            (Some(uri), None) => Place::One(place_url(uri)?),
            (None, Some(root)) => Place::Below { root: place_url(root)?, tables_max: config.tables_max as usize },
            _ => return Err("either `uri` for one table or `root` for many".into()),
        };
        Ok(Settings {
            place,
            partition_by: config.partition_by.clone(),
            rows_max: usize::try_from(config.batch.rows_max).unwrap_or(usize::MAX),
            bytes_max: config.batch.bytes_max.as_usize(),
            age_max: config.batch.age_max.get(),
            compression: config.compression,
            metadata: config.metadata.clone(),
            on_tombstone: config.on_tombstone,
            on_change: config.on_change,
            columns: config.columns.iter().map(Column::field).collect::<Result<_, _>>()?,
            ledger: config.ledger.clone(),
            checkpoint_interval: config.checkpoint_interval.max(1).into(),
            on_other_decision: config.on_other_decision,
            restored: config.restored,
        })
    }
}

/// A place as users write it: a path or a URL.
///
/// # Errors
/// Says what is wrong with it.
pub fn place_url(text: &str) -> Result<Url, String> {
    let text = text.strip_prefix("file://").unwrap_or(text);
    if let Some((scheme, _)) = text.split_once("://") {
        let url = Url::parse(text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
        return match log_store(&url) {
            Ok(_) => Ok(url),
            Err(TableError::Refused(_) | TableError::Unavailable(_)) => {
                Err(format!("storage {scheme}:// is not built in: use a path of this machine"))
            }
        };
    }
    let path = std::path::absolute(Path::new(text)).map_err(|error| format!("{text:?} is no path: {error}"))?;
    if path.is_file() {
        return Err(format!("{} is a file; a table is a folder", path.display()));
    }
    let mut url = Url::from_directory_path(&path).map_err(|()| format!("{text:?} is no path"))?;
    let trimmed = url.path().trim_end_matches('/').to_owned();
    url.set_path(&trimmed);
    Ok(url)
}

impl Place {
    /// The name of the table of a destination; empty for the one table.
    ///
    /// # Errors
    /// Says what is wrong with the destination.
    pub fn name(&self, destination: Option<&str>) -> Result<Arc<str>, String> {
        match (self, destination) {
            (Place::One(_), _) => Ok("".into()),
            (Place::Below { .. }, None) => Err("no destination names the table".into()),
            (Place::Below { .. }, Some(name)) => {
                check_name(name)?;
                Ok(name.into())
            }
        }
    }

    /// Where the table of a name is.
    pub fn url(&self, name: &str) -> Url {
        match self {
            Place::One(url) => url.clone(),
            Place::Below { root, .. } => {
                let mut url = root.clone();
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop_if_empty().extend(name.split('/'));
                }
                url
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("a table's name has at most {NAME_BYTES_MAX} bytes, this one has {}", name.len()));
    }
    for segment in name.split('/') {
        let wrong = match segment {
            "" => Some("has an empty segment"),
            "." | ".." => Some("leads out of its folder"),
            _ if segment.starts_with("_delta_log") => Some("is a table's log"),
            _ if segment.ends_with(".parquet") => Some("is a file's name"),
            _ if segment.len() > SEGMENT_BYTES_MAX => Some("has a segment of more than 255 bytes"),
            _ if segment.chars().any(|c| c.is_control() || "\\%?#*\"<>|:^`{}[]~".contains(c)) => {
                Some("has a character that no path may have")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(format!("{name:?} {wrong}"));
        }
    }
    Ok(())
}

/// Whether one of two tables would lie within the other: cleaning up the outer one would remove the inner one's files.
pub fn is_within(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    long.strip_prefix(short).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below() -> Place {
        Place::Below { root: Url::parse("file:///lake").expect("a URL"), tables_max: 3 }
    }

    #[test]
    fn a_destination_leads_to_a_folder_below_the_root() {
        let name = below().name(Some("shop/orders eu")).expect("a good name");
        assert_eq!(below().url(&name).as_str(), "file:///lake/shop/orders%20eu");
    }

    #[test]
    fn a_destination_never_leads_elsewhere() {
        for bad in
            ["", "..", "a/../b", "a//b", "/a", "a/", ".", "a\u{0}b", "a\nb", "a\\b", "%2e%2e", "_delta_log/x", "a.parquet", "a?b", "a#b"]
        {
            assert!(below().name(Some(bad)).is_err(), "{bad:?}");
        }
        assert!(below().name(Some(&"x".repeat(256))).is_err());
        assert!(below().name(Some(&"x/".repeat(300))).is_err());
        assert!(below().name(None).is_err());
    }

    #[test]
    fn tables_never_lie_within_each_other() {
        assert!(is_within("shop", "shop/orders"));
        assert!(is_within("shop/orders", "shop"));
        assert!(!is_within("shop", "shop2"));
        assert!(!is_within("shop", "shop"));
    }

    #[test]
    fn a_file_is_no_place_for_a_table() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = file.path().to_str().expect("a name");
        assert!(place_url(text).is_err_and(|reason| reason.contains("is a file")));
        assert!(place_url("s3://bucket/table").is_err_and(|reason| reason.contains("not built in")));
        assert!(place_url("relative/table").is_ok_and(|url| url.path().ends_with("/relative/table")));
    }
}
