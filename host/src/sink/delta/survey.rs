//! The tables below a root that are there when records come: any of them may be ahead of where reading begins.
//!
//! Invariant: a partition's first record is taken only after the ledger of every table below the root was asked about it, so a
//! record that another decision put into one table is not put into another without a question.

use std::path::Path;
use std::sync::Arc;

use super::files::local_path;
use super::flush::Waits;
use super::settings::Place;
use super::table::{Table, TableError, log_store};
use crate::observe::SinkMetrics;

/// How deep tables may lie below their root.
const DEPTH_MAX: usize = 8;

/// The tables below the root, opened. Waits while the place does not answer. Of one table: none, it is asked when it is opened.
pub async fn survey(place: &Place, metrics: &SinkMetrics) -> Vec<Table> {
    let mut waits = Waits::default();
    loop {
        match open_all(place).await {
            Ok(tables) => return tables,
            Err(error) => {
                metrics.down(&error.to_string());
                metrics.retries.inc();
                waits.wait().await;
            }
        }
    }
}

/// The tables below the root, opened.
///
/// # Errors
/// Where the log of one cannot be read.
pub async fn open_all(place: &Place) -> Result<Vec<Table>, TableError> {
    let Place::Below { root, tables_max } = place else { return Ok(Vec::new()) };
    let tables_max = *tables_max;
    let Some(folder) = local_path(root, "") else { return Ok(Vec::new()) };
    let names = tokio::task::spawn_blocking(move || names_below(&folder, tables_max))
        .await
        .map_err(|error| TableError::Unavailable(error.to_string()))?;
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        tables.extend(Table::open(log_store(&place.url(&name))?).await?);
    }
    Ok(tables)
}

/// Names of the folders below `root` that hold a table, at most `tables_max` of them.
fn names_below(root: &Path, tables_max: usize) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, name, depth)) = folders.pop() {
        if depth > 0 && folder.join("_delta_log").is_dir() {
            names.push(name.into());
            if names.len() >= tables_max {
                break;
            }
            continue;
        }
        if depth == DEPTH_MAX {
            continue;
        }
        // A folder that cannot be read holds no table that could be written either.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Some(segment) = entry.file_name().to_str()
            {
                let name = if name.is_empty() { segment.to_owned() } else { format!("{name}/{segment}") };
                folders.push((entry.path(), name, depth + 1));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_at_any_depth_and_not_within_each_other() {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["a/_delta_log", "b/c/_delta_log", "b/d", "a/x/_delta_log"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        let mut names = names_below(root.path(), 10);
        names.sort();
        assert_eq!(names, ["a".into(), "b/c".into()] as [Arc<str>; 2]);
        assert_eq!(names_below(root.path(), 1).len(), 1);
        assert!(names_below(&root.path().join("none"), 1).is_empty());
    }
}
