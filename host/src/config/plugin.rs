//! `[plugin.NAME]`: a WebAssembly component and its limits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Fault;
use super::text::{ByteSize, DurationText, FilePath};
use super::tree::{AnyTable, PluginConfig};

/// Components inside the binary; a `[plugin.NAME]` with a `path` and one of these names wins.
pub const BUNDLED: [&str; 3] = ["destination-pattern", "filter", "row-to-event"];

/// A plugin, checked.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Where its component comes from.
    pub component: Component,
    /// Its limits and options.
    pub limits: Limits,
    /// `[plugin.NAME] config`: for steps that bring none of their own.
    pub config: Option<PluginConfig>,
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Component {
    /// Inside the binary, by name.
    Bundled(String),
    /// A file; `sha256`, where given, is 64 lower-case hexadecimal digits that its bytes must have.
    File {
        /// The file.
        path: FilePath,
        /// Its digest.
        sha256: Option<String>,
    },
}

/// What a plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance.
    pub memory_max: ByteSize,
    /// Time for one batch.
    pub deadline: DurationText,
    /// Time for `init`.
    pub init_deadline: DurationText,
    /// Log lines a second; further ones are counted.
    pub log_lines_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        PluginWritten::default().limits()
    }
}

/// `[plugin.NAME]`: a component and its limits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PluginWritten {
    /// The component's file. Only bundled plugins do without.
    pub path: Option<FilePath>,
    /// SHA-256 of the file, hexadecimal: another file is refused.
    pub sha256: Option<String>,
    /// Memory of one instance.
    pub memory_max: ByteSize,
    /// Time for one batch; past it the batch is halved until the record that takes too long is found.
    pub deadline: DurationText,
    /// Time for reading its configuration.
    pub init_deadline: DurationText,
    /// Log lines a second; further ones are counted.
    pub log_lines_max: u32,
    /// Handed to the plugin as JSON; its keys are the plugin's own. A step of a route may bring its own instead.
    pub config: Option<AnyTable>,
}

impl Default for PluginWritten {
    fn default() -> Self {
        PluginWritten {
            path: None,
            sha256: None,
            memory_max: ByteSize::mib(64),
            deadline: DurationText::s(1),
            init_deadline: DurationText::s(5),
            log_lines_max: 100,
            config: None,
        }
    }
}

/// What one linear memory can have at most.
const MEMORY_MAX: ByteSize = ByteSize::mib(4096);

impl PluginWritten {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            memory_max: self.memory_max,
            deadline: self.deadline,
            init_deadline: self.init_deadline,
            log_lines_max: self.log_lines_max,
        }
    }

    /// What is wrong beyond single values.
    pub(super) fn check(&self, name: &str) -> Vec<Fault> {
        let mut faults = Vec::new();
        match &self.path {
            None if !BUNDLED.contains(&name) => {
                let remedy = format!("add path = \"FILE.wasm\"; bundled plugins, which need none, are {}", BUNDLED.join(", "));
                faults.push(Fault::new("", format!("plugin \"{name}\" has no path"), remedy));
            }
            Some(path) => faults.extend(check_component(path)),
            None => {}
        }
        if let Some(digest) = &self.sha256 {
            if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                faults.push(Fault::new("sha256", "this is not a SHA-256", "it has 64 hexadecimal digits, as `sha256sum FILE` prints them"));
            } else if self.path.is_none() {
                faults.push(Fault::new("sha256", "a digest without a path", "add path = \"FILE.wasm\", or remove it"));
            }
        }
        if self.memory_max < ByteSize::kib(64) || self.memory_max > MEMORY_MAX {
            let wrong = format!("{} is no memory that a plugin can have", self.memory_max);
            faults.push(Fault::new("memory_max", wrong, "choose from \"64 KiB\" (one page) to \"4 GiB\""));
        }
        for (key, deadline) in [("deadline", self.deadline), ("init_deadline", self.init_deadline)] {
            if deadline < DurationText::ms(10) {
                let wrong = format!("{deadline} is shorter than the clock of deadlines can tell");
                faults.push(Fault::new(key, wrong, "choose at least \"10 ms\""));
            }
        }
        faults
    }
}

fn check_component(path: &FilePath) -> Vec<Fault> {
    let shown = path.display();
    let fault = |wrong: String, remedy: &str| vec![Fault::new("path", wrong, remedy)];
    let mut start = [0; 8];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            fault(format!("{shown} is not a WebAssembly component"), "build it again: the file is shorter than a component's first bytes")
        }
        Err(error) => fault(
            format!("the component {shown} cannot be read: {error}"),
            "build it, or correct the path: a relative one counts from the folder of this file",
        ),
        Ok(()) if !start.starts_with(b"\0asm") => {
            fault(format!("{shown} is not a WebAssembly component"), "it has to start with the bytes \\0asm")
        }
        // Layer 0 is a core module, layer 1 a component.
        Ok(()) if start[6] == 0 => fault(
            format!("{shown} is a core WebAssembly module, not a component"),
            "build it with the guest SDK (crate `anabranch-guest`), whose last step makes a component",
        ),
        Ok(()) => Vec::new(),
    }
}
