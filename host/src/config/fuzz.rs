//! Configuration files, changed at random: every problem has its place, every report can be shown, no secret is in it.

use std::path::{Path, PathBuf};

use super::*;
use crate::fuzz::{self, Choices};

/// The files that tests know, right and wrong ones.
fn files() -> Vec<String> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    // Good ones first: they are the simplest.
    paths.sort_by_key(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("good")));
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap().replace("hunter2", "plain")).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// A secret that is read from a file, and one that stands in the text where a secret must not stand.
const FROM_FILE: &str = "correct-horse-battery";
const IN_TEXT: &str = "hunter2";

#[test]
fn reports_of_changed_files_have_places_and_no_secrets() {
    let files = files();
    let secrets = tempfile::tempdir().unwrap();
    let secret = secrets.path().join("secret");
    std::fs::write(&secret, FROM_FILE).unwrap();
    fuzz::run("configuration", |choices| {
        let mut text = choices.pick(&files).clone();
        if choices.once_in(3) {
            let written = match choices.below(4) {
                0 => format!("password = \"{IN_TEXT}\"\n"),
                1 => format!("auth = {{ basic = {{ username = \"me\", password = \"{IN_TEXT}\" }} }}\n"),
                2 => format!("security = {{ protocol = \"sasl_ssl\", username = \"me\", password = {{ file = {secret:?} }} }}\n"),
                _ => format!("auth = {{ bearer = {{ token = {{ file = {secret:?} }} }} }}\n"),
            };
            let line = line_starts(&text);
            text.insert_str(*choices.pick(&line), &written);
        }
        for _ in 0..choices.below(5) {
            change(&mut text, &files, choices);
        }
        choices.show("text", &text);
        let path = Path::new("a.toml");
        let report = match parse(&text, path, &folder()) {
            Ok(loaded) => {
                if format!("{:?}", loaded.config).contains(FROM_FILE) {
                    return Err("the configuration shows a secret".to_owned());
                }
                if loaded.report.has_errors() {
                    return Err("errors, and yet a configuration".to_owned());
                }
                loaded.report
            }
            Err(report) => {
                if !report.has_errors() {
                    return Err("no configuration, and yet no error".to_owned());
                }
                report
            }
        };
        shows(&report, &text)
    });
}

fn shows(report: &Report, text: &str) -> Result<(), String> {
    if report.text.len() != text.len() {
        return Err("the shown text has other places".to_owned());
    }
    for problem in &report.problems {
        let places = [&problem.at].into_iter().chain(problem.beside.iter().map(|(at, _)| at));
        for at in places {
            if text.get(at.clone()).is_none() {
                return Err(format!("{at:?} of {}: {problem:?}", text.len()));
            }
        }
        if problem.message.trim().is_empty() {
            return Err(format!("a problem without words: {problem:?}"));
        }
    }
    let shown = report.render(false);
    let coloured = report.render(true);
    let all = format!("{shown}{coloured}{:?}{}", report.problems, report.summary());
    if all.contains(FROM_FILE) {
        return Err(format!("the secret of the file is shown: {shown}"));
    }
    // In other places than where secrets stand, nobody can know it for one.
    let is_known =
        text.match_indices(IN_TEXT).all(|(at, _)| text[..at].ends_with("password = \"") && text[at + IN_TEXT.len()..].starts_with('"'));
    if is_known && all.contains(IN_TEXT) {
        return Err(format!("the secret of the text is shown: {shown}"));
    }
    let carets = shown.matches("--> a.toml:").count();
    if carets < report.problems.len() { Err(format!("{carets} places for {} problems: {shown}", report.problems.len())) } else { Ok(()) }
}

fn line_starts(text: &str) -> Vec<usize> {
    [0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Changes a text as people and accidents do: characters, values, lines.
fn change(text: &mut String, files: &[String], choices: &mut Choices) {
    const CHARACTERS: &[&str] = &[
        "", "\"", "'", "[", "]", "{", "}", "=", ".", ",", "\n", "é", "#", "1", "\"\"\"", "\r\n", "\t", "\0", "\u{feff}", "😀", "\\u", "[[",
        "_",
    ];
    const VALUES: &[&str] = &[
        "\"\"",
        "0",
        "-1",
        "1e400",
        "18446744073709551616",
        "0x_",
        "true",
        "[]",
        "{}",
        "nan",
        "2026-01-31T00:00:00Z",
        "\"99999999999999999999 GiB\"",
        "\"1.5.5 s\"",
        "\"http://a:b@c\"",
        "\"${destination}\"",
        "\"${\"",
        "\"(\"",
        "\"^.*$\"",
        "[\"\", 1]",
        "{ env = \"HOME\" }",
        "{ env = \"\" }",
        "{ file = \"good.toml\" }",
        "{ a = { b = { c = 1 } } }",
        "\"\\u0000\"",
        "'a\\b'",
        "\"é😀\"",
        "[[[[[[[[]]]]]]]]",
    ];
    let starts = line_starts(text);
    let at = *choices.pick(&starts);
    let end = text[at..].find('\n').map_or(text.len(), |length| at + length + 1);
    match choices.below(7) {
        0 => {
            let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let from = choices.below(boundaries.len());
            let to = (from + choices.below(3)).min(boundaries.len() - 1);
            let other: &str = choices.pick::<&str>(CHARACTERS);
            text.replace_range(boundaries[from]..boundaries[to], other);
        }
        1 => {
            // Another value for a key.
            let line = text[at..end].to_owned();
            if let Some((key, _)) = line.split_once('=') {
                text.replace_range(at..end, &format!("{key}= {}\n", choices.pick(VALUES)));
            }
        }
        2 => drop(text.drain(at..end)),
        3 => {
            let line = text[at..end].to_owned();
            text.insert_str(at, &line);
        }
        4 => {
            // A line of another file.
            let other = choices.pick(files);
            let lines: Vec<&str> = other.lines().collect();
            if !lines.is_empty() {
                let line = format!("{}\n", choices.pick(&lines));
                text.insert_str(at, &line);
            }
        }
        5 => {
            // A key that is nearly right.
            if let Some(length) = text[at..end].find('=').filter(|length| *length > 2) {
                let within = at + 1;
                if text.is_char_boundary(within) && text.is_char_boundary(within + 1) && length > 2 {
                    text.remove(within);
                }
            }
        }
        _ => text.truncate(at),
    }
}
