//! A worker's instances of a route's plugins, and how they decide records.
//!
//! Invariant: a record that breaks a plugin costs itself only: the batch is halved on fresh instances until the culprit stands alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{self, Made};
use super::ask::{self, Projections};
use super::bind::anabranch::plugin::types;
use super::guest::{Broken, Instance};
use super::plan::{ChainPlan, Step};
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

struct Link {
    instances: HashMap<Option<(Arc<str>, i32)>, Instance>,
    projections: Projections,
    broken: Vec<Instant>,
}

/// How long finding the culprits of one batch may take; beyond it records are tried one by one with a short deadline.
const SEARCH_MAX: Duration = Duration::from_secs(10);
const SHORT_DEADLINE: Duration = Duration::from_millis(100);
/// Instances that one worker keeps of a plugin that has one per partition.
const INSTANCES_MAX: usize = 1000;
/// Times that a plugin may break in [`BROKEN_WINDOW`] before the route stops: beyond it is no bad record but a bad plugin.
const BROKEN_MAX: usize = 1000;
const BROKEN_WINDOW: Duration = Duration::from_secs(60);

enum Failed {
    /// Nobody's fault but this one's: the records go on without it.
    Broken(Broken),
    /// What it returned is invalid.
    Invalid(String),
    Retry(String),
    Stop(String),
}

impl Chain {
    /// No instance yet: they come with the first records.
    pub fn new(plan: &Arc<ChainPlan>) -> Self {
        let link = || Link { instances: HashMap::new(), projections: Projections::default(), broken: Vec::new() };
        Chain { plan: plan.clone(), links: plan.steps.iter().map(|_| link()).collect() }
    }

    /// Decides what is left of a batch after every plugin.
    pub fn run(&mut self, mut outputs: Outputs) -> Decided {
        let mut letters = Vec::new();
        for index in 0..self.links.len() {
            if outputs.list.is_empty() {
                break;
            }
            let mut decided = self.step(index, outputs);
            letters.append(&mut decided.letters);
            outputs = decided.outputs;
            if decided.outcome != Outcome::Done {
                return Decided { outputs, letters, outcome: decided.outcome };
            }
        }
        Decided { outputs, letters, outcome: Outcome::Done }
    }

    /// What plugin `index` of the route alone makes of what is left after those before it. Panics where there is none.
    pub fn step(&mut self, index: usize, mut outputs: Outputs) -> Decided {
        let plan = self.plan.clone();
        let rows: Vec<u32> = (0..outputs.list.len() as u32).collect();
        let mut made = Made::default();
        let mut search = Search { step: &plan.steps[index], link: &mut self.links[index], before: &outputs, began: None };
        let outcome = search.decide(&rows, &mut made).err().unwrap_or(Outcome::Done);
        outputs.list = made.list;
        outputs.buffers.append(&mut made.buffers);
        outputs.header_edits.append(&mut made.header_edits);
        outputs.schemas = plan.schemas.snapshot();
        Decided { outputs, letters: made.letters, outcome }
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
    fn decide(&mut self, rows: &[u32], made: &mut Made) -> Result<(), Outcome> {
        let (questions, letters) = ask::ask(self.step, &mut self.link.projections, self.before, rows);
        made.letters.extend(letters);
        for question in questions {
            match self.call(&question, made) {
                Ok(()) => (),
                Err(Failed::Retry(message)) => return Err(Outcome::Retry(message)),
                Err(Failed::Stop(message)) => return Err(Outcome::Stop(message)),
                Err(failed) => self.find(&question.rows, failed, made)?,
            }
        }
        Ok(())
    }

    /// The plugin broke at these rows: finds the one it was.
    fn find(&mut self, rows: &[u32], failed: Failed, made: &mut Made) -> Result<(), Outcome> {
        let first = self.began.is_none();
        let began = *self.began.get_or_insert_with(Instant::now);
        self.count_broken(&failed)?;
        if rows.len() == 1 {
            // A single record gets a second chance on a fresh instance, unless it had one as part of more.
            if first && !matches!(failed, Failed::Broken(Broken::Deadline(_))) {
                return self.decide(rows, made);
            }
            made.letters.push(self.letter(rows[0], &failed));
            return Ok(());
        }
        if first && !matches!(failed, Failed::Broken(Broken::Deadline(_))) {
            // It may have been the instance's past, not the records: the same once more, on a fresh one.
            return self.decide(rows, made);
        }
        if began.elapsed() > SEARCH_MAX {
            return rows.iter().try_for_each(|row| self.decide(&[*row], made));
        }
        let (left, right) = rows.split_at(rows.len() / 2);
        self.decide(left, made)?;
        self.decide(right, made)
    }

    fn call(&mut self, question: &ask::Question, made: &mut Made) -> Result<(), Failed> {
        let deadline = match self.began {
            Some(began) if began.elapsed() > SEARCH_MAX => SHORT_DEADLINE.min(self.step.shared.limits.deadline),
            _ => self.step.shared.limits.deadline,
        };
        let key = self.step.plan.per_partition.then(|| (self.before.batch.topic.clone(), self.before.batch.partition));
        if !self.link.instances.contains_key(&key) {
            let instance = self.start()?;
            if self.link.instances.len() >= INSTANCES_MAX {
                return Err(Failed::Stop(format!(
                    "plugin {:?} has {INSTANCES_MAX} instances, one for each partition: run more processes, so that each has fewer partitions",
                    self.step.shared.plugin
                )));
            }
            self.link.instances.insert(key.clone(), instance);
        }
        let Some(mut instance) = self.link.instances.remove(&key) else { return Err(Failed::Stop("an instance is gone".to_owned())) };
        // A broken instance is dropped here and made anew at the next call.
        let answer = instance.process(&question.batch, deadline).map_err(Failed::Broken)?;
        match answer {
            Ok(answer) => {
                answer::take(self.step, self.before, question, answer, made).map_err(Failed::Invalid)?;
                instance.keep();
                self.link.instances.insert(key, instance);
                Ok(())
            }
            Err(types::Failure { message, input, retry }) => {
                let plugin = &self.step.shared.plugin;
                let place = input.and_then(|input| question.rows.get(input as usize)).map(|row| self.before.view(*row as usize));
                let place =
                    place.map_or_else(String::new, |view| format!(" at {}/{} offset {}", view.topic(), view.partition(), view.offset()));
                let message = format!("plugin {plugin:?} failed{place}: {message}");
                instance.keep();
                self.link.instances.insert(key, instance);
                Err(if retry { Failed::Retry(message) } else { Failed::Stop(message) })
            }
        }
    }

    fn start(&self) -> Result<Instance, Failed> {
        let plugin = &self.step.shared.plugin;
        match Instance::start(&self.step.component, &self.step.shared, &self.step.context) {
            Ok(Ok((instance, plan))) if same(&plan, &self.step.plan) => Ok(instance),
            Ok(Ok(_)) => {
                Err(Failed::Stop(format!("plugin {plugin:?}: a fresh instance has another plan: `init` must depend on its context only")))
            }
            Ok(Err(_)) => {
                Err(Failed::Stop(format!("plugin {plugin:?}: a fresh instance refuses the configuration that the first one took")))
            }
            Err(Broken::Deadline(deadline)) => Err(Failed::Stop(format!("plugin {plugin:?}: init took longer than {deadline:?}"))),
            Err(Broken::Trap(text)) => Err(Failed::Stop(format!("plugin {plugin:?}: init failed: {text}"))),
        }
    }

    fn count_broken(&mut self, failed: &Failed) -> Result<(), Outcome> {
        let now = Instant::now();
        self.link.broken.retain(|broken| now - *broken < BROKEN_WINDOW);
        self.link.broken.push(now);
        if self.link.broken.len() > BROKEN_MAX {
            let (_, reason) = describe(failed);
            return Err(Outcome::Stop(format!(
                "plugin {:?} broke more than {BROKEN_MAX} times in {BROKEN_WINDOW:?}, the last time because {reason}: mend it, or take it out of `through`",
                self.step.shared.plugin
            )));
        }
        Ok(())
    }

    fn letter(&self, row: u32, failed: &Failed) -> Letter {
        let (class, reason) = describe(failed);
        Letter {
            record: self.before.list[row as usize].input,
            class,
            code: class.name().to_owned(),
            message: format!("plugin {:?}: {reason}", self.step.shared.plugin),
            by: self.step.shared.plugin.as_str().into(),
            digest: Some(self.step.component.digest.as_str().into()),
        }
    }
}

fn describe(failed: &Failed) -> (Class, String) {
    match failed {
        Failed::Broken(Broken::Deadline(deadline)) => {
            (Class::PluginTimeout, format!("it took longer than its deadline of {deadline:?} (raise `deadline` in its [plugin.NAME])"))
        }
        Failed::Broken(Broken::Trap(text)) => (Class::PluginTrap, text.clone()),
        Failed::Invalid(text) => (Class::PluginOutput, format!("its answer is invalid: {text}")),
        Failed::Retry(text) | Failed::Stop(text) => (Class::PluginTrap, text.clone()),
    }
}

fn same(one: &types::Plan, other: &types::Plan) -> bool {
    // The generated types have no equality of their own.
    format!("{one:?}") == format!("{other:?}")
}
