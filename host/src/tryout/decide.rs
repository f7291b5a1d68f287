//! One record through decoding, plugins and sinks, step by step, with what each of them decided.
//!
//! Invariant: it goes the way of `pipeline` with the parts of `pipeline`; only the acks are missing, and the sinks show instead of write.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::report::{Changes, Content, DeadLetter, Decision, Delivery, Header, Outcome, Reason, Report, Shown, Verdict};
use crate::batch::Batch;
use crate::cli::Failure;
use crate::config::{Action, Config, Route};
use crate::dead::{DeadLetters, Letter};
use crate::decode::{Answer, Ask, Resolver};
use crate::observe::Metrics;
use crate::output::{Cell, Formats, Output, Outputs, SinkSet, View};
use crate::pipeline::decision;
use crate::plugin::{Chain, ChainPlan, Outcome as Decided};
use crate::sink::preview::{Preview, Previewer};
use crate::sink::{self, Surroundings, Urgency};
use crate::source::logs::Logs;
use crate::source::work::WorkerMessage;
use crate::stop::Stop;

/// How long a registry that does not answer is waited for.
const REGISTRY_WAIT: Duration = Duration::from_secs(20);
/// After so long without an answer the user is told what is waited for.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a schema that the registry does not have is asked for again: a route is more patient, but nobody watches it.
const UNKNOWN_SCHEMA_WAIT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);

/// The parts of a route that decide about records.
pub struct Decider {
    route: Route,
    formats: Formats,
    plugins: Arc<ChainPlan>,
    names: Vec<String>,
    chain: Chain,
    resolver: Arc<Resolver>,
    answered: mpsc::Receiver<WorkerMessage>,
    unavailable: Arc<Mutex<Option<String>>>,
    sinks: Vec<(String, Previewer)>,
    dead: DeadLetters,
    dead_sink: Option<(String, Previewer)>,
    stop: Stop,
}

/// A registry whose last refusal is remembered.
struct Watched {
    registry: Arc<dyn Ask>,
    unavailable: Arc<Mutex<Option<String>>>,
}

impl Ask for Watched {
    fn ask(&self, id: u32) -> futures::future::BoxFuture<'_, Answer> {
        Box::pin(async move {
            let answer = self.registry.ask(id).await;
            *self.unavailable.lock() = match &answer {
                Answer::Unavailable(reason) => Some(reason.clone()),
                _ => None,
            };
            answer
        })
    }
}

impl Decider {
    /// The parts of a route. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// What would keep a sink from starting.
    pub fn new(
        config: &Config,
        route: &Route,
        formats: Formats,
        plugins: Arc<ChainPlan>,
        registry: Option<Arc<dyn Ask>>,
        stop: Stop,
    ) -> Result<Self, Failure> {
        let name: Arc<str> = route.name.as_str().into();
        let counters = Metrics::new().route(&name);
        let broken = |error: crate::schemas::RegisterError| Failure::Broken(error.to_string());
        let decision: Arc<str> = decision(&plugins, route).into();
        let nowhere =
            DeadLetters::new(name.clone(), None, plugins.schemas.clone(), route.on_error, Stop::new(), counters.clone()).map_err(broken)?;
        let is_log = config.sources[&route.from].is_log();
        let previewer = |sink: &str, takes_letters: bool| {
            let surroundings = Surroundings {
                route: name.clone(),
                sink: sink.into(),
                group: route.group.as_str().into(),
                decision: decision.clone(),
                without_ledger: takes_letters || !is_log,
                takes_letters,
                dead: nowhere.clone(),
                logs: Logs::default(),
                offsets: None,
                metrics: counters.sink(sink),
            };
            let made = Previewer::new(&config.sinks[sink], surroundings);
            made.map(|previewer| (sink.to_owned(), previewer)).map_err(|error| Failure::Configuration(error.to_string()))
        };
        let sinks = route.to.iter().map(|sink| previewer(sink.as_str(), false)).collect::<Result<_, _>>()?;
        let dead_sink = route.dead_letters.as_ref().map(|sink| previewer(sink.as_str(), true)).transpose()?;
        // Nobody reads that inbox: letters are made and shown, never sent.
        let place = route.dead_letters.as_ref().map(|sink| (Urgency::new().inbox().0, sink::form(&config.sinks[sink])));
        let dead = DeadLetters::new(name, place, plugins.schemas.clone(), route.on_error, Stop::new(), counters).map_err(broken)?;
        let dead = dead.with_decision(decision);
        let unavailable = Arc::default();
        let registry = registry.map(|registry| -> Arc<dyn Ask> { Arc::new(Watched { registry, unavailable: Arc::clone(&unavailable) }) });
        let (sender, answered) = mpsc::channel();
        let wait = UNKNOWN_SCHEMA_WAIT.min(route.unknown_schema_wait.get().max(Duration::from_millis(1)));
        let resolver = Resolver::new(plugins.schemas.clone(), registry, vec![sender], wait, stop.clone());
        Ok(Decider {
            route: route.clone(),
            formats,
            names: plugins.names().map(str::to_owned).collect(),
            chain: Chain::new(&plugins),
            plugins,
            resolver,
            answered,
            unavailable,
            sinks,
            dead,
            dead_sink,
            stop,
        })
    }

    /// Names of the plugins and of the sinks, for aligning what is shown.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let sinks = self.sinks.iter().chain(&self.dead_sink).map(|(name, _)| name.as_str());
        self.names.iter().map(String::as_str).chain(sinks)
    }

    /// What would become of a record, a batch of one; `None`: asked to stop while waiting. `given_up`: why the source gives it up; `say`:
    /// what the user should know meanwhile.
    ///
    /// # Errors
    /// Where the registry does not answer.
    pub async fn decide(&mut self, mut batch: Batch, given_up: Vec<Letter>, say: impl Fn(&str)) -> Result<Option<Report>, Failure> {
        let Some(mut letters) = self.resolve(&mut batch, say)? else { return Ok(None) };
        letters.extend(given_up);
        letters.truncate(1);
        let batch = Arc::new(batch);
        let all = SinkSet::first(self.sinks.len());
        let mut outputs = Outputs::unchanged(batch.clone(), self.formats, self.plugins.schemas.snapshot(), all);
        let mut report = came_in(outputs.view(0));
        if !letters.is_empty() {
            outputs.list.clear();
        }
        let mut stops = None;
        for index in 0..self.names.len() {
            outputs = self.step(index, outputs, &mut report, &mut letters, &mut stops);
        }
        let mut any = false;
        if stops.is_none() {
            let outputs = Arc::new(outputs);
            for position in 0..outputs.list.len() {
                for (index, (name, previewer)) in self.sinks.iter_mut().enumerate() {
                    if !outputs.list[position].sinks.has(index) {
                        continue;
                    }
                    let preview = match previewer.show(&outputs, position).await {
                        Ok(preview) => preview,
                        Err(error) => {
                            stops.get_or_insert(error.to_string());
                            continue;
                        }
                    };
                    match &preview {
                        Preview::GivenUp(letter) => letters.push(letter.clone()),
                        _ => any = true,
                    }
                    report.sinks.push(Delivery { sink: name.clone(), what: shown(preview, outputs.view(position)) });
                }
            }
        }
        for letter in &letters {
            let dead = self.dead_letter(&batch, letter, &mut stops).await;
            report.dead_letters.push(dead);
        }
        report.outcome = match &stops {
            Some(_) => Outcome::Stops,
            None if any => Outcome::Delivered,
            None if letters.is_empty() => Outcome::Filtered,
            None if report.dead_letters.iter().all(|letter| letter.action == Action::Drop) => Outcome::Dropped,
            None => Outcome::DeadLetter,
        };
        report.stops = stops;
        Ok(Some(report))
    }

    /// Finds the schemas of the record; waits for the registry, not without end.
    fn resolve(&mut self, batch: &mut Batch, say: impl Fn(&str)) -> Result<Option<Vec<Letter>>, Failure> {
        let began = Instant::now();
        let mut told = false;
        loop {
            if let Some(letters) = self.resolver.resolve(batch, self.formats) {
                return Ok(Some(letters));
            }
            if self.stop.is_stopped() {
                return Ok(None);
            }
            let reason = self.unavailable.lock().clone();
            let name = self.route.registry.as_ref().map(ToString::to_string).unwrap_or_default();
            if began.elapsed() >= REGISTRY_WAIT {
                let reason = reason.unwrap_or_else(|| "no answer".to_owned());
                let waited = REGISTRY_WAIT.as_secs();
                return Err(Failure::Environment(format!("registry {name:?}: {reason} (waited {waited} s; a route would wait on)")));
            }
            if let Some(reason) = reason.filter(|_| !told && began.elapsed() >= SILENCE) {
                say(&format!("registry {name:?}: {reason}; waiting for it, {} s at most", REGISTRY_WAIT.as_secs()));
                told = true;
            }
            // An answer, or time to look again: both lead back to the resolver.
            let _ = self.answered.recv_timeout(LOOK);
        }
    }

    /// One plugin decides each output of those before it alone, so that it is known what became of which.
    fn step(
        &mut self,
        index: usize,
        mut outputs: Outputs,
        report: &mut Report,
        letters: &mut Vec<Letter>,
        stops: &mut Option<String>,
    ) -> Outputs {
        let mut after = Vec::new();
        for before in std::mem::take(&mut outputs.list) {
            if stops.is_some() {
                break;
            }
            outputs.list = vec![before.clone()];
            let decided = self.chain.step(index, outputs);
            outputs = decided.outputs;
            let verdict = match (decided.outcome, decided.letters.first()) {
                (Decided::Stop(reason), _) => {
                    *stops = Some(reason.clone());
                    Verdict::Stop(reason)
                }
                (Decided::Retry(reason), _) => {
                    *stops = Some(format!("{reason}: the route would read the record again, and stop after `rewinds_max` times"));
                    Verdict::Retry(reason)
                }
                (Decided::Done, Some(letter)) => Verdict::GivenUp(Reason::of(letter)),
                (Decided::Done, None) if outputs.list.is_empty() => Verdict::Filtered(()),
                (Decided::Done, None) => Verdict::Outputs((0..outputs.list.len()).map(|at| self.changes(&before, &outputs, at)).collect()),
            };
            report.plugins.push(Decision { plugin: self.names[index].clone(), verdict });
            letters.extend(decided.letters);
            after.append(&mut outputs.list);
        }
        outputs.list = after;
        outputs
    }

    /// What of an output is not as it was before.
    fn changes(&self, before: &Output, outputs: &Outputs, at: usize) -> Changes {
        let view = outputs.view(at);
        let now = view.output();
        let sinks =
            || self.sinks.iter().enumerate().filter(|(index, _)| now.sinks.has(*index)).map(|(_, (name, _))| name.clone()).collect();
        let set = |cell: Cell, was: Cell| cell != was;
        Changes {
            destination: (now.destination != before.destination).then(|| view.destination().map(str::to_owned)),
            sinks: (now.sinks != before.sinks).then(sinks),
            change: (now.change != before.change).then(|| format!("{:?}", now.change).to_lowercase()),
            key: set(now.key, before.key).then(|| key_of(view)),
            value: set(now.value, before.value).then(|| value_of(view)),
            headers: edits(outputs, before.headers, now.headers),
        }
    }

    async fn dead_letter(&mut self, batch: &Arc<Batch>, letter: &Letter, stops: &mut Option<String>) -> DeadLetter {
        let mut action = self.route.on_error.of(letter.class);
        if action == Action::DeadLetter && self.dead_sink.is_none() {
            action = Action::Stop;
        }
        let mut to = None;
        match action {
            Action::Drop => (),
            Action::Retry => {
                stops.get_or_insert(
                    "`on_error` of the route says retry: it would read the record again, and stop after `rewinds_max` times".to_owned(),
                );
            }
            Action::Stop => {
                let choose = "name a sink in `dead_letters` of the route, or choose in its `on_error`";
                stops.get_or_insert(format!("a bad record stops the route: {choose}"));
            }
            Action::DeadLetter => {
                let outputs = self.dead.preview(batch, std::slice::from_ref(letter)).map(Arc::new);
                if let (Some(outputs), Some((name, previewer))) = (outputs, &mut self.dead_sink) {
                    match previewer.show(&outputs, 0).await {
                        Ok(preview) => to = Some(Delivery { sink: name.clone(), what: shown(preview, outputs.view(0)) }),
                        Err(error) => _ = stops.get_or_insert(error.to_string()),
                    }
                }
            }
        }
        DeadLetter { reason: Reason::of(letter), action, to }
    }
}

fn came_in(view: View<'_>) -> Report {
    Report {
        topic: view.topic().to_string(),
        partition: view.partition(),
        offset: view.offset(),
        timestamp: (view.timestamp() >= 0).then(|| view.timestamp()),
        key: key_of(view),
        value: value_of(view),
        headers: view.headers().into_iter().map(|(name, value)| Header::foreign(name, value)).collect(),
        plugins: Vec::new(),
        sinks: Vec::new(),
        dead_letters: Vec::new(),
        stops: None,
        outcome: Outcome::Filtered,
    }
}

fn key_of(view: View<'_>) -> Option<Content> {
    let key = view.key()?;
    let entry = view.schema(view.key_schema()).map(Arc::as_ref);
    Some(Content::of(key, entry, view.input_key_bytes().unwrap_or(key.bytes)))
}

fn value_of(view: View<'_>) -> Option<Content> {
    let value = view.value()?;
    let entry = view.schema(view.value_schema()).map(Arc::as_ref);
    Some(Content::of(value, entry, view.input_value_bytes().unwrap_or(value.bytes)))
}

/// A preview; what its bytes mean is known from the output that they were made of.
fn shown(preview: Preview, view: View<'_>) -> Shown {
    let as_made = |bytes: &[u8], known: Option<Content>| match known {
        // Bytes that are no text, or as many as the output holds, are what it holds; all others are text that the sink made of it.
        Some(known) if std::str::from_utf8(bytes).is_err() || known.bytes == bytes.len() => known,
        _ => Content::of(crate::value::Value { format: crate::value::Format::Raw, schema: None, bytes }, None, bytes),
    };
    Shown::of(preview, |bytes| as_made(bytes, key_of(view)), |bytes| as_made(bytes, value_of(view)))
}

fn edits(outputs: &Outputs, before: Option<u32>, now: Option<u32>) -> Vec<Header> {
    if now == before {
        return Vec::new();
    }
    let of = |edits: Option<u32>| edits.and_then(|edits| outputs.header_edits.get(edits as usize)).map_or(&[][..], Vec::as_slice);
    let fresh = of(now).iter().filter(|edit| !of(before).contains(edit));
    fresh.map(|edit| Header::of(&edit.name, edit.value.map(|at| outputs.bytes(at)))).collect()
}
