//! What waits for each topic path, and what of it may be sent now.
//!
//! Invariant: the updates of one path are made in the order in which they came, whatever is refused, answered out of order or lost with
//! the session: where one has to be sent again, all behind it are sent again after it, so the last value is the last at the server.
//! An update ends when it and all before it are made. Pure state: the caller brings the time and does the sending.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

/// How many paths there are, and may be; sessions of a sink share it.
#[derive(Debug)]
pub struct Paths {
    count: AtomicUsize,
    max: usize,
}

impl Paths {
    /// None yet.
    pub fn new(max: usize) -> Self {
        Paths { count: AtomicUsize::new(0), max }
    }

    /// How many there may be.
    pub fn max(&self) -> usize {
        self.max
    }

    fn add(&self) -> bool {
        let more = |count| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn remove(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One update that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    topic: usize,
    number: u64,
}

/// How an update is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The topic is there, or nobody knows.
    Set,
    /// The topic is not there.
    AddAndSet,
    /// The topic is to go.
    Remove,
}

/// An update to send.
#[derive(Debug)]
pub struct Next<'a, T> {
    /// To be named with its answer.
    pub ticket: Ticket,
    /// The topic's path.
    pub path: &'a Arc<str>,
    /// How to make it.
    pub how: How,
    /// What it is made of.
    pub item: &'a T,
}

/// What became of an update that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is made.
    Made,
    /// It never will be.
    GivenUp,
    /// It is to be sent again, not before this time.
    Again(Instant),
    /// It is to be sent again: the topic is not there.
    Create,
    /// It is to be sent again: the topic is there after all.
    Exists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    Made,
    Failed,
}

#[derive(Debug)]
struct Slot<T> {
    /// `None`: given up.
    item: Option<T>,
    removes: bool,
    state: State,
    /// Of the value that was sent; `None`: nobody wants to compare it.
    hash: Option<u64>,
}

/// What is known of a topic at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    There,
    Missing,
}

/// Why nothing of a path is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    None,
    /// One failed: the answers to the others come first. Then not before this time.
    Draining(Instant),
    Until(Instant),
}

#[derive(Debug)]
struct Topic<T> {
    path: Arc<str>,
    queue: VecDeque<Slot<T>>,
    /// Number of the first in the queue.
    first: u64,
    /// So many from the front were sent.
    sent: usize,
    in_flight: usize,
    known: Known,
    pause: Pause,
    is_ready: bool,
    /// How often one had to be sent again since the last that was made.
    tries: u32,
    /// Of the value that the session set last, if all before it were made as well.
    last: Option<u64>,
}

/// All paths of one session.
#[derive(Debug)]
pub struct Topics<T> {
    paths: Arc<Paths>,
    path_in_flight_max: usize,
    topics: Vec<Option<Topic<T>>>,
    free: Vec<usize>,
    by_path: HashMap<Arc<str>, usize>,
    /// Topics of which something can be sent.
    ready: VecDeque<usize>,
    /// Topics that wait for a time.
    paused: BTreeSet<(Instant, usize)>,
    waiting: usize,
}

impl<T> Topics<T> {
    /// Nothing yet. Of a path that is known to be there, `path_in_flight_max` updates are sent at a time; of others one.
    pub fn new(paths: Arc<Paths>, path_in_flight_max: usize) -> Self {
        Topics {
            paths,
            path_in_flight_max,
            topics: Vec::new(),
            free: Vec::new(),
            by_path: HashMap::new(),
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            waiting: 0,
        }
    }

    /// Whether nothing is left to be made.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// An update comes; `removes`: the topic is to go.
    ///
    /// # Errors
    /// Where the path is new and there may be no more; the update is given back.
    pub fn push(&mut self, path: &str, item: T, removes: bool) -> Result<(), T> {
        let id = match self.by_path.get(path) {
            Some(id) => *id,
            None if !self.paths.add() => return Err(item),
            None => self.insert(path),
        };
        if let Some(topic) = &mut self.topics[id] {
            topic.queue.push_back(Slot { item: Some(item), removes, state: State::Waiting, hash: None });
            self.waiting += 1;
        }
        self.make_ready(id);
        Ok(())
    }

    fn insert(&mut self, path: &str) -> usize {
        let path: Arc<str> = path.into();
        let topic = Topic {
            path: path.clone(),
            queue: VecDeque::new(),
            first: 0,
            sent: 0,
            in_flight: 0,
            known: Known::Nothing,
            pause: Pause::None,
            is_ready: false,
            tries: 0,
            last: None,
        };
        let id = self.free.pop().unwrap_or(self.topics.len());
        if id == self.topics.len() {
            self.topics.push(Some(topic));
        } else {
            self.topics[id] = Some(topic);
        }
        self.by_path.insert(path, id);
        id
    }

    /// The next update to send; it counts as sent.
    pub fn next(&mut self, now: Instant) -> Option<Next<'_, T>> {
        while let Some(&(at, id)) = self.paused.first()
            && at <= now
        {
            self.paused.pop_first();
            if let Some(topic) = &mut self.topics[id] {
                topic.pause = Pause::None;
            }
            self.make_ready(id);
        }
        let id = self.ready.pop_front()?;
        let topic = self.topics[id].as_mut()?;
        topic.is_ready = false;
        let number = topic.first + topic.sent as u64;
        topic.queue.get_mut(topic.sent)?.state = State::Sent;
        topic.sent += 1;
        topic.in_flight += 1;
        topic.skip_given_up();
        self.make_ready(id);
        let topic = self.topics[id].as_ref()?;
        let slot = topic.queue.get((number - topic.first) as usize)?;
        let how = match topic.known {
            _ if slot.removes => How::Remove,
            Known::Missing => How::AddAndSet,
            Known::Nothing | Known::There => How::Set,
        };
        Some(Next { ticket: Ticket { topic: id, number }, path: &topic.path, how, item: slot.item.as_ref()? })
    }

    /// An update that was sent and has no outcome yet: its path, what it is made of, and how often something of its path had to be
    /// sent again since the last that was made.
    pub fn get(&self, ticket: Ticket) -> Option<(&Arc<str>, &T, u32)> {
        let topic = self.topics.get(ticket.topic)?.as_ref()?;
        let slot = topic.queue.get(usize::try_from(ticket.number.checked_sub(topic.first)?).ok()?)?;
        Some((&topic.path, slot.item.as_ref()?, topic.tries))
    }

    /// Whether an update that is about to be sent would set the value that this session set last; `hash`: that of its value. It says
    /// nothing of what other clients set since.
    pub fn is_unchanged(&mut self, ticket: Ticket, hash: u64) -> bool {
        let Some(topic) = self.topics.get_mut(ticket.topic).and_then(Option::as_mut) else { return false };
        let place = ticket.number.checked_sub(topic.first);
        if let Some(slot) = place.and_then(|place| topic.queue.get_mut(place as usize)) {
            slot.hash = Some(hash);
        }
        place == Some(0) && topic.last == Some(hash)
    }

    /// An update that was sent has its outcome. What ends with it is appended to `ended`, in the order of the path; the update itself
    /// is given back where it is given up.
    pub fn end(&mut self, ticket: Ticket, outcome: Outcome, now: Instant, ended: &mut Vec<T>) -> Option<T> {
        let topic = self.topics.get_mut(ticket.topic)?.as_mut()?;
        let slot = topic.queue.get_mut(usize::try_from(ticket.number.checked_sub(topic.first)?).ok()?)?;
        topic.in_flight -= 1;
        let mut given_up = None;
        let again = match outcome {
            Outcome::Made => {
                slot.state = State::Made;
                topic.known = if slot.removes { Known::Missing } else { Known::There };
                topic.tries = 0;
                None
            }
            Outcome::GivenUp => {
                slot.state = State::Made;
                given_up = slot.item.take();
                self.waiting -= 1;
                None
            }
            Outcome::Again(at) => {
                topic.tries += 1;
                Some(at)
            }
            Outcome::Create => {
                topic.known = Known::Missing;
                Some(now)
            }
            Outcome::Exists => {
                topic.known = Known::Nothing;
                topic.tries += 1;
                Some(now)
            }
        };
        if let Some(at) = again {
            slot.state = State::Failed;
            // Some behind it may have been made.
            topic.last = None;
            topic.pause = match topic.pause {
                Pause::Draining(other) => Pause::Draining(at.max(other)),
                Pause::None | Pause::Until(_) => Pause::Draining(at),
            };
        }
        let before = ended.len();
        topic.pop_made(ended);
        self.waiting -= ended.len() - before;
        if let Pause::Draining(at) = topic.pause
            && topic.in_flight == 0
        {
            topic.send_again();
            self.pause(ticket.topic, at, now);
        }
        let topic = self.topics.get_mut(ticket.topic)?.as_mut()?;
        if topic.queue.is_empty() {
            // Most paths are quiet most of the time.
            topic.queue = VecDeque::new();
            if topic.known == Known::Missing {
                self.forget(ticket.topic);
                return given_up;
            }
        }
        self.make_ready(ticket.topic);
        given_up
    }

    /// The session is lost: nobody knows what was made of what was sent, so all of it is sent again.
    pub fn lose(&mut self, now: Instant) {
        for id in 0..self.topics.len() {
            let Some(topic) = &mut self.topics[id] else { continue };
            topic.in_flight = 0;
            // What answers next may be another server, or an emptied one.
            topic.last = None;
            topic.send_again();
            if let Pause::Draining(at) = topic.pause {
                self.pause(id, at, now);
            }
            self.make_ready(id);
        }
    }

    /// When the next of the paths that wait for a time may be sent again.
    pub fn deadline(&self) -> Option<Instant> {
        self.paused.first().map(|(at, _)| *at)
    }

    fn pause(&mut self, id: usize, until: Instant, now: Instant) {
        let Some(topic) = &mut self.topics[id] else { return };
        if until > now {
            topic.pause = Pause::Until(until);
            self.paused.insert((until, id));
        } else {
            topic.pause = Pause::None;
        }
    }

    fn make_ready(&mut self, id: usize) {
        let Some(topic) = &mut self.topics[id] else { return };
        let in_flight_max = if topic.known == Known::There { self.path_in_flight_max } else { 1 };
        let may = topic.pause == Pause::None && topic.sent < topic.queue.len() && topic.in_flight < in_flight_max;
        if may && !topic.is_ready {
            topic.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// The topic is gone at the server, and nothing waits for it.
    fn forget(&mut self, id: usize) {
        if let Some(topic) = self.topics[id].take() {
            self.by_path.remove(&topic.path);
            self.free.push(id);
            self.paths.remove();
        }
    }
}

impl<T> Topic<T> {
    fn pop_made(&mut self, ended: &mut Vec<T>) {
        while self.sent > 0 && self.queue.front().is_some_and(|slot| slot.state == State::Made) {
            let slot = self.queue.pop_front();
            // Nobody knows what became of one that was given up.
            self.last = slot.as_ref().filter(|slot| slot.item.is_some() && !slot.removes).and_then(|slot| slot.hash);
            ended.extend(slot.and_then(|slot| slot.item));
            self.first += 1;
            self.sent -= 1;
        }
    }

    /// All that was sent waits again, but what is given up.
    fn send_again(&mut self) {
        for slot in self.queue.iter_mut().take(self.sent).filter(|slot| slot.item.is_some()) {
            slot.hash = None;
            slot.state = State::Waiting;
        }
        self.sent = 0;
        self.skip_given_up();
    }

    /// What is given up counts as sent.
    fn skip_given_up(&mut self) {
        while self.queue.get(self.sent).is_some_and(|slot| slot.item.is_none()) {
            self.sent += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn topics(path_in_flight_max: usize) -> (Topics<u32>, Instant) {
        (Topics::new(Arc::new(Paths::new(1000)), path_in_flight_max), Instant::now())
    }

    fn sent(topics: &mut Topics<u32>, now: Instant) -> Option<(Ticket, How, u32)> {
        topics.next(now).map(|next| (next.ticket, next.how, *next.item))
    }

    #[test]
    fn the_first_update_of_a_path_goes_alone_and_then_as_many_as_may() {
        let (mut topics, now) = topics(2);
        for item in 1..5 {
            topics.push("a", item, false).unwrap();
        }
        topics.push("b", 9, false).unwrap();
        let (first, how, item) = sent(&mut topics, now).unwrap();
        assert_eq!((how, item), (How::Set, 1));
        assert_eq!(sent(&mut topics, now).unwrap().2, 9);
        assert!(sent(&mut topics, now).is_none());
        let mut ended = Vec::new();
        topics.end(first, Outcome::Create, now, &mut ended);
        let (first, how, item) = sent(&mut topics, now).unwrap();
        assert_eq!((how, item), (How::AddAndSet, 1));
        assert!(sent(&mut topics, now).is_none(), "nothing behind it before the topic is there");
        topics.end(first, Outcome::Made, now, &mut ended);
        assert_eq!(ended, [1]);
        let (second, how, item) = sent(&mut topics, now).unwrap();
        assert_eq!((how, item), (How::Set, 2));
        let third = sent(&mut topics, now).unwrap().0;
        assert!(sent(&mut topics, now).is_none());
        topics.end(third, Outcome::Made, now, &mut ended);
        assert_eq!(ended, [1], "what is made before its turn ends with it");
        topics.end(second, Outcome::Made, now, &mut ended);
        assert_eq!(ended, [1, 2, 3]);
    }

    #[test]
    fn what_is_sent_again_takes_along_what_was_made_behind_it() {
        let (mut topics, now) = topics(3);
        topics.push("a", 0, false).unwrap();
        let mut ended = Vec::new();
        let ticket = sent(&mut topics, now).unwrap().0;
        topics.end(ticket, Outcome::Made, now, &mut ended);
        for item in 1..4 {
            topics.push("a", item, false).unwrap();
        }
        let tickets: Vec<Ticket> = (0..3).map(|_| sent(&mut topics, now).unwrap().0).collect();
        let later = now + Duration::from_secs(1);
        topics.end(tickets[0], Outcome::Again(later), now, &mut ended);
        topics.end(tickets[1], Outcome::GivenUp, now, &mut ended);
        topics.end(tickets[2], Outcome::Made, now, &mut ended);
        assert_eq!(ended, [0]);
        assert!(sent(&mut topics, now).is_none());
        assert_eq!(topics.deadline(), Some(later));
        assert_eq!(sent(&mut topics, later).map(|(.., item)| item), Some(1));
        assert_eq!(sent(&mut topics, later).map(|(.., item)| item), Some(3));
        assert!(sent(&mut topics, later).is_none());
    }

    #[test]
    fn a_value_is_unchanged_only_where_nothing_can_have_come_between() {
        let (mut topics, now) = topics(2);
        let mut ended = Vec::new();
        let mut turn = |topics: &mut Topics<u32>, item: u32, hash: u64, outcome: Outcome| {
            topics.push("a", item, false).unwrap();
            let ticket = sent(topics, now).unwrap().0;
            let is_unchanged = topics.is_unchanged(ticket, hash);
            topics.end(ticket, outcome, now, &mut ended);
            is_unchanged
        };
        assert!(!turn(&mut topics, 1, 7, Outcome::Made), "nothing was set yet");
        assert!(turn(&mut topics, 2, 7, Outcome::Made));
        assert!(!turn(&mut topics, 3, 8, Outcome::Made));
        assert!(turn(&mut topics, 4, 8, Outcome::GivenUp));
        assert!(!turn(&mut topics, 5, 8, Outcome::Made), "nobody knows what became of the one before");
        topics.lose(now);
        assert!(!turn(&mut topics, 6, 8, Outcome::Made), "another session");
        topics.push("a", 7, false).unwrap();
        topics.push("a", 8, false).unwrap();
        let first = sent(&mut topics, now).unwrap().0;
        let second = sent(&mut topics, now).unwrap().0;
        assert!(!topics.is_unchanged(first, 9));
        assert!(!topics.is_unchanged(second, 8), "one is on its way");
    }

    #[test]
    fn a_removed_topic_is_forgotten_and_created_again() {
        let paths = Arc::new(Paths::new(1));
        let (mut topics, now) = (Topics::new(paths, 4), Instant::now());
        let mut ended = Vec::new();
        topics.push("a", 1, true).unwrap();
        assert_eq!(topics.push("b", 2, false), Err(2), "there may be one path");
        let (ticket, how, _) = sent(&mut topics, now).unwrap();
        assert_eq!(how, How::Remove);
        topics.push("a", 3, false).unwrap();
        topics.end(ticket, Outcome::Made, now, &mut ended);
        let (ticket, how, _) = sent(&mut topics, now).unwrap();
        assert_eq!(how, How::AddAndSet, "it is known to be gone");
        topics.end(ticket, Outcome::Made, now, &mut ended);
        topics.push("a", 4, true).unwrap();
        let (ticket, ..) = sent(&mut topics, now).unwrap();
        topics.end(ticket, Outcome::Made, now, &mut ended);
        assert_eq!(ended, [1, 3, 4]);
        assert!(topics.is_empty() && topics.by_path.is_empty());
        topics.push("b", 5, false).unwrap();
    }

    /// A server as far as topics go, and the connection to it.
    #[derive(Default)]
    struct Model {
        values: HashMap<String, Option<u32>>,
        in_flight: Vec<(Ticket, Outcome)>,
        refusals: HashMap<u32, u32>,
        /// Paths that somebody else removed.
        removed: Vec<&'static str>,
    }

    const POISON: u32 = 7;

    impl Model {
        fn make(&mut self, path: &str, how: How, item: u32, dice: u32, now: Instant) -> Outcome {
            if item % 10 == POISON {
                return Outcome::GivenUp;
            }
            let refusals = self.refusals.entry(item).or_default();
            if dice.is_multiple_of(5) && *refusals < 2 {
                *refusals += 1;
                return Outcome::Again(now + Duration::from_millis(u64::from(dice % 7)));
            }
            let value = self.values.entry(path.to_owned()).or_default();
            match how {
                How::Set if value.is_none() => return Outcome::Create,
                How::Set | How::AddAndSet => *value = Some(item),
                How::Remove => *value = None,
            }
            Outcome::Made
        }
    }

    proptest! {
        /// Whatever is refused, lost, answered out of order or removed by others: each update ends once, each path's in order, and the
        /// last one that was not given up is what the server has.
        #[test]
        fn the_last_update_is_the_last_at_the_server(
            steps in prop::collection::vec((0u32..8, any::<u32>()), 1..400),
            path_in_flight_max in 1usize..5,
        ) {
            let paths = ["a", "b", "c"];
            let (mut topics, mut now) = topics(path_in_flight_max);
            let mut model = Model::default();
            let mut pushed: HashMap<&str, Vec<(u32, bool)>> = HashMap::new();
            let (mut ended, mut given_up) = (Vec::new(), Vec::new());
            let mut number = 0;
            let mut step = |topics: &mut Topics<u32>, model: &mut Model, what: u32, dice: u32, now: Instant, ended: &mut Vec<u32>| {
                match what {
                    0..=3 => {
                        let Some(next) = topics.next(now) else { return };
                        let outcome = model.make(next.path, next.how, *next.item, dice, now);
                        model.in_flight.push((next.ticket, outcome));
                    }
                    4 | 5 if !model.in_flight.is_empty() => {
                        let (ticket, outcome) = model.in_flight.swap_remove(dice as usize % model.in_flight.len());
                        given_up.extend(topics.end(ticket, outcome, now, ended));
                    }
                    _ => (),
                }
            };
            for (what, dice) in steps {
                now += Duration::from_millis(1);
                match what {
                    0 | 1 => {
                        let (path, removes) = (paths[dice as usize % 3], dice % 11 == 0);
                        number += 1;
                        topics.push(path, number, removes).unwrap();
                        pushed.entry(path).or_default().push((number, removes));
                    }
                    7 if dice % 4 == 0 => {
                        model.in_flight.clear();
                        topics.lose(now);
                    }
                    7 if dice % 4 == 1 => {
                        let path = paths[dice as usize % 3];
                        model.values.insert(path.into(), None);
                        model.removed.push(path);
                    }
                    _ => step(&mut topics, &mut model, what, dice, now, &mut ended),
                }
            }
            let mut rounds = 0;
            while !topics.is_empty() {
                now += Duration::from_millis(3);
                step(&mut topics, &mut model, rounds % 6, rounds.wrapping_mul(2_654_435_761), now, &mut ended);
                rounds += 1;
                prop_assert!(rounds < 100_000, "something is stuck");
            }
            prop_assert!(topics.next(now).is_none() && topics.deadline().is_none());
            prop_assert_eq!(ended.len() + given_up.len(), number as usize);
            for (path, all) in pushed {
                let wanted: Vec<u32> = all.iter().map(|(item, _)| *item).filter(|item| item % 10 != POISON).collect();
                let found: Vec<u32> = ended.iter().copied().filter(|item| all.iter().any(|(known, _)| known == item)).collect();
                prop_assert_eq!(&found, &wanted, "{}", path);
                let last = all.iter().rev().find(|(item, _)| item % 10 != POISON);
                let expected = last.and_then(|(item, removes)| (!removes).then_some(*item));
                let at_server = model.values.get(path).copied().flatten();
                let is_removed = at_server.is_none() && model.removed.contains(&path);
                prop_assert!(at_server == expected || is_removed, "{} has {:?}, not {:?}", path, at_server, expected);
            }
        }
    }
}
