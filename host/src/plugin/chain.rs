//! A worker's instances of a route's plugins, and how they decide records.
//!
//! Invariant (I8): a record that breaks a plugin costs itself only: the batch is halved on fresh instances until the culprit stands alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{self, Made};
use super::ask::{self, Projections};
use super::bind::anabranch::plugin::types;
use super::breaker::Breaker;
use super::instance::{Broken, Instance};
use super::limits::clean;
use super::plan::{ChainPlan, Step};
use super::shared::Left;
use crate::ack::TopicPartition;
use crate::dead::{Class, Letter};
use crate::output::Outputs;

/// What became of a batch.
pub struct Decided {
    /// What is left.
    pub outputs: Outputs,
    /// What was given up.
    pub letters: Vec<Letter>,
    /// Whether it counts.
    pub outcome: Outcome,
}

/// Whether a decision counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Done,
    /// A plugin wants the same records again, later.
    Retry(String),
    /// The route has to stop.
    Stop(String),
}

/// Live instances of the plugins of a route, for one worker.
pub struct Chain {
    plan: Arc<ChainPlan>,
    links: Vec<Link>,
}

/// One plugin of the chain.
struct Link {
    /// By partition where the plan wants that; one for all otherwise.
    instances: HashMap<Option<(Arc<str>, i32)>, Instance>,
    projections: Projections,
    breaker: Breaker,
    /// Log lines and metrics of calls that will count if the batch does.
    left: Vec<Left>,
}

/// How long finding the culprits of one batch may take; beyond it records are tried one by one with a short deadline.
const SEARCH_MAX: Duration = Duration::from_secs(10);
const SHORT_DEADLINE: Duration = Duration::from_millis(100);
/// Instances that one worker keeps of a plugin that has one per partition.
const INSTANCES_MAX: usize = 1000;
/// Times that a fresh instance is tried whose `init` went well at start, and the pause before the second time; it doubles.
const STARTS_MAX: u32 = 3;
const START_PAUSE: Duration = Duration::from_millis(50);

enum Failed {
    /// Nobody's fault but this one's: the records go on without it.
    Broken(Broken),
    /// What it returned is invalid.
    Invalid(String),
    Retry(String),
    Stop(String),
}

/// Whether rows are decided for the first time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Again,
}

impl Chain {
    /// No instance yet: they come with the first records.
    pub fn new(plan: &Arc<ChainPlan>) -> Self {
        let link =
            || Link { instances: HashMap::new(), projections: Projections::default(), breaker: Breaker::default(), left: Vec::new() };
        Chain { plan: plan.clone(), links: plan.steps.iter().map(|_| link()).collect() }
    }

    /// Decides what is left of a batch after every plugin.
    pub fn run(&mut self, mut outputs: Outputs) -> Decided {
        let mut letters = Vec::new();
        let mut outcome = Outcome::Done;
        for index in 0..self.links.len() {
            if outputs.list.is_empty() || outcome != Outcome::Done {
                break;
            }
            let mut decided = self.decide(index, outputs);
            letters.append(&mut decided.letters);
            outputs = decided.outputs;
            outcome = decided.outcome;
        }
        self.settle(&outcome);
        Decided { outputs, letters, outcome }
    }

    /// What plugin `index` of the route alone makes of what is left after those before it. Panics where there is none.
    pub fn step(&mut self, index: usize, outputs: Outputs) -> Decided {
        let decided = self.decide(index, outputs);
        self.settle(&decided.outcome);
        decided
    }

    fn decide(&mut self, index: usize, mut outputs: Outputs) -> Decided {
        let plan = self.plan.clone();
        let rows: Vec<u32> = (0..outputs.list.len() as u32).collect();
        let mut made = Made::default();
        let mut search = Search { step: &plan.steps[index], link: &mut self.links[index], before: &outputs, began: None };
        let outcome = search.decide(&rows, Attempt::First, &mut made).err().unwrap_or(Outcome::Done);
        outputs.list = made.list;
        outputs.buffers.append(&mut made.buffers);
        outputs.header_edits.append(&mut made.header_edits);
        outputs.schemas = plan.schemas.snapshot();
        Decided { outputs, letters: made.letters, outcome }
    }

    /// Log lines and metrics of what was decided count, unless the records are asked for again: they would stand twice.
    fn settle(&mut self, outcome: &Outcome) {
        let counts = !matches!(outcome, Outcome::Retry(_));
        for (step, link) in self.plan.steps.iter().zip(&mut self.links) {
            link.left.drain(..).filter(|_| counts).for_each(|left| step.shared.apply(left));
        }
    }

    /// A partition left: what plugins remember of it goes too.
    pub fn forget(&mut self, name: &TopicPartition) {
        let key = Some((name.topic.clone(), name.partition));
        for link in &mut self.links {
            link.instances.remove(&key);
        }
    }
}

struct Search<'a> {
    step: &'a Step,
    link: &'a mut Link,
    before: &'a Outputs,
    /// Since when culprits are searched.
    began: Option<Instant>,
}

impl Search<'_> {
    /// Decides rows; halves them where the plugin breaks.
    fn decide(&mut self, rows: &[u32], attempt: Attempt, made: &mut Made) -> Result<(), Outcome> {
        let (questions, letters) = ask::ask(self.step, &mut self.link.projections, self.before, rows);
        made.letters.extend(letters);
        for question in questions {
            let was_fresh = self.is_next_fresh();
            match self.call(&question, made) {
                Ok(()) => self.link.breaker.decided(question.rows.len()),
                Err(Failed::Retry(message)) => return Err(Outcome::Retry(message)),
                Err(Failed::Stop(message)) => return Err(Outcome::Stop(message)),
                Err(failed) => self.find(&question.rows, attempt, was_fresh, &failed, made)?,
            }
        }
        Ok(())
    }

    /// The plugin broke at these rows: finds the one it was.
    fn find(&mut self, rows: &[u32], attempt: Attempt, was_fresh: bool, failed: &Failed, made: &mut Made) -> Result<(), Outcome> {
        let began = *self.began.get_or_insert_with(Instant::now);
        let (class, _) = describe(failed);
        self.step.shared.seen.broken(class);
        std::thread::sleep(self.link.breaker.broke());
        if let [row] = *rows {
            // What an instance went through before may be to blame: a record is given up only where a fresh one broke at it.
            return if was_fresh { self.give_up(row, failed, made) } else { self.decide(rows, Attempt::Again, made) };
        }
        if began.elapsed() > SEARCH_MAX {
            return rows.iter().try_for_each(|row| self.decide(&[*row], Attempt::Again, made));
        }
        // Too slow are the many, not the one: they are halved at once. Otherwise a fresh instance gets all of them first.
        if attempt == Attempt::First && class != Class::PluginTimeout {
            return self.decide(rows, Attempt::Again, made);
        }
        let (left, right) = rows.split_at(rows.len() / 2);
        self.decide(left, Attempt::Again, made)?;
        self.decide(right, Attempt::Again, made)
    }

    fn give_up(&mut self, row: u32, failed: &Failed, made: &mut Made) -> Result<(), Outcome> {
        let (class, reason) = describe(failed);
        let plugin = &self.step.shared.plugin;
        if self.link.breaker.gave_up() {
            return Err(Outcome::Stop(format!(
                "plugin {plugin:?} breaks at more than two of three records, the last time{}: {reason}; mend it, or take it out of `through`: \
                 the records are read again then",
                self.place(row)
            )));
        }
        self.step.shared.seen.records.inc();
        made.letters.push(Letter {
            record: self.before.list[row as usize].input,
            class,
            code: class.name().to_owned(),
            message: format!("plugin {plugin:?}: {reason}"),
            by: plugin.as_str().into(),
            digest: Some(self.step.component.digest.as_str().into()),
            attempts: 1,
        });
        Ok(())
    }

    fn place(&self, row: u32) -> String {
        let view = self.before.view(row as usize);
        format!(" at {}/{} offset {}", view.topic(), view.partition(), view.offset())
    }

    fn key(&self) -> Option<(Arc<str>, i32)> {
        self.step.plan.per_partition.then(|| (self.before.batch.topic.clone(), self.before.batch.partition))
    }

    fn is_next_fresh(&self) -> bool {
        self.link.instances.get(&self.key()).is_none_or(Instance::is_fresh)
    }

    fn call(&mut self, question: &ask::Question, made: &mut Made) -> Result<(), Failed> {
        let shared = &self.step.shared;
        let deadline = match self.began {
            Some(began) if began.elapsed() > SEARCH_MAX => SHORT_DEADLINE.min(shared.limits.deadline),
            _ => shared.limits.deadline,
        };
        let key = self.key();
        let mut instance = match self.link.instances.remove(&key) {
            Some(instance) => instance,
            None if self.link.instances.len() >= INSTANCES_MAX => {
                return Err(Failed::Stop(format!(
                    "plugin {:?} has {INSTANCES_MAX} instances, one for each partition: run more processes, so that each has fewer partitions",
                    shared.plugin
                )));
            }
            None => self.start()?,
        };
        // A broken instance is dropped here and made anew at the next call.
        let answer = instance.process(&question.batch, deadline).map_err(Failed::Broken)?;
        let left = instance.take();
        match answer {
            Ok(answer) => {
                let (outputs, rejects) = (answer.inputs.len(), answer.rejects.len());
                answer::take(self.step, self.before, question, answer, made).map_err(Failed::Invalid)?;
                shared.seen.records.inc_by(question.rows.len() as u64);
                shared.seen.outputs.inc_by(outputs as u64);
                shared.seen.rejected.inc_by(rejects as u64);
                self.link.left.push(left);
                self.link.instances.insert(key, instance);
                Ok(())
            }
            Err(types::Failure { message, input, retry }) => {
                let row = input.and_then(|input| question.rows.get(input as usize));
                let place = row.map_or_else(String::new, |row| self.place(*row));
                let message = format!("plugin {:?} failed{place}: {}", shared.plugin, clean(&message));
                self.link.left.push(left);
                self.link.instances.insert(key, instance);
                Err(if retry { Failed::Retry(message) } else { Failed::Stop(message) })
            }
        }
    }

    /// A fresh instance. Its `init` went well when the route started, so a failure may pass.
    fn start(&self) -> Result<Instance, Failed> {
        let mut pause = START_PAUSE;
        for _ in 1..STARTS_MAX {
            match self.try_start() {
                Err(Failed::Broken(_)) => std::thread::sleep(pause),
                started => return started,
            }
            pause *= 2;
        }
        self.try_start().map_err(|failed| match failed {
            Failed::Broken(broken) => {
                let reason = match broken {
                    Broken::Deadline(deadline) => {
                        format!("init took longer than {deadline:?}: raise `init_deadline` in its [plugin.NAME]")
                    }
                    Broken::Trap(text) => format!("init failed: {text}"),
                    Broken::NoRoom(text) => text,
                };
                Failed::Stop(format!("plugin {:?}: no fresh instance after {STARTS_MAX} attempts: {reason}", self.step.shared.plugin))
            }
            other => other,
        })
    }

    fn try_start(&self) -> Result<Instance, Failed> {
        let plugin = &self.step.shared.plugin;
        match Instance::start(&self.step.component, &self.step.shared, &self.step.context) {
            Ok(Ok((instance, plan))) if same(&plan, &self.step.plan) => Ok(instance),
            Ok(Ok(_)) => {
                Err(Failed::Stop(format!("plugin {plugin:?}: a fresh instance has another plan: `init` must depend on its context only")))
            }
            Ok(Err(_)) => {
                Err(Failed::Stop(format!("plugin {plugin:?}: a fresh instance refuses the configuration that the first one took")))
            }
            Err(broken) => Err(Failed::Broken(broken)),
        }
    }
}

fn describe(failed: &Failed) -> (Class, String) {
    match failed {
        Failed::Broken(Broken::Deadline(deadline)) => {
            (Class::PluginTimeout, format!("it took longer than its deadline of {deadline:?} (raise `deadline` in its [plugin.NAME])"))
        }
        Failed::Broken(Broken::Trap(text) | Broken::NoRoom(text)) => (Class::PluginTrap, text.clone()),
        Failed::Invalid(text) => (Class::PluginOutput, format!("its answer is invalid: {text}")),
        Failed::Retry(text) | Failed::Stop(text) => (Class::PluginTrap, text.clone()),
    }
}

fn same(one: &types::Plan, other: &types::Plan) -> bool {
    // The generated types have no equality of their own.
    format!("{one:?}") == format!("{other:?}")
}
