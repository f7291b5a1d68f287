//! `file`: JSON lines in files that are rotated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ByteSize, DurationText, Fault, FilePath};

/// `[sink.NAME.file]`: JSON lines in a file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file; records are appended.
    pub path: FilePath,
    /// When a file is closed and the next one begun.
    #[serde(default)]
    pub rotate: Rotate,
    /// How long records wait for a common flush to the disk.
    #[serde(default = "Config::flush_interval")]
    pub flush_interval: DurationText,
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

    /// What is wrong beyond single values.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.path.is_dir() {
            faults.push(Fault::new("path", format!("{} is a folder", self.path.display()), "name a file in it"));
        }
        if self.rotate.bytes_max.is_some_and(|size| size.get() == 0) {
            faults.push(Fault::new(
                "rotate.bytes_max",
                "a file of 0 bytes holds nothing",
                "choose a size such as \"256 MiB\", or leave it out",
            ));
        }
        if self.rotate.age_max.is_some_and(|age| age.get().is_zero()) {
            faults.push(Fault::new("rotate.age_max", "a file of age 0 holds nothing", "choose an age such as \"1 h\", or leave it out"));
        }
        faults
    }
}
