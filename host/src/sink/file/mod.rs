//! The sink `file`: JSON lines in files that are rotated.
//!
//! Invariant: a piece is settled when its lines are on the disk. A disk that is full or away is waited for.

mod files;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::files::{Files, Rotation};
use super::backoff::Backoff;
use super::line::Lines;
use super::preview::Preview;
use super::{Heard, Inbox, Message, Piece, Sink, SinkError, Surroundings, Uses, give_up};
use crate::config::{ByteSize, DurationText, Fault, FilePath};
use crate::dead::{Class, Letter};
use crate::output::View;
use crate::value::JsonOptions;

const DESTINATION: &str = "${destination}";
/// Longer names are none for most file systems.
const SEGMENT_LEN_MAX: usize = 200;
/// Lines are written when they are so many bytes, however young.
const BUFFER_MAX: usize = 4 << 20;
const BACKOFF: Backoff = Backoff { min: Duration::from_millis(200), max: Duration::from_secs(10) };

/// `[sink.NAME.file]`: JSON lines in a file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file; records are appended. `${destination}` in it is replaced by each record's destination.
    pub path: FilePath,
    /// When a file is closed and the next one begun.
    #[serde(default)]
    pub rotate: Rotate,
    /// How long records wait for a common flush to the disk.
    #[serde(default = "Config::flush_interval")]
    pub flush_interval: DurationText,
    /// Whether topic, partition, offset, timestamp, key, headers and destination stand around each value.
    #[serde(default)]
    pub envelope: bool,
    /// How decimals, bytes and times are written.
    #[serde(default)]
    pub json: JsonOptions,
}

/// When a file is closed and the next one begun; without either it never is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// At this size.
    pub bytes_max: Option<ByteSize>,
    /// At this age.
    pub age_max: Option<DurationText>,
}

impl Config {
    const fn flush_interval() -> DurationText {
        DurationText::ms(200)
    }

    /// Whether the path takes the record's destination.
    pub fn takes_destination(&self) -> bool {
        self.path.to_string_lossy().contains(DESTINATION)
    }

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.path.is_dir() {
            faults.push(Fault::new("path", format!("{} is a folder", self.path.display()), "name a file in it"));
        }
        let rest = self.path.to_string_lossy().replace(DESTINATION, "");
        if let Some(at) = rest.find("${") {
            let wrong = format!("{:?} is not replaced in a path, only {DESTINATION}", &rest[at..]);
            faults.push(Fault::new("path", wrong, "let a plugin choose the destination"));
        }
        if self.rotate.bytes_max.is_some_and(|size| size.get() == 0) {
            let remedy = "choose a size such as \"256 MiB\", or leave it out";
            faults.push(Fault::new("rotate.bytes_max", "a file of 0 bytes holds nothing", remedy));
        }
        if self.rotate.age_max.is_some_and(|age| age.get().is_zero()) {
            let remedy = "choose an age such as \"1 h\", or leave it out";
            faults.push(Fault::new("rotate.age_max", "a file of age 0 holds nothing", remedy));
        }
        faults
    }
}

/// How the sink uses destinations.
pub fn destinations(config: &Config) -> Uses {
    if config.takes_destination() { Uses::Needed } else { Uses::Ignored }
}

/// Looks whether the sink could write.
///
/// # Errors
/// What is wrong, in words for the user.
pub async fn probe(config: &Config) -> Result<(), String> {
    // Folders below the first one that a record names come and go.
    let fixed: PathBuf = config.path.components().take_while(|part| !part.as_os_str().to_string_lossy().contains(DESTINATION)).collect();
    let folder = if config.takes_destination() { Some(fixed.as_path()) } else { config.path.parent() };
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Folders that are not there yet are made by the first record; until then the nearest one that is there answers for them.
    let folder = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let trial = folder.join(format!(".anabranch-check-{}", uuid::Uuid::new_v4()));
    tokio::fs::write(&trial, b"").await.map_err(|error| format!("{} takes no files: {error}", folder.display()))?;
    tokio::fs::remove_file(&trial).await.map_err(|error| format!("{}: {error}", trial.display()))
}

/// A sink of the kind `file`.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    by_destination: bool,
    rotation: Rotation,
    flush_interval: Duration,
    lines: Lines,
    surroundings: Surroundings,
}

impl FileSink {
    /// A sink that has no file open yet.
    pub fn new(config: &Config, surroundings: Surroundings) -> Self {
        let bytes_max = config.rotate.bytes_max.map(ByteSize::get);
        FileSink {
            path: config.path.to_path_buf(),
            by_destination: config.takes_destination(),
            rotation: Rotation { bytes_max, age_max: config.rotate.age_max.map(DurationText::get) },
            flush_interval: config.flush_interval.get(),
            lines: Lines { envelope: config.envelope, json: config.json },
            surroundings,
        }
    }

    /// The file for a destination.
    fn place(&self, destination: Option<&str>) -> Result<PathBuf, String> {
        if !self.by_destination {
            return Ok(self.path.clone());
        }
        let destination = destination.ok_or_else(|| format!("the path contains {DESTINATION} and the record has no destination"))?;
        for segment in destination.split('/') {
            let what = match segment {
                "" => "an empty segment",
                "." | ".." => "a segment that means another folder",
                _ if segment.len() > SEGMENT_LEN_MAX => "a segment that is too long for a file's name",
                _ if segment.chars().any(|c| c.is_control() || c == '\\') => "a control character or a backslash",
                _ => continue,
            };
            return Err(format!("destination {destination:?} has {what}"));
        }
        let place = PathBuf::from(self.path.to_string_lossy().replace(DESTINATION, destination));
        // `.${destination}` could still make one of the two.
        if place.components().any(|part| part == Component::ParentDir) && !self.path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("destination {destination:?} leaves its folder"));
        }
        Ok(place)
    }
}

/// Lines that are not on the disk yet, and what is owed for them.
#[derive(Debug, Default)]
struct Held {
    buffers: BTreeMap<PathBuf, Vec<u8>>,
    bytes: usize,
    outputs: u64,
    pieces: Vec<Piece>,
    since: Option<Instant>,
}

impl Sink for FileSink {
    async fn run(self, mut inbox: Inbox) -> Result<(), SinkError> {
        let mut files = Files::new(self.rotation);
        let mut held = Held::default();
        let mut open = true;
        while open {
            let urgent = inbox.is_urgent();
            let due = held.since.map(|since| since + self.flush_interval);
            let is_due = held.since.is_some() && (urgent || held.bytes >= BUFFER_MAX || due.is_some_and(|due| due <= Instant::now()));
            if is_due {
                (files, held) = self.flush(files, held).await?;
                continue;
            }
            tokio::select! {
                heard = async { if urgent { inbox.next().await.map_or(Heard::Closed, Heard::Message) } else { inbox.next_or_urgent().await } } => match heard {
                    Heard::Message(message) => self.take(message, &mut held),
                    Heard::Closed => open = false,
                    Heard::Urgent => (),
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => (),
            }
        }
        self.flush(files, held).await?;
        Ok(())
    }
}

impl FileSink {
    /// Appends the line of an output and says into which file it belongs.
    fn render(&self, view: View<'_>, line: &mut Vec<u8>) -> Result<PathBuf, (u32, Letter)> {
        let letter = |class, code, message| self.surroundings.letter(view, class, code, message);
        let place = self.place(view.destination()).map_err(|message| letter(Class::DestinationInvalid, "destination", message))?;
        self.lines.write(view, line).map_err(|message| letter(Class::Decode, "json", message))?;
        Ok(place)
    }

    /// See [`Preview`].
    pub fn preview(&self, view: View<'_>) -> Preview {
        let mut line = Vec::new();
        match self.render(view, &mut line) {
            Ok(place) => Preview::Line { path: Some(place), line: line.trim_ascii_end().to_vec() },
            Err((_, letter)) => Preview::GivenUp(letter),
        }
    }

    fn take(&self, message: Message, held: &mut Held) {
        let piece = match message {
            Message::Piece(piece) => piece,
            Message::Letters(..) => return,
            Message::Abandon(slot) => {
                // Their lines may be written all the same: what comes again stands there twice.
                held.pieces.retain(|piece| piece.token.slot() != slot);
                return;
            }
        };
        let mut letters = Vec::new();
        let mut line = Vec::new();
        for view in piece.iter() {
            line.clear();
            let place = match self.render(view, &mut line) {
                Ok(place) => place,
                Err(letter) => {
                    letters.push(letter);
                    continue;
                }
            };
            held.buffers.entry(place).or_default().extend_from_slice(&line);
            held.bytes += line.len();
            held.outputs += 1;
        }
        give_up(&self.surroundings, &piece, letters);
        held.since.get_or_insert_with(Instant::now);
        held.pieces.push(piece);
    }

    /// Writes all that is held, as often as it takes, and settles it. What comes meanwhile stays in the inbox.
    async fn flush(&self, mut files: Files, mut held: Held) -> Result<(Files, Held), SinkError> {
        let started = Instant::now();
        let mut tries = 0;
        while !held.buffers.is_empty() {
            let written = tokio::task::spawn_blocking(move || {
                let mut error = None;
                while error.is_none()
                    && let Some((place, lines)) = held.buffers.pop_first()
                {
                    if let Err(found) = files.write(&place, &lines) {
                        error = Some((place.display().to_string(), found));
                        held.buffers.insert(place, lines);
                    }
                }
                (files, held, error)
            });
            let error;
            (files, held, error) = written.await.map_err(|error| SinkError::Environment {
                sink: self.surroundings.sink.clone(),
                reason: format!("writing broke off: {error}"),
            })?;
            let Some((place, error)) = error else { break };
            tries += 1;
            self.surroundings.metrics.retries.inc();
            self.surroundings.metrics.down(&format!("{place} cannot be written: {error}"));
            tokio::time::sleep(BACKOFF.delay(tries)).await;
        }
        if tries > 0 {
            self.surroundings.metrics.up();
        }
        self.surroundings.metrics.flush.observe(started.elapsed().as_secs_f64());
        self.surroundings.metrics.outputs.inc_by(held.outputs);
        self.surroundings.metrics.bytes.inc_by(held.bytes as u64);
        for piece in held.pieces.drain(..) {
            piece.token.settle();
        }
        Ok((files, Held::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead::Form;
    use crate::output::Text;
    use crate::sink::fixture::Route;
    use crate::value::Format;

    fn sink(route: &Route, path: &Path, more: &str) -> FileSink {
        let config: Config = toml::from_str(&format!("path = {path:?}\nflush_interval = \"1 ms\"\n{more}")).unwrap();
        assert_eq!(config.check(), []);
        FileSink::new(&config, route.surroundings.clone())
    }

    /// All lines below the folder, in the order of the files' names.
    fn lines(folder: &Path) -> Vec<String> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        // The file that is being written has the name without a time: it is the last.
        paths.sort_by_key(|path| (!path.file_name().unwrap().to_string_lossy().contains('-'), path.clone()));
        paths.iter().flat_map(|path| std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    #[tokio::test]
    async fn files_are_rotated_and_a_restart_goes_on_where_the_last_one_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut expected = Vec::new();
        for restart in 0..3 {
            let mut route = Route::new(Format::Json);
            let task = route.start(sink(&route, &path, "rotate = { bytes_max = \"64 B\" }"));
            for number in 0..10 {
                let value = format!("{{\"restart\":{restart},\"n\":{number}}}");
                route.send(0, &[(None, Some(&value))]);
                route.settled().await;
                expected.push(value);
            }
            assert_eq!(route.committable(0), Some(10));
            route.close();
            task.await.unwrap().unwrap();
            // As after a crash in the middle of a write.
            use std::io::Write as _;
            std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"torn").unwrap();
        }
        let torn: Vec<String> = lines(folder.path());
        assert_eq!(torn.last().map(String::as_str), Some("{\"torn"));
        assert_eq!(torn[..torn.len() - 1], expected);
        assert!(std::fs::read_dir(folder.path()).unwrap().count() > 5, "rotated");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_waited_for_and_nothing_is_settled_before() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("later");
        // A file where a folder is needed: nobody, not even root, can write below it.
        std::fs::write(&place, "").unwrap();
        let mut route = Route::new(Format::Json);
        let task = route.start(sink(&route, &place.join("out.jsonl"), ""));
        route.send(0, &[(None, Some("1"))]);
        route.until("the sink says that it waits", || !route.metrics.all().not_ready().is_empty()).await;
        assert_eq!(route.committable(0), None);
        std::fs::remove_file(&place).unwrap();
        route.settled().await;
        assert!(route.metrics.all().not_ready().is_empty());
        assert_eq!(lines(&place), ["1"]);
        route.close();
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn destinations_choose_files_and_never_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut route = Route::new(Format::Json);
        drop(route.start(sink(&route, &folder.path().join("${destination}.jsonl"), "")));
        let batch = route.batch(0, &[(None, Some("1")), (None, Some("2")), (None, Some("3"))]);
        let mut outputs = route.outputs(batch);
        outputs.buffers.push("eu/a../x".into());
        outputs.list[0].destination = Some(Text { buffer: 0, start: 0, end: 4 });
        outputs.list[1].destination = Some(Text { buffer: 0, start: 4, end: 8 });
        route.send_outputs(outputs);
        for _ in 0..2 {
            let (_, headers) = route.dead_letter().await;
            assert_eq!(headers["anabranch.class"], "destination-invalid");
        }
        route.settled().await;
        assert_eq!(std::fs::read_to_string(folder.path().join("eu/a.jsonl")).unwrap(), "1\n");
    }

    #[tokio::test]
    async fn a_record_that_is_no_json_is_given_up_with_its_original_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut route = Route::new(Format::Json);
        drop(route.start(sink(&route, &folder.path().join("out.jsonl"), "envelope = true")));
        route.send(0, &[(Some("k"), Some("{\"a\": [1,\n2]}")), (Some("k"), Some("{\"a\":"))]);
        let (value, headers) = route.dead_letter().await;
        assert_eq!((value.as_deref(), &*headers["anabranch.offset"]), (Some("{\"a\":"), "1"));
        route.settled().await;
        let lines = lines(folder.path());
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((lines.len(), &line["topic"], &line["value"]["a"][1]), (1, &"t".into(), &2.into()));
    }

    #[tokio::test]
    async fn dead_letters_reach_a_file_with_their_original_bytes_and_only_then_the_offset_moves() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("later");
        std::fs::write(&place, "").unwrap();
        let mut route = Route::with_dead_letters(Format::Json, Form::Row);
        let render = crate::sink::null::Config { render: crate::sink::null::Render::Json };
        drop(route.start(crate::sink::null::Null::new(&render, route.surroundings.clone())));
        drop(route.start_for_dead_letters(sink(&route, &place.join("dead.jsonl"), "")));
        route.send(4, &[(Some("k"), Some("{}")), (Some("k"), Some("{\"a\":")), (None, Some("{}"))]);
        route.until("the good records are delivered", || route.surroundings.metrics.outputs.get() == 2).await;
        assert_eq!(route.committable(4), None, "the dead letter has no place yet");
        std::fs::remove_file(&place).unwrap();
        route.settled().await;
        assert_eq!(route.committable(4), Some(3));
        let line: serde_json::Value = serde_json::from_str(&lines(&place)[0]).unwrap();
        let expected = [("value", "eyJhIjo="), ("key", "aw=="), ("class", "decode"), ("by", "out"), ("topic", "t"), ("route", "r")];
        for (field, text) in expected {
            assert_eq!(line[field], text, "{field} of {line}");
        }
        assert_eq!((&line["partition"], &line["offset"]), (&4.into(), &1.into()));
    }

    #[tokio::test]
    async fn a_probe_finds_a_folder_that_takes_no_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let config = |path: &str| toml::from_str::<Config>(&format!("path = {:?}", folder.path().join(path))).unwrap();
        assert_eq!(probe(&config("new/out.jsonl")).await, Ok(()));
        assert_eq!(probe(&config("new/${destination}/out.jsonl")).await, Ok(()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a probe leaves nothing behind");
        assert!(probe(&config("file/out.jsonl")).await.unwrap_err().contains("takes no files"));
    }
}
