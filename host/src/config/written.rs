//! The file as written: its tables, each read on its own, and put together.
//!
//! Invariant: a table that is wrong hides no other table.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::{self, Names};
use super::plugin::PluginWritten;
use super::problem::{Fault, Problem};
use super::read::Entry;
use super::route::RouteWritten;
use super::text::{Name, Remedy};
use super::tree::{Found, Part, PluginConfig, Tree};
use super::{Config, DiffusionSource, KafkaSource, Log, Map, Registry, Sink, Source, suggest, syntax};
use crate::sink;

/// Keys at the top of the file.
const TOP: [&str; 7] = ["source", "registry", "plugin", "sink", "route", "listen", "log"];
const SOURCE_KINDS: [&str; 2] = ["diffusion", "kafka"];
const SINK_KINDS: [&str; 7] = ["delta", "diffusion", "file", "http", "kafka", "null", "stdout"];

/// One named table and its parts.
pub(super) struct Named<'t, T> {
    pub part: Part<'t>,
    pub value: T,
    /// Keys that were probably meant by unknown ones: they are not missing too.
    pub meant: HashSet<String>,
    /// Entries that were reported already.
    pub skipped: HashSet<Entry>,
}

/// All tables of the file.
pub(super) struct Written<'t> {
    pub sources: Map<Name, Named<'t, Source>>,
    pub registries: Map<Name, Named<'t, Registry>>,
    pub plugins: Map<Name, Named<'t, PluginWritten>>,
    pub sinks: Map<Name, Named<'t, Sink>>,
    pub routes: Map<Name, Named<'t, RouteWritten>>,
    /// Names that are taken, be their tables right or wrong.
    pub names: Names,
    pub root: &'t Tree<'t>,
    pub text: Arc<str>,
}

/// Reads `text`; relative paths in it count from `folder`. With the configuration come the ranges of secrets in plain text.
pub(super) fn read(text: &str, folder: &Path, problems: &mut Vec<Problem>) -> (Option<Config>, Vec<Range<usize>>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    // What follows from broken syntax would only confuse.
    if syntax::report(text, &errors, problems) {
        return (None, Vec::new());
    }
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    let mut reader = Reader { folder, problems, plain_secrets: Vec::new() };
    let (written, listen, log) = reader.top(&root, text);
    let plain_secrets = reader.plain_secrets;
    (check::config(written, listen, log, problems), plain_secrets)
}

struct Reader<'t, 'p> {
    folder: &'t Path,
    problems: &'p mut Vec<Problem>,
    plain_secrets: Vec<Range<usize>>,
}

impl<'t> Reader<'t, '_> {
    fn error(&mut self, at: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::error(at, message, help));
    }

    fn top(&mut self, root: &'t Tree<'t>, text: &str) -> (Written<'t>, Option<SocketAddr>, Log) {
        let DeValue::Table(table) = root.get_ref() else { unreachable!("the root of a file is a table") };
        let mut written = Written {
            sources: Map::new(),
            registries: Map::new(),
            plugins: Map::new(),
            sinks: Map::new(),
            routes: Map::new(),
            names: Names::default(),
            root,
            text: text.into(),
        };
        let mut listen = None;
        let mut log = Log::default();
        for (key, value) in table.iter() {
            let part = Part { tree: value, header: header(key), folder: self.folder };
            match key.get_ref().as_ref() {
                "listen" => listen = self.listen(value),
                "log" => log = self.read(part).map_or_else(Log::default, |log: Named<'_, Log>| log.value),
                "source" => {
                    for (name, part) in self.named(key, value, "source", Some("KIND")) {
                        written.names.sources.insert(name.clone());
                        let Some((kind, part)) = self.kind(&name, part, "source", &SOURCE_KINDS) else { continue };
                        if kind == "diffusion" {
                            written.names.diffusion_sources.insert(name.clone());
                        }
                        written.sources.extend(self.source(kind, part).map(|source| (name, source)));
                    }
                }
                "registry" => {
                    for (name, part) in self.named(key, value, "registry", None) {
                        written.names.registries.insert(name.clone());
                        written.registries.extend(self.read(part).map(|registry| (name, registry)));
                    }
                }
                "plugin" => {
                    for (name, part) in self.named(key, value, "plugin", None) {
                        written.names.plugins.insert(name.clone());
                        written.plugins.extend(self.read(part).map(|plugin| (name, plugin)));
                    }
                }
                "sink" => {
                    for (name, part) in self.named(key, value, "sink", Some("KIND")) {
                        written.names.sinks.insert(name.clone());
                        let Some((kind, part)) = self.kind(&name, part, "sink", &SINK_KINDS) else { continue };
                        written.sinks.extend(self.sink(kind, part).map(|sink| (name, sink)));
                    }
                }
                "route" => {
                    for (name, part) in self.named(key, value, "route", None) {
                        written.names.routes.insert(name.clone());
                        written.routes.extend(self.read(part).map(|route| (name, route)));
                    }
                }
                other => {
                    let help = match other {
                        "sources" | "input" | "inputs" => "did you mean [source.NAME.KIND]?".into(),
                        "sinks" | "output" | "outputs" => "did you mean [sink.NAME.KIND]?".into(),
                        "pipeline" | "pipelines" | "routes" => "did you mean [route.NAME]?".into(),
                        _ => suggest::suggestion(other, TOP, "tables"),
                    };
                    self.error(key.span(), format!("unknown table `{other}`"), help);
                }
            }
        }
        (written, listen, log)
    }

    fn read<T: DeserializeOwned>(&mut self, part: Part<'t>) -> Option<Named<'t, T>> {
        let Found { value, meant, skipped, plain_secrets } = part.read(self.problems);
        self.plain_secrets.extend(plain_secrets);
        Some(Named { part, value: value?, meant, skipped })
    }

    fn source(&mut self, kind: &str, part: Part<'t>) -> Option<Named<'t, Source>> {
        match kind {
            "diffusion" => wrap(self.read(part), Source::Diffusion),
            "kafka" => wrap(self.read(part), Source::Kafka),
            other => unreachable!("{other} is none of SOURCE_KINDS"),
        }
    }

    fn sink(&mut self, kind: &str, part: Part<'t>) -> Option<Named<'t, Sink>> {
        match kind {
            "delta" => {
                let folder = self.folder;
                wrap(self.read(part), |mut config: sink::delta::Config| {
                    for place in [&mut config.uri, &mut config.root].into_iter().flatten() {
                        // A URI stands for itself; a path counts from the folder of the file, as all paths do.
                        if !place.contains("://") {
                            *place = folder.join(&place).to_string_lossy().into_owned();
                        }
                    }
                    Sink::Delta(config)
                })
            }
            "diffusion" => wrap(self.read(part), Sink::Diffusion),
            "file" => wrap(self.read(part), Sink::File),
            "http" => wrap(self.read(part), Sink::Http),
            "kafka" => wrap(self.read(part), Sink::Kafka),
            "null" => wrap(self.read(part), Sink::Null),
            "stdout" => wrap(self.read(part), Sink::Stdout),
            other => unreachable!("{other} is none of SINK_KINDS"),
        }
    }

    fn listen(&mut self, value: &'t Tree<'t>) -> Option<SocketAddr> {
        let parsed = value.get_ref().as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.error(value.span(), "this is not an address to listen at", "write \"IP:PORT\", such as \"127.0.0.1:9464\"");
        }
        parsed
    }

    /// The tables `[section.NAME]`.
    fn named(
        &mut self,
        section: &Spanned<std::borrow::Cow<'t, str>>,
        value: &'t Tree<'t>,
        word: &str,
        kind: Option<&str>,
    ) -> Vec<(Name, Part<'t>)> {
        let form = kind.map_or_else(|| format!("[{word}.NAME]"), |kind| format!("[{word}.NAME.{kind}]"));
        let DeValue::Table(table) = value.get_ref() else {
            self.error(section.span(), format!("`{word}` is a table of {word}s"), format!("write {form}"));
            return Vec::new();
        };
        let mut list = Vec::new();
        for (key, value) in table.iter() {
            if !matches!(value.get_ref(), DeValue::Table(_)) {
                self.error(key.span(), format!("`{}` stands where a {word}'s name is expected", key.get_ref()), format!("write {form}"));
                continue;
            }
            match key.get_ref().parse::<Name>() {
                Ok(name) => list.push((name, Part { tree: value, header: header(key), folder: self.folder })),
                Err(Remedy { wrong, remedy }) => self.error(key.span(), wrong, remedy),
            }
        }
        list
    }

    /// The one table below `[section.NAME]`: its kind.
    fn kind(&mut self, name: &Name, part: Part<'t>, word: &str, kinds: &'static [&'static str]) -> Option<(&'static str, Part<'t>)> {
        let DeValue::Table(table) = part.tree.get_ref() else { return None };
        let mut chosen = None;
        for (key, value) in table.iter() {
            let written = key.get_ref().as_ref();
            let Some(kind) = kinds.iter().find(|kind| **kind == written) else { continue };
            if !matches!(value.get_ref(), DeValue::Table(_)) {
                self.error(key.span(), format!("`{written}` is a table"), format!("write [{word}.{name}.{written}]"));
                return None;
            }
            if chosen.is_some() {
                self.error(key.span(), format!("the {word} `{name}` has two kinds"), "keep one, and give the other a name of its own");
                return None;
            }
            chosen = Some((*kind, Part { tree: value, header: header(key), folder: self.folder }));
        }
        if chosen.is_none() && table.is_empty() {
            self.error(
                part.header.clone(),
                format!("the {word} `{name}` has no kind"),
                format!("write [{word}.{name}.KIND], KIND being {}", kinds.join(", ")),
            );
        }
        for (key, value) in table.iter().filter(|(key, _)| !kinds.contains(&key.get_ref().as_ref())) {
            let written = key.get_ref().as_ref();
            match (value.get_ref(), &chosen) {
                (DeValue::Table(_), None) => {
                    let help = suggest::suggestion(written, kinds.iter().copied(), "kinds");
                    self.error(key.span(), format!("`{written}` is no kind of {word}"), help);
                }
                (value, None) if matches!(written, "kind" | "type") => {
                    let meant = value.as_str().filter(|kind| kinds.contains(kind)).unwrap_or("KIND");
                    self.error(
                        key.span(),
                        format!("the kind of a {word} is part of its table's name"),
                        format!("write [{word}.{name}.{meant}]"),
                    );
                }
                (_, chosen) => {
                    let kind = chosen.as_ref().map_or("KIND", |(kind, _)| *kind);
                    self.error(
                        key.span(),
                        format!("the key `{written}` stands outside of its {word}'s kind"),
                        format!("move it into [{word}.{name}.{kind}]"),
                    );
                }
            }
        }
        chosen
    }
}

/// The same of one kind as of any kind.
fn wrap<'t, T, K>(named: Option<Named<'t, T>>, kind: impl FnOnce(T) -> K) -> Option<Named<'t, K>> {
    let Named { part, value, meant, skipped } = named?;
    Some(Named { part, value: kind(value), meant, skipped })
}

fn header<'t>(key: &'t Spanned<std::borrow::Cow<'t, str>>) -> Range<usize> {
    key.span()
}

impl<T> Named<'_, T> {
    /// Reports what the table finds wrong with itself.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>, problems: &mut Vec<Problem>) {
        // What is missing only because its key was mistyped or its value is wrong is no problem of its own.
        let is_known = |fault: &Fault| {
            let is_security = fault.path.first().is_some_and(|key| key == "security");
            fault.path.last().is_some_and(|key| self.meant.contains(key))
                || self.part.is_among(&fault.path, &self.skipped)
                // Whether there is a login or TLS is not known then.
                || (is_security && self.part.is_among(&["security".to_owned(), "protocol".to_owned()], &self.skipped))
        };
        problems.extend(faults.into_iter().filter(|fault| !is_known(fault)).map(|fault| self.part.problem(fault)));
    }
}

impl Written<'_> {
    /// The configuration of a plugin that stands at `path` of the file.
    pub fn plugin_config(&self, path: &[&str], name_at: &Range<usize>) -> PluginConfig {
        PluginConfig::of(self.root, path, self.text.clone()).unwrap_or_else(|| PluginConfig::none(name_at.clone(), self.text.clone()))
    }
}

/// The file as a JSON Schema, for editors.
pub fn schema() -> serde_json::Value {
    /// For the schema only: what stands where in the file.
    #[derive(JsonSchema)]
    #[schemars(deny_unknown_fields, rename = "anabranch configuration")]
    #[expect(dead_code, reason = "its fields are read by the derived schema")]
    struct File {
        /// Address of metrics (`/metrics`) and health (`/healthz`, `/readyz`), such as `"127.0.0.1:9464"`; without it there are none.
        listen: Option<String>,
        /// How the router logs.
        log: Option<Log>,
        /// Where records come from: `[source.NAME.KIND]`.
        source: Map<Name, SourceKinds>,
        /// Where schemas come from: `[registry.NAME]`.
        registry: Option<Map<Name, Registry>>,
        /// WebAssembly components and their limits: `[plugin.NAME]`.
        plugin: Option<Map<Name, PluginWritten>>,
        /// Where records go to: `[sink.NAME.KIND]`.
        sink: Map<Name, SinkKinds>,
        /// From topics through plugins to sinks: `[route.NAME]`.
        route: Map<Name, RouteWritten>,
    }

    /// A source by its kind.
    #[derive(JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    #[expect(dead_code, reason = "its variants are read by the derived schema")]
    enum SourceKinds {
        Diffusion(DiffusionSource),
        Kafka(KafkaSource),
    }

    /// A sink by its kind.
    #[derive(JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    #[expect(dead_code, reason = "its variants are read by the derived schema")]
    enum SinkKinds {
        Delta(sink::delta::Config),
        Diffusion(sink::diffusion::Config),
        File(sink::file::Config),
        Http(sink::http::Config),
        Kafka(sink::kafka::Config),
        Null(sink::null::Config),
        Stdout(sink::stdout::Config),
    }

    schemars::schema_for!(File).to_value()
}
