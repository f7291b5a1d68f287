//! `anabranch demo` as a user meets it: the real binary, its summary and its exit code.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    command.arg("demo").arg("--dir").arg(folder).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A plain build has no plugins inside: then the demo has to say what is missing.
fn has_plugins(output: &Output) -> bool {
    if anabranch::plugin::bundled().iter().any(|(name, _)| *name == "filter") {
        return true;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("make plugins"), "{said}");
    false
}

/// The last line of the standard output; it adds up.
fn summary(output: &Output) -> Json {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{text}");
    let line: Json = serde_json::from_str(lines[0]).unwrap();
    let number = |value: &Json| value.as_u64().unwrap();
    let (lake, http) = (number(&line["delivered"]["lake"]), number(&line["delivered"]["http"]));
    assert_eq!(number(&line["read"]), number(&line["filtered"]) + number(&line["dead_letters"]) + lake, "{line}");
    assert_eq!(lake, http, "{line}");
    assert_eq!(lake, number(&line["delivered"]["live"]), "{line}");
    assert_eq!(number(&line["updates"]), lake, "{line}");
    assert_eq!(number(&line["table_rows"]), lake, "{line}");
    assert!(line["seconds"].is_number(), "{line}");
    line
}

#[test]
fn the_numbers_of_a_demo_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &["--records", "30000", "--json"]).output().unwrap();
    if !has_plugins(&output) {
        return;
    }
    let line = summary(&output);
    assert_eq!(line["read"], 30_000);
    assert!(line["filtered"].as_u64().unwrap() > 10_000, "{line}");
    // One of 2,500 records is one that nobody can read; each is in the file, with its reason.
    assert_eq!(line["dead_letters"], 12);
    let letters = std::fs::read_to_string(folder.path().join("dead-letters.jsonl")).unwrap();
    let letters: Vec<Json> = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 12);
    assert!(letters.iter().all(|letter| letter["class"] == "decode"), "{letters:?}");

    // The configuration that it wrote is one that others may begin with.
    let config = folder.path().join("anabranch.toml");
    let checked = Command::new(env!("CARGO_BIN_EXE_anabranch")).arg("check").arg(config).output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));

    // A second demo would meet the first one's ledger.
    let again = demo(folder.path(), &["--records", "1"]).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("choose another --dir"));
}

#[test]
fn an_interrupted_demo_lets_everything_arrive_and_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = demo(folder.path(), &["--rate", "5000", "--json"]).spawn().unwrap();
    let mut progress = BufReader::new(running.stderr.take().unwrap()).lines().map_while(Result::ok);
    let reads = |line: &String| line.contains("  read ") && !line.contains("  read 0 ");
    if progress.any(|line| reads(&line)) {
        let pid = running.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    }
    let said: Vec<String> = progress.collect();
    let mut output = running.wait_with_output().unwrap();
    output.stderr = said.join("\n").into_bytes();
    if anabranch::plugin::bundled().iter().any(|(name, _)| *name == "filter") {
        let line = summary(&output);
        assert!(line["read"].as_u64().unwrap() > 0, "{line}");
    } else {
        assert_eq!(output.status.code(), Some(1));
    }
}
