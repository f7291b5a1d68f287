//! Every mistake that a user can make in a configuration has a pair `config/NAME.toml` and `config/NAME.stderr`.
//!
//! To renew the expected texts: `RENEW=1 cargo test -p anabranch --test config_errors`; read the diff before committing.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use anabranch::config::{self, LoadError};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    cases.sort();
    cases
}

/// What a user sees; paths as if the command had been started in the folder of the file.
fn shown(path: &Path) -> String {
    let text = match config::load(path) {
        Ok(loaded) => loaded.report.render(false),
        Err(LoadError::Wrong(report)) => format!("{}\n{}\n", report.render(false), report.summary()),
        Err(error) => error.to_string(),
    };
    text.replace(&format!("{}/", folder().display()), "")
}

#[test]
fn every_mistake_is_shown_as_expected() {
    let renew = std::env::var_os("RENEW").is_some();
    let mut differing = Vec::new();
    for path in cases() {
        let found = shown(&path);
        let expected_path = path.with_extension("stderr");
        if renew {
            std::fs::write(&expected_path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if found != expected {
            differing.push(format!("{}\n--- expected\n{expected}\n--- found\n{found}", path.display()));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n\n"));
}

#[test]
fn there_are_enough_cases_and_each_finds_something() {
    let cases = cases();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    for path in cases {
        let shown = shown(&path);
        let is_good = path.file_stem().is_some_and(|name| name.to_string_lossy().starts_with("good"));
        assert_eq!(is_good, shown.is_empty(), "{}:\n{shown}", path.display());
    }
}

#[test]
fn no_secret_that_stands_in_a_file_is_repeated() {
    for path in cases() {
        let shown = shown(&path);
        assert!(!shown.contains("hunter2"), "{}:\n{shown}", path.display());
    }
}

#[test]
fn no_mistake_makes_the_reader_panic() {
    let inserted = ["", "\"", "'", "[", "]", "{", "}", "=", ".", ",", "\n", "\u{e9}", "#", "1"];
    for (index, path) in cases().into_iter().enumerate() {
        let text = std::fs::read_to_string(&path).unwrap();
        for at in (index % 3..text.len()).step_by(3).filter(|at| text.is_char_boundary(*at)) {
            let rest = text[at..].chars().next().map_or(at, |next| at + next.len_utf8());
            let changed = format!("{}{}{}", &text[..at], inserted[at % inserted.len()], &text[rest..]);
            let report = match config::parse(&changed, &path, &folder()) {
                Ok(loaded) => loaded.report,
                Err(report) => report,
            };
            report.render(false);
        }
    }
}
