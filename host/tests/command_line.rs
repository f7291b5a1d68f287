//! The command line as a user meets it: what goes to which stream, and the exit code.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

fn anabranch(arguments: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    Command::new(env!("CARGO_BIN_EXE_anabranch")).args(arguments).current_dir(folder).env_remove("NO_COLOR").output().unwrap()
}

#[test]
fn check_shows_all_problems_and_exits_with_2() {
    let output = anabranch(&["check", "unknown_names.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/unknown_names.stderr");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), std::fs::read_to_string(golden).unwrap());
}

#[test]
fn check_of_a_good_file_says_what_goes_where_and_exits_with_0() {
    let output = anabranch(&["check", "good_plain.toml"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("route orders: shop (^orders\\..*) -> out, stops at the first bad record"), "{shown}");
}

#[test]
fn a_missing_file_and_wrong_arguments_are_the_users_to_mend() {
    for arguments in
        [&["check", "nowhere.toml"][..], &["check"], &["chek", "good_plain.toml"], &["try", "good_plain.toml", "--route", "ordrs"]]
    {
        let output = anabranch(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_schema_is_json_that_names_every_table() {
    let output = anabranch(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for table in ["source", "registry", "plugin", "sink", "route", "log", "listen"] {
        assert!(schema["properties"][table].is_object(), "{table}");
    }
}

#[test]
fn check_warns_when_plugins_may_want_more_memory_than_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.toml");
    let config = |workers: u32| {
        format!(
            "[source.shop.kafka]\nbrokers = [\"127.0.0.1:9\"]\n[plugin.filter]\nmemory_max = \"4 GiB\"\n[sink.out.stdout]\n[route.orders]\nfrom = \"shop\"\n\
             topics = [\"orders\"]\nvalue = \"json\"\nworkers = {workers}\nthrough = [{{ plugin = \"filter\", config = {{ where = \"a > 1\" }} }}]\nto = [\"out\"]\n"
        )
    };
    for (workers, warns) in [(1, false), (1024, true)] {
        std::fs::write(&file, config(workers)).unwrap();
        let output = anabranch(&["check", file.to_str().unwrap()]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(told.contains("may use 4096 GiB"), warns, "{workers} workers: {told}");
        assert_eq!(told.contains("lower `memory_max` of plugins"), warns, "{workers} workers: {told}");
    }
}
