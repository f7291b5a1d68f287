//! From written to checked: what no table can tell alone. Names lead somewhere, nothing is there twice, no route feeds itself.
//!
//! Invariant: a configuration comes out only where no problem is an error.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use toml::Spanned;

use super::kafka::Isolation;
use super::plugin::{self, BUNDLED, Limits, Plugin};
use super::problem::{Fault, Problem, Severity};
use super::route::{AfterDeadLetter, KeyFormat, Route, RouteWritten, Start, Step, StepWritten, Topics, TopicsWritten, ValueFormat};
use super::text::Name;
use super::written::{Named, Written};
use super::{Config, Log, Map, Sink, suggest};
use crate::sink;

/// Names that are taken, be their tables right or wrong: who uses a wrong one makes no mistake of his own.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub sources: BTreeSet<Name>,
    /// Those of `sources` that are none of Kafka.
    pub diffusion_sources: BTreeSet<Name>,
    pub registries: BTreeSet<Name>,
    pub plugins: BTreeSet<Name>,
    pub sinks: BTreeSet<Name>,
    pub routes: BTreeSet<Name>,
}

/// What a topic's name may be (Kafka's own rule); keys are the caller's.
pub fn check_topic(key: &str, topic: &str) -> Option<Fault> {
    const REMEDY: &str = "a topic's name has 1 to 249 letters, digits, \".\", \"_\" or \"-\"";
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > 249 || matches!(topic, "." | "..") || !topic.chars().all(fits) {
        let remedy = if topic.contains(['*', '^', '$', '(']) { "for several topics write topics = { regex = '^..' }" } else { REMEDY };
        return Some(Fault::new(key, format!("{topic:?} cannot be a topic"), remedy));
    }
    None
}

/// Puts everything together; `None` where a problem is an error.
pub(super) fn config(mut written: Written<'_>, listen: Option<SocketAddr>, log: Log, problems: &mut Vec<Problem>) -> Option<Config> {
    for source in written.sources.values() {
        source.faults(source.value.check(), problems);
    }
    for registry in written.registries.values() {
        registry.faults(registry.value.check(), problems);
    }
    for sink in written.sinks.values() {
        sink.faults(sink.value.check(), problems);
    }
    inherit_brokers(&mut written, problems);
    choose_registries(&mut written, problems);
    check_shared_places(&written, problems);
    if let Some(problem) = check_log(&log, &written) {
        problems.push(problem);
    }

    let mut plugins = check_plugins(&written, problems);
    let mut routes = Map::new();
    for (name, named) in &written.routes {
        let mut check = RouteCheck { name, named, written: &written, problems };
        if let Some(route) = check.route(&mut plugins) {
            routes.insert(name.clone(), route);
        }
    }
    check_groups(&written, &routes, problems);
    if written.names.routes.is_empty() {
        let help = "add [route.NAME] with topics, value and to, beside [source.NAME.KIND] and [sink.NAME.KIND]";
        problems.push(Problem::error(0..0, "there is no route, so there is nothing to do", help));
    } else if !has_errors(problems) {
        // A mistyped name would make the right one look unused.
        warn_unused(&written, problems);
    }

    if has_errors(problems) {
        return None;
    }
    Some(Config {
        sources: written.sources.into_iter().map(|(name, source)| (name, source.value)).collect(),
        registries: written.registries.into_iter().map(|(name, registry)| (name, registry.value)).collect(),
        plugins,
        sinks: written.sinks.into_iter().map(|(name, sink)| (name, sink.value)).collect(),
        routes,
        listen,
        log,
        text: written.text,
    })
}

fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

fn check_log(log: &Log, written: &Written<'_>) -> Option<Problem> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_word = !log.level.contains(['=', ',', '[']);
    let fault = if is_word && !LEVELS.contains(&log.level.to_lowercase().as_str()) {
        (format!("\"{}\" is no log level", log.level), suggest::suggestion(&log.level, LEVELS, "levels"))
    } else if let Err(error) = log.level.parse::<tracing_subscriber::filter::Targets>() {
        (format!("\"{}\" is no list of log levels: {error}", log.level), "write such as \"info,anabranch::sink=debug\"".into())
    } else {
        return None;
    };
    let table = written.root.get_ref().get("log")?;
    let at = table.get_ref().get("level").map_or_else(|| table.span(), Spanned::span);
    Some(Problem::error(at, fault.0, fault.1))
}

/// A Kafka sink without brokers has those of the only source.
fn inherit_brokers(written: &mut Written<'_>, problems: &mut Vec<Problem>) {
    let count = written.names.sources.len() - written.names.diffusion_sources.len();
    let only = written.sources.values().filter_map(|source| source.value.kafka()).next().filter(|_| count == 1);
    for sink in written.sinks.values_mut() {
        let Sink::Kafka(config) = &mut sink.value else { continue };
        if !config.brokers.is_empty() || sink.part.has("brokers") {
            continue;
        }
        if sink.part.has("security") {
            let fault = Fault::new(
                "security",
                "security without brokers",
                "add brokers = [\"host:port\"], or leave both out: they are then the Kafka source's",
            );
            problems.push(sink.part.problem(fault));
        } else if let Some(source) = only {
            config.brokers.clone_from(&source.brokers);
            config.security = source.security.clone();
        } else if count != 1 {
            let fault = Fault::new(
                "",
                "the sink has no brokers",
                "add brokers = [\"host:port\"]: only where there is exactly one Kafka source are its brokers taken",
            );
            problems.push(sink.part.problem(fault));
        }
    }
}

/// A Kafka sink that writes Avro needs a registry; the only one needs no name.
fn choose_registries(written: &mut Written<'_>, problems: &mut Vec<Problem>) {
    let names = &written.names.registries;
    for sink in written.sinks.values_mut() {
        let Sink::Kafka(config) = &mut sink.value else { continue };
        let fault = match &config.registry {
            Some(name) if !names.contains(name) => {
                let help = suggest::suggestion(name, names.iter().map(Name::as_str), "registries");
                Fault::new("registry", format!("there is no registry `{name}`"), help)
            }
            None if config.has_avro() && names.is_empty() => {
                let key = if config.value == sink::kafka::Payload::Avro { "value" } else { "key" };
                Fault::new(key, "Avro cannot be written without a registry", "add [registry.NAME] with url = \"http://host:8081\"")
            }
            None if config.has_avro() && names.len() > 1 => {
                let remedy = format!("add registry = \"NAME\", NAME being {}", joined(names));
                Fault::new("", "the sink writes Avro, and there are several registries", remedy)
            }
            None if config.has_avro() => {
                config.registry = names.first().cloned();
                continue;
            }
            _ => continue,
        };
        if !sink.part.has("registry") || config.registry.is_some() {
            problems.push(sink.part.problem(fault));
        }
    }
}

/// Two sinks that write one table or one file would destroy each other's work.
fn check_shared_places(written: &Written<'_>, problems: &mut Vec<Problem>) {
    let place = |(name, sink): (_, &Named<'_, Sink>)| {
        let (key, place) = match &sink.value {
            Sink::Delta(config) => match (&config.uri, &config.root) {
                (Some(uri), _) => ("uri", uri.clone()),
                (None, root) => ("root", root.clone()?),
            },
            Sink::File(config) => ("path", config.path.display().to_string()),
            _ => return None,
        };
        let place: PathBuf =
            Path::new(place.trim_start_matches("file://")).components().filter(|part| *part != Component::CurDir).collect();
        Some((sink.part.place(&[key.to_owned()]), name, place))
    };
    let mut places: Vec<_> = written.sinks.iter().filter_map(place).collect();
    places.sort_by_key(|(at, ..)| at.start);
    for (index, (at, name, place)) in places.iter().enumerate() {
        let Some((other_at, other, _)) = places[..index].iter().find(|(_, _, other)| other == place) else { continue };
        let message = format!("the sinks `{other}` and `{name}` write to the same place");
        let help = "two writers of one place do not know of each other: keep one sink, and name it in `to` of every route that needs it";
        problems.push(Problem::error(at.clone(), message, help).beside(other_at.clone(), format!("`{other}` writes here")));
    }
}

fn check_plugins(written: &Written<'_>, problems: &mut Vec<Problem>) -> Map<Name, Plugin> {
    let mut plugins = Map::new();
    for (name, named) in &written.plugins {
        named.faults(named.value.check(name), problems);
        let component = match &named.value.path {
            Some(path) => {
                plugin::Component::File { path: path.clone(), sha256: named.value.sha256.as_ref().map(|digest| digest.to_lowercase()) }
            }
            None => plugin::Component::Bundled(name.to_string()),
        };
        if BUNDLED.contains(&name.as_str()) && named.value.path.is_some() {
            let message = format!("[plugin.{name}] takes the place of the bundled plugin of this name");
            problems.push(Problem::warning(named.part.header.clone(), message, "choose another name if the bundled one is meant"));
        }
        let config = named.value.config.is_some().then(|| written.plugin_config(&["plugin", name, "config"], &named.part.header));
        plugins.insert(name.clone(), Plugin { component, limits: named.value.limits(), config });
    }
    plugins
}

/// Two routes in one consumer group would each get a part of the other's partitions.
fn check_groups(written: &Written<'_>, routes: &Map<Name, Route>, problems: &mut Vec<Problem>) {
    let mut seen: Map<&str, &Route> = Map::new();
    for route in routes.values() {
        let Some(other) = seen.insert(&route.group, route) else { continue };
        let at = written.routes[&route.name].part.place(&["group".to_owned()]);
        let message = format!("the routes `{}` and `{}` are in one consumer group, \"{}\"", other.name, route.name, route.group);
        problems.push(Problem::error(at, message, "give each route a group of its own, or leave `group` out"));
    }
}

fn warn_unused(written: &Written<'_>, problems: &mut Vec<Problem>) {
    let routes = || written.routes.values().map(|route| &route.value);
    // A route that could not be read may use anything.
    if written.routes.len() < written.names.routes.len() {
        return;
    }
    let listed = |route: &RouteWritten, name: &str| {
        let to = route.to.iter().flat_map(|to| to.get_ref()).any(|to| to.get_ref() == name);
        to || route.dead_letters.as_ref().is_some_and(|sink| sink.get_ref() == name)
    };
    for (name, sink) in &written.sinks {
        if !routes().any(|route| listed(route, name)) {
            let help = "name it in `to` or `dead_letters` of a route, or remove it";
            problems.push(Problem::warning(sink.part.header.clone(), format!("no route uses the sink `{name}`"), help));
        }
    }
    for (name, plugin) in &written.plugins {
        if !routes().any(|route| route.through.iter().any(|step| step.plugin.get_ref() == name.as_str())) {
            let help = "name it in `through` of a route, or remove it";
            problems.push(Problem::warning(plugin.part.header.clone(), format!("no route uses the plugin `{name}`"), help));
        }
    }
    for (name, source) in &written.sources {
        let is_only = written.names.sources.len() == 1;
        if !is_only && !routes().any(|route| route.from.as_ref().is_some_and(|from| from.get_ref() == name.as_str())) {
            let help = "name it in `from` of a route, or remove it";
            problems.push(Problem::warning(source.part.header.clone(), format!("no route uses the source `{name}`"), help));
        }
    }
}

pub(super) struct RouteCheck<'a, 't, 'p> {
    pub name: &'a Name,
    pub named: &'a Named<'t, RouteWritten>,
    pub written: &'a Written<'t>,
    pub problems: &'p mut Vec<Problem>,
}

impl RouteCheck<'_, '_, '_> {
    pub(super) fn fault(&mut self, fault: Fault) {
        let named = self.named;
        named.faults([fault], self.problems);
    }

    /// Something that has to be there; a key that is there and wrong was reported already.
    pub(super) fn missing(&mut self, key: &str, remedy: &str) {
        if !self.named.part.has(key) && !self.named.meant.contains(key) {
            let fault = Fault::new("", format!("the route `{}` has no `{key}`", self.name), remedy);
            self.fault(fault);
        }
    }

    fn route(&mut self, plugins: &mut Map<Name, Plugin>) -> Option<Route> {
        let written = &self.named.value;
        let from = self.from();
        let registry = self.registry();
        let diffusion = from.as_ref().filter(|from| self.written.names.diffusion_sources.contains(*from)).cloned();
        let topics = if diffusion.is_some() { self.selectors() } else { self.topics() };
        let value = written.value.as_ref().map(|value| *value.get_ref());
        if value.is_none() {
            self.missing("value", "add value = \"avro\", \"json\" or \"raw\"");
        }
        if let Some(from) = &diffusion {
            self.diffusion(from);
        }
        let is_avro = value == Some(ValueFormat::Avro) || written.key == KeyFormat::Avro;
        if is_avro && diffusion.is_none() && self.written.names.registries.is_empty() {
            let key = if value == Some(ValueFormat::Avro) { "value" } else { "key" };
            self.fault(Fault::new(key, "Avro cannot be read without its schemas", "add [registry.NAME] with url = \"http://host:8081\""));
        }
        let through = self.through(plugins);
        let to = self.to();
        let dead_letters = written.dead_letters.as_ref().and_then(|sink| self.sink(sink));
        self.bounds();
        let (from, topics, value) = (from?, topics?, value?);
        if diffusion.is_none() {
            self.start(&topics);
        }
        self.cycle(&from, &topics);
        self.destinations();
        self.exactly_once(&from);

        let workers = match written.workers {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            workers => workers,
        };
        let group = written.group.as_ref().map_or_else(|| format!("anabranch-{}", self.name), |group| group.get_ref().clone());
        Some(Route {
            name: self.name.clone(),
            from,
            registry,
            topics,
            key: written.key,
            value,
            through,
            to,
            dead_letters,
            after_dead_letter: written.after_dead_letter,
            group,
            start: written.start.0.clone(),
            batch: written.batch,
            in_flight_max: written.in_flight_max,
            workers,
            on_error: written.on_error,
            revoke_deadline: written.revoke_deadline,
            commit_interval: written.commit_interval,
            unknown_schema_wait: written.unknown_schema_wait,
            rewinds_max: written.rewinds_max,
            out_of_range: written.out_of_range,
            breaker: written.breaker,
            at: self.named.part.header.clone(),
        })
    }

    fn from(&mut self) -> Option<Name> {
        let names = &self.written.names.sources;
        if let Some(from) = &self.named.value.from {
            return self.known(from, names, "source");
        }
        match names.len() {
            1 => names.first().cloned(),
            0 => {
                self.fault(Fault::new("", "there is no source to read from", "add [source.NAME.kafka] with brokers = [\"host:port\"]"));
                None
            }
            _ => {
                let remedy = format!("add from = \"NAME\", NAME being {}", joined(names));
                self.missing("from", &remedy);
                None
            }
        }
    }

    fn registry(&mut self) -> Option<Name> {
        let names = &self.written.names.registries;
        if let Some(registry) = &self.named.value.registry {
            return self.known(registry, names, "registry");
        }
        if names.len() > 1 {
            let remedy = format!("add registry = \"NAME\", NAME being {}", joined(names));
            self.missing("registry", &remedy);
        }
        names.first().cloned()
    }

    fn known(&mut self, written: &Spanned<String>, names: &BTreeSet<Name>, word: &str) -> Option<Name> {
        let plural = if word == "registry" { "registries".to_owned() } else { format!("{word}s") };
        let found = names.get(written.get_ref().as_str()).cloned();
        if found.is_none() {
            let help = suggest::suggestion(written.get_ref(), names.iter().map(Name::as_str), &plural);
            self.problems.push(Problem::error(written.span(), format!("there is no {word} `{}`", written.get_ref()), help));
        }
        found
    }

    fn sink(&mut self, written: &Spanned<String>) -> Option<Name> {
        self.known(written, &self.written.names.sinks, "sink")
    }

    fn topics(&mut self) -> Option<Topics> {
        let Some(topics) = &self.named.value.topics else {
            self.missing("topics", "add topics = [\"NAME\"], or topics = { regex = '^..' }");
            return None;
        };
        match topics.get_ref() {
            TopicsWritten::Regex(pattern) => {
                if !pattern.get_ref().as_str().starts_with('^') {
                    let help =
                        format!("begin it with \"^\", so that it is clear where a name has to match: '^{}'", pattern.get_ref().as_str());
                    self.problems.push(Problem::error(pattern.span(), "a pattern of topics has to begin with \"^\"", help));
                }
                Some(Topics::Regex(pattern.get_ref().clone()))
            }
            TopicsWritten::List(list) => {
                if list.is_empty() {
                    self.problems.push(Problem::error(topics.span(), "there is no topic", "name at least one"));
                }
                let mut seen = BTreeSet::new();
                for topic in list {
                    if let Some(fault) = check_topic("", topic.get_ref()) {
                        self.problems.push(Problem::error(topic.span(), fault.wrong, fault.remedy));
                    } else if !seen.insert(topic.get_ref()) {
                        self.problems.push(Problem::error(
                            topic.span(),
                            format!("the topic \"{}\" is there twice", topic.get_ref()),
                            "remove one",
                        ));
                    }
                }
                Some(Topics::List(list.iter().map(|topic| topic.get_ref().clone()).collect()))
            }
        }
    }

    fn to(&mut self) -> Vec<Name> {
        let Some(to) = &self.named.value.to else {
            self.missing("to", "add to = [\"SINK\"]");
            return Vec::new();
        };
        if to.get_ref().is_empty() {
            self.problems.push(Problem::error(
                to.span(),
                "the route leads to no sink",
                "name at least one; a sink of kind `null` forgets what it gets",
            ));
        }
        let mut names = Vec::new();
        for sink in to.get_ref() {
            let Some(name) = self.sink(sink) else { continue };
            if names.contains(&name) {
                self.problems.push(Problem::error(sink.span(), format!("the sink `{name}` is there twice"), "remove one"));
            } else {
                names.push(name);
            }
        }
        names
    }

    fn through(&mut self, plugins: &mut Map<Name, Plugin>) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, step) in self.named.value.through.iter().enumerate() {
            steps.extend(self.step(index, step, plugins));
        }
        steps
    }

    fn step(&mut self, index: usize, step: &StepWritten, plugins: &mut Map<Name, Plugin>) -> Option<Step> {
        let (name, at) = (step.plugin.get_ref().as_str(), step.plugin.span());
        let is_bundled = BUNDLED.contains(&name);
        let names = &self.written.names.plugins;
        if !is_bundled && !names.contains(name) {
            let help = match suggest::nearest(name, names.iter().map(Name::as_str).chain(BUNDLED)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("add [plugin.{name}] with path = \"FILE.wasm\"; bundled plugins are {}", BUNDLED.join(", ")),
            };
            self.problems.push(Problem::error(at, format!("there is no plugin `{name}`"), help));
            return None;
        }
        let name: Name = name.parse().ok()?;
        if is_bundled && !names.contains(&name) {
            let bundled = Plugin { component: plugin::Component::Bundled(name.to_string()), limits: Limits::default(), config: None };
            plugins.entry(name.clone()).or_insert(bundled);
        }
        let common = plugins.get(&name).and_then(|plugin| plugin.config.clone());
        let config = match common {
            Some(common) if step.has_config => {
                let help = format!("remove `config` here, or from [plugin.{name}] if its routes differ");
                let message = format!("the plugin `{name}` is configured twice");
                self.problems.push(Problem::error(at.clone(), message, help).beside(common.at, "here too"));
                return None;
            }
            Some(common) => common,
            None => self.written.plugin_config(&["route", self.name, "through", &index.to_string(), "config"], &at),
        };
        Some(Step { plugin: name, config, at })
    }

    fn bounds(&mut self) {
        let route = &self.named.value;
        let mut faults = Vec::new();
        if route.batch.records_max == 0 {
            faults.push(Fault::new("batch.records_max", "records_max is 0", "a batch has at least one record; leave it out for 1024"));
        }
        if route.batch.bytes_max.get() == 0 {
            faults.push(Fault::new("batch.bytes_max", "bytes_max is 0", "a batch has at least one byte; leave it out for \"512 KiB\""));
        }
        if route.in_flight_max < route.batch.bytes_max {
            let wrong = format!("in_flight_max ({}) is less than one batch ({})", route.in_flight_max, route.batch.bytes_max);
            faults.push(Fault::new("in_flight_max", wrong, "make it several times batch.bytes_max, so that reading and writing overlap"));
        }
        if route.workers > 1024 {
            faults.push(Fault::new(
                "workers",
                format!("{} workers are too many", route.workers),
                "more workers than cores gain nothing; 0 is one for each core",
            ));
        }
        if route.commit_interval.get().is_zero() {
            faults.push(Fault::new(
                "commit_interval",
                "commit_interval is 0",
                "choose such as \"5 s\": commits are one request for many records",
            ));
        }
        if route.breaker.dead_letters == 0 || route.breaker.dead_letters > route.breaker.records {
            faults.push(Fault::new(
                "breaker",
                format!("{} dead letters among {} records is no bound", route.breaker.dead_letters, route.breaker.records),
                "choose `dead_letters` from 1 to `records`; without `dead_letters = \"SINK\"` of the route the first one stops it",
            ));
        }
        if route.after_dead_letter == AfterDeadLetter::DeadLetter && route.dead_letters.is_none() {
            faults.push(Fault::new(
                "after_dead_letter",
                "records cannot follow a dead letter where none has a place",
                "name a sink in `dead_letters` of the route",
            ));
        }
        if route.group.as_ref().is_some_and(|group| group.get_ref().is_empty()) {
            faults.push(Fault::new("group", "the group's name is empty", "leave `group` out for anabranch-NAME"));
        }
        faults.into_iter().for_each(|fault| self.fault(fault));
    }

    fn start(&mut self, topics: &Topics) {
        let Start::Offsets(offsets) = &self.named.value.start.0 else { return };
        for (topic, partitions) in offsets {
            if !topics.contains(topic) {
                self.fault(Fault::below("start.offsets", topic, format!("the route does not read \"{topic}\""), "name one of its topics"));
            }
            if partitions.iter().any(|(partition, offset)| *partition < 0 || *offset < 0) {
                self.fault(Fault::below("start.offsets", topic, "partitions and offsets are 0 or more", "write { PARTITION = OFFSET }"));
            }
        }
    }

    /// A route that reads what it writes never ends.
    fn cycle(&mut self, from: &Name, topics: &Topics) {
        let Some(source) = self.written.sources.get(from).and_then(|source| source.value.kafka()) else { return };
        let route = &self.named.value;
        let named = route.to.iter().flat_map(|to| to.get_ref()).chain(&route.dead_letters);
        for sink in named {
            let Some(written) = self.written.sinks.get(sink.get_ref().as_str()) else { continue };
            let Sink::Kafka(config) = &written.value else { continue };
            let Some(topic) = config.topic.as_ref().filter(|topic| topics.contains(topic)) else { continue };
            if !config.brokers.iter().any(|broker| source.brokers.contains(broker)) {
                continue;
            }
            let message =
                format!("the route `{}` would read what it writes: its sink `{}` writes to \"{topic}\"", self.name, sink.get_ref());
            let problem = Problem::error(sink.span(), message, "let it write to a topic that it does not read");
            self.problems.push(problem.beside(written.part.place(&["topic".to_owned()]), "into a topic of the route"));
        }
    }

    /// One transaction holds what one sink writes to one cluster, and the offsets of what was read there.
    fn exactly_once(&mut self, from: &Name) {
        let route = &self.named.value;
        let sinks: Vec<&Spanned<String>> = route.to.iter().flat_map(|to| to.get_ref()).collect();
        let config = |sink: &Spanned<String>| match &self.written.sinks.get(sink.get_ref().as_str())?.value {
            Sink::Kafka(config) if config.exactly_once => Some(config),
            _ => None,
        };
        let mut found = Vec::new();
        for sink in &sinks {
            let Some(config) = config(sink) else { continue };
            let name = sink.get_ref();
            if sinks.len() > 1 {
                let message = format!("the sink `{name}` is to be exactly once, and the route leads to other sinks too");
                let help = "a transaction holds one sink's records: give it a route of its own, or remove exactly_once";
                found.push(Problem::error(sink.span(), message, help));
            }
            let Some(source) = self.written.sources.get(from) else { continue };
            let Some(source) = source.value.kafka() else {
                let message = format!("the sink `{name}` is to be exactly once, and its route reads no Kafka topics");
                let help = "a transaction commits the offsets of a consumer group: remove exactly_once";
                found.push(Problem::error(sink.span(), message, help));
                continue;
            };
            if !config.brokers.is_empty() && !config.brokers.iter().any(|broker| source.brokers.contains(broker)) {
                let message = format!("the sink `{name}` is to be exactly once, and writes to other brokers than its route reads from");
                let help = "a transaction spans one cluster: write the same brokers in both, or remove exactly_once";
                found.push(Problem::error(sink.span(), message, help));
            }
            if source.isolation == Isolation::ReadUncommitted {
                let message = format!("the sink `{name}` is to be exactly once, and its source reads records that may be aborted");
                let help = "set isolation = \"read_committed\" in the source, or remove exactly_once";
                found.push(Problem::error(sink.span(), message, help));
            }
        }
        if let Some(letters) = &route.dead_letters
            && config(letters).is_some()
        {
            let message = format!("the sink `{}` is to be exactly once, and takes dead letters", letters.get_ref());
            let help = "dead letters are written outside of transactions, at least once: give them a sink of their own";
            found.push(Problem::error(letters.span(), message, help));
        }
        self.problems.extend(found);
    }

    /// Sinks that need a destination, where nothing can give records one.
    fn destinations(&mut self) {
        let route = &self.named.value;
        let dead_letters = route.dead_letters.iter().map(|sink| (sink, "a dead letter has no destination"));
        let to = route.to.iter().flat_map(|to| to.get_ref()).filter(|_| route.through.is_empty());
        let to = to.map(|sink| (sink, "no plugin of this route can give records one"));
        for (sink, why) in dead_letters.chain(to) {
            let Some(written) = self.written.sinks.get(sink.get_ref().as_str()) else { continue };
            let (what, remedy) = match &written.value {
                Sink::Kafka(config) if config.topic.is_none() && !written.part.has("topic") => {
                    ("topic", "add topic = \"NAME\" to the sink")
                }
                Sink::Delta(config) if config.root.is_some() => ("table", "give the sink a `uri` instead of `root`"),
                Sink::Diffusion(config) if config.takes_destination() => ("topic path", "give the sink a `path` without ${destination}"),
                Sink::File(config) if config.takes_destination() => ("name", "write a path without ${destination}"),
                Sink::Http(config) if config.takes_destination() => ("path", "write a URL without ${destination}"),
                _ => continue,
            };
            let message = format!("the sink `{}` takes its {what} from each record's destination, and {why}", sink.get_ref());
            let help = format!("{remedy}, or put a plugin such as destination-pattern into `through`");
            self.problems.push(Problem::warning(sink.span(), message, help));
        }
    }
}

fn joined(names: &BTreeSet<Name>) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
}
