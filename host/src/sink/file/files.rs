//! Files that lines are appended to: opened, repaired, rotated, made durable.
//!
//! Invariant: after [`Files::write`] returned, the lines are on the disk, in a file whose last byte is a line end. A write that
//! failed leaves nothing behind that a later one would not cut off.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files open at once; the one that was not written for longest is closed first.
const OPEN_MAX: usize = 64;

/// When a file is closed and the next one begun.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rotation {
    /// Before it would be larger.
    pub bytes_max: Option<u64>,
    /// When it is older.
    pub age_max: Option<Duration>,
}

/// The open files of a sink.
#[derive(Debug)]
pub struct Files {
    rotation: Rotation,
    open: HashMap<PathBuf, Open>,
    writes: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Bytes that are durable; what is behind them was written by an attempt that failed.
    length: u64,
    begun: SystemTime,
    written_at: u64,
}

impl Files {
    /// None is open.
    pub fn new(rotation: Rotation) -> Self {
        Files { rotation, open: HashMap::new(), writes: 0 }
    }

    /// Appends whole lines to the file at `path` and makes them durable. Folders are made as needed.
    ///
    /// # Errors
    /// What the system says; the same lines may be written again.
    pub fn write(&mut self, path: &Path, lines: &[u8]) -> io::Result<()> {
        self.writes += 1;
        let outcome = self.append(path, lines);
        if outcome.is_err() {
            // Opened again, it is cut back to its last whole line that is known to be durable.
            if let Some(open) = self.open.remove(path) {
                let _ = open.file.set_len(open.length);
            }
        }
        outcome
    }

    fn append(&mut self, path: &Path, lines: &[u8]) -> io::Result<()> {
        if !self.open.contains_key(path) {
            self.close_oldest();
            self.open.insert(path.to_owned(), Open::at(path)?);
        }
        if let Some(open) = self.open.get(path)
            && open.is_due(self.rotation, lines.len() as u64)
        {
            self.open.remove(path);
            std::fs::rename(path, free_name(path, SystemTime::now()))?;
            self.open.insert(path.to_owned(), Open::at(path)?);
        }
        let Some(open) = self.open.get_mut(path) else { return Ok(()) };
        open.written_at = self.writes;
        open.file.write_all(lines)?;
        open.file.sync_data()?;
        open.length += lines.len() as u64;
        Ok(())
    }

    fn close_oldest(&mut self) {
        while self.open.len() >= OPEN_MAX
            && let Some(oldest) = self.open.iter().min_by_key(|(_, open)| open.written_at).map(|(path, _)| path.clone())
        {
            self.open.remove(&oldest);
        }
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let whole = whole_lines(&mut file)?;
        if whole < file.metadata()?.len() {
            tracing::warn!(path = %path.display(), "the last line was torn, cutting it off: its record comes again");
            file.set_len(whole)?;
        }
        file.seek(SeekFrom::Start(whole))?;
        file.sync_all()?;
        // A new file's name is durable only with its folder.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        let metadata = file.metadata()?;
        let begun = metadata.created().or_else(|_| metadata.modified()).unwrap_or_else(|_| SystemTime::now());
        Ok(Open { file, length: whole, begun, written_at: 0 })
    }

    fn is_due(&self, rotation: Rotation, more: u64) -> bool {
        let too_large = rotation.bytes_max.is_some_and(|max| self.length + more > max);
        let too_old = rotation.age_max.is_some_and(|max| self.begun.elapsed().is_ok_and(|age| age > max));
        self.length > 0 && (too_large || too_old)
    }
}

/// How many bytes belong to whole lines.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let mut end = file.metadata()?.len();
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        Read::by_ref(file).take(end - start).read_to_end(&mut block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// `orders.jsonl` becomes `orders-20261124T140312.123456Z.jsonl`: names sort by the time of the rotation.
fn free_name(path: &Path, now: SystemTime) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    let mut micros = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
    loop {
        let time = chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default().format("%Y%m%dT%H%M%S%.6fZ");
        let free = path.with_file_name(format!("{stem}-{time}{extension}"));
        if !free.exists() {
            return free;
        }
        micros += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_sort_by_time_and_never_replace_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.jsonl");
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        let first = free_name(&path, now);
        assert_eq!(first.file_name().unwrap(), "orders-20231114T221320.123456Z.jsonl");
        std::fs::write(&first, "x").unwrap();
        let second = free_name(&path, now);
        assert!(second > first);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/orders.jsonl");
        for torn in ["{\"a\"".to_owned(), "x".repeat(200_000)] {
            for whole in ["", "1\n2\n"] {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, format!("{whole}{torn}")).unwrap();
                Files::new(Rotation::default()).write(&path, b"3\n").unwrap();
                assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}3\n"));
            }
        }
    }

    #[test]
    fn more_places_than_files_may_be_open_are_all_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::new(Rotation::default());
        for round in 0..2 {
            for place in 0..OPEN_MAX + 10 {
                files.write(&folder.path().join(place.to_string()), format!("{round}\n").as_bytes()).unwrap();
            }
        }
        assert_eq!(files.open.len(), OPEN_MAX);
        for place in 0..OPEN_MAX + 10 {
            assert_eq!(std::fs::read_to_string(folder.path().join(place.to_string())).unwrap(), "0\n1\n");
        }
    }
}
