//! The servers' own files, from Maven, kept outside the checkout.
//!
//! Invariant: a folder of the cache is complete or not there: it is filled under another name and renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::process::run;

/// The jars of Apache Kafka.
pub fn kafka() -> PathBuf {
    let pom = concat!(env!("CARGO_MANIFEST_DIR"), "/poms/kafka.xml");
    fetched("kafka-4.1.0", "Apache Kafka 4.1.0 (55 MB)", |folder| {
        let output = format!("-DoutputDirectory={}", folder.display());
        run("mvn", ["-q", "-B", "-U", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime", &output]);
    })
}

/// The folder of Apicurio Registry, a schema registry with Confluent's API.
pub fn registry() -> PathBuf {
    fetched("apicurio-registry-3.0.9", "Apicurio Registry 3.0.9 (110 MB)", |folder| {
        let output = format!("-DoutputDirectory={}", folder.display());
        let artifact = "-Dartifact=io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all";
        run("mvn", ["-q", "-B", "-U", "dependency:unpack", artifact, &output]);
    })
}

fn cache() -> PathBuf {
    let cache = match std::env::var_os("ANABRANCH_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME or ANABRANCH_CACHE is set")).join(".cache/anabranch"),
    };
    cache.join("servers")
}

fn fetched(name: &str, what: &str, fetch: impl FnOnce(&Path)) -> PathBuf {
    let cache = cache();
    let folder = cache.join(name);
    fs::create_dir_all(&cache).unwrap();
    // One process fetches, the others wait for it.
    let lock = File::create(cache.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !folder.exists() {
        // Past the capture of tests: this takes a while, and somebody waits.
        let _ = writeln!(std::io::stderr(), "servers: fetching {what} from Maven into {}, once", folder.display());
        let partial = cache.join(format!("{name}.partial"));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir(&partial).unwrap();
        fetch(&partial);
        fs::rename(&partial, &folder).unwrap();
    }
    folder
}
