//! What waits for a request, in lanes: the records of one lane never overtake each other.
//!
//! Invariant: of a lane at most one request is in flight, and it takes the lane's records from the front. So the order of a lane
//! is kept whatever the answers, and a slow lane holds up nobody but itself. Pure state: the caller brings the time.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::AHashMap;
use tokio::time::Instant;

/// Queues that are kept for lanes to come, and how many records each may have room for: some megabytes at most.
const SPARE_MAX: usize = 16_384;
const SPARE_CAPACITY_MAX: usize = 4;

/// When what waits is enough for a request.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Records a request.
    pub rows_max: usize,
    /// Bytes a request, as far as they are known before rendering.
    pub bytes_max: usize,
    /// How long the first record of a request waits for others.
    pub linger: Duration,
}

/// One record that waits.
#[derive(Debug)]
pub struct Waiting<T> {
    /// Records of one lane keep their order.
    pub lane: u64,
    /// Only records of one group share a request.
    pub group: u64,
    /// Bytes it counts for.
    pub bytes: usize,
    /// What waits.
    pub item: T,
}

/// Records for one request; hand `lanes` back with [`Lanes::release`] when it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Load<T> {
    /// The lanes that are held until the request ended.
    pub lanes: Vec<u64>,
    /// The records, each lane's in its order.
    pub items: Vec<T>,
}

/// All lanes of a sink.
#[derive(Debug)]
pub struct Lanes<T> {
    bounds: Bounds,
    lanes: AHashMap<u64, Lane<T>>,
    groups: AHashMap<u64, Group>,
    /// Queues of lanes that are gone, for those that come: most lanes are there for one record.
    spare: Vec<VecDeque<Waiting<T>>>,
    /// Groups by the time their first record came; entries may be out of date.
    aging: VecDeque<(Instant, u64)>,
    /// Groups that have enough for a request; entries may be out of date.
    full: VecDeque<u64>,
    waiting: usize,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<Waiting<T>>,
    busy: bool,
    /// How much a request could take now: records of the first one's group from the front on.
    front: Amount,
}

#[derive(Debug, Default, Clone, Copy)]
struct Amount {
    rows: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Group {
    ready: VecDeque<u64>,
    amount: Amount,
    since: Instant,
}

impl<T> Lanes<T> {
    /// No record yet.
    pub fn new(bounds: Bounds) -> Self {
        Lanes {
            bounds,
            lanes: AHashMap::new(),
            groups: AHashMap::new(),
            spare: Vec::new(),
            aging: VecDeque::new(),
            full: VecDeque::new(),
            waiting: 0,
        }
    }

    /// How many records wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// A record comes.
    pub fn push(&mut self, waiting: Waiting<T>, now: Instant) {
        let (id, group, bytes) = (waiting.lane, waiting.group, waiting.bytes);
        let spare = &mut self.spare;
        let lane = self.lanes.entry(id).or_insert_with(|| Lane {
            waiting: spare.pop().unwrap_or_default(),
            busy: false,
            front: Amount::default(),
        });
        let was_empty = lane.waiting.is_empty();
        let extends = lane.front.rows == lane.waiting.len()
            && lane.front.rows < self.bounds.rows_max
            && lane.waiting.back().is_none_or(|last| last.group == group);
        lane.waiting.push_back(waiting);
        self.waiting += 1;
        if lane.busy || !extends {
            return;
        }
        lane.front.rows += 1;
        lane.front.bytes += bytes;
        self.ready(id, group, Amount { rows: 1, bytes }, was_empty, now);
    }

    /// Records for a request, if there are enough, or some have waited long enough; `urgent`: if there are any.
    pub fn take(&mut self, now: Instant, urgent: bool) -> Option<Load<T>> {
        let id = self.due(now, urgent)?;
        let group = self.groups.get_mut(&id)?;
        let mut load = Load { lanes: Vec::new(), items: Vec::new() };
        let mut bytes = 0;
        while let Some(next) = group.ready.front()
            && let Some(lane) = self.lanes.get_mut(next)
        {
            let before = load.items.len();
            while let Some(first) = lane.waiting.front()
                && first.group == id
                && load.items.len() < self.bounds.rows_max
                && (load.items.is_empty() || bytes + first.bytes <= self.bounds.bytes_max)
                && let Some(first) = lane.waiting.pop_front()
            {
                bytes += first.bytes;
                load.items.push(first.item);
            }
            if load.items.len() == before {
                break;
            }
            lane.busy = true;
            group.amount.rows -= lane.front.rows;
            group.amount.bytes -= lane.front.bytes;
            lane.front = Amount::default();
            load.lanes.extend(group.ready.pop_front());
        }
        self.waiting -= load.items.len();
        if group.ready.is_empty() {
            self.groups.remove(&id);
        } else {
            group.since = now;
            self.aging.push_back((now, id));
            if self.bounds.reached(group.amount) {
                self.full.push_back(id);
            }
        }
        Some(load)
    }

    /// The request that held these lanes ended.
    pub fn release(&mut self, lanes: &[u64], now: Instant) {
        for &id in lanes {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.busy = false;
            let Some(group) = lane.waiting.front().map(|first| first.group) else {
                let gone = self.lanes.remove(&id);
                if self.spare.len() < SPARE_MAX {
                    self.spare.extend(gone.map(|lane| lane.waiting).filter(|queue| queue.capacity() <= SPARE_CAPACITY_MAX));
                }
                continue;
            };
            let mut front = Amount::default();
            for waiting in lane.waiting.iter().take(self.bounds.rows_max).take_while(|waiting| waiting.group == group) {
                front.rows += 1;
                front.bytes += waiting.bytes;
            }
            lane.front = front;
            self.ready(id, group, front, true, now);
        }
    }

    /// When the oldest records that could go have waited long enough. Only where [`Lanes::take`] gave nothing.
    pub fn deadline(&self) -> Option<Instant> {
        self.aging.front().map(|(since, _)| *since + self.bounds.linger)
    }

    fn ready(&mut self, lane: u64, id: u64, more: Amount, newly: bool, now: Instant) {
        let group = self.groups.entry(id).or_insert_with(|| {
            self.aging.push_back((now, id));
            Group { ready: VecDeque::new(), amount: Amount::default(), since: now }
        });
        if newly {
            group.ready.push_back(lane);
        }
        let was_full = self.bounds.reached(group.amount);
        group.amount.rows += more.rows;
        group.amount.bytes += more.bytes;
        if !was_full && self.bounds.reached(group.amount) {
            self.full.push_back(id);
        }
    }

    fn due(&mut self, now: Instant, urgent: bool) -> Option<u64> {
        while let Some(id) = self.full.pop_front() {
            if self.groups.get(&id).is_some_and(|group| self.bounds.reached(group.amount)) {
                return Some(id);
            }
        }
        while let Some(&(since, id)) = self.aging.front() {
            if self.groups.get(&id).is_none_or(|group| group.since != since) {
                self.aging.pop_front();
                continue;
            }
            if !urgent && now < since + self.bounds.linger {
                return None;
            }
            self.aging.pop_front();
            return Some(id);
        }
        None
    }
}

impl Bounds {
    fn reached(&self, amount: Amount) -> bool {
        amount.rows >= self.rows_max || amount.bytes >= self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn lanes(rows_max: usize, linger_ms: u64) -> (Lanes<u32>, Instant) {
        let bounds = Bounds { rows_max, bytes_max: 100, linger: Duration::from_millis(linger_ms) };
        (Lanes::new(bounds), Instant::now())
    }

    fn waiting(lane: u64, item: u32) -> Waiting<u32> {
        Waiting { lane, group: 0, bytes: 10, item }
    }

    fn items(load: Option<Load<u32>>) -> Vec<u32> {
        load.map_or(Vec::new(), |load| load.items)
    }

    #[test]
    fn the_next_record_of_a_lane_waits_for_the_one_before_it_and_others_do_not() {
        let (mut lanes, now) = lanes(1, 0);
        for (lane, item) in [(1, 10), (1, 11), (2, 20)] {
            lanes.push(waiting(lane, item), now);
        }
        let first = lanes.take(now, false).unwrap();
        assert_eq!(first.items, [10]);
        assert_eq!(items(lanes.take(now, false)), [20]);
        assert_eq!(lanes.take(now, false), None);
        lanes.release(&first.lanes, now);
        assert_eq!(items(lanes.take(now, false)), [11]);
        assert!(lanes.len() == 0);
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_old_enough_or_when_it_is_urgent() {
        let (mut lanes, now) = lanes(2, 5);
        lanes.push(waiting(1, 10), now);
        assert_eq!(lanes.take(now, false), None);
        assert_eq!(lanes.deadline(), Some(now + Duration::from_millis(5)));
        lanes.push(waiting(1, 11), now);
        assert_eq!(items(lanes.take(now, false)), [10, 11]);
        lanes.push(waiting(2, 20), now);
        let later = now + Duration::from_millis(5);
        assert_eq!(items(lanes.take(later, false)), [20]);
        lanes.push(waiting(3, 30), later);
        assert_eq!(items(lanes.take(later, true)), [30]);
    }

    #[test]
    fn a_batch_ends_at_its_bytes() {
        let (mut lanes, now) = lanes(1000, 5);
        for item in 0..25 {
            lanes.push(waiting(1, item), now);
        }
        assert_eq!(items(lanes.take(now, false)).len(), 10);
    }

    #[test]
    fn a_record_larger_than_the_bytes_of_a_batch_goes_alone() {
        let (mut lanes, now) = lanes(1000, 5);
        lanes.push(Waiting { lane: 1, group: 0, bytes: 5000, item: 1 }, now);
        lanes.push(waiting(2, 2), now);
        assert_eq!(items(lanes.take(now, false)), [1]);
    }

    #[test]
    fn groups_do_not_share_a_request_and_a_lane_keeps_its_order_across_them() {
        let (mut lanes, now) = lanes(10, 5);
        for (group, item) in [(7, 1), (8, 2), (7, 3)] {
            lanes.push(Waiting { lane: 1, group, bytes: 1, item }, now);
        }
        let mut taken = Vec::new();
        while let Some(load) = lanes.take(now, true) {
            lanes.release(&load.lanes, now);
            taken.push(load.items);
        }
        assert_eq!(taken, [[1], [2], [3]]);
    }

    proptest! {
        /// Whatever comes and goes in whatever order: nothing is lost, no lane is in two requests, each lane's order is kept.
        #[test]
        fn every_record_goes_once_and_in_its_lanes_order(
            steps in prop::collection::vec((0u64..5, 0u64..3, 0u8..4), 1..300),
            rows_max in 1usize..6,
        ) {
            let bounds = Bounds { rows_max, bytes_max: 100, linger: Duration::from_millis(5) };
            let mut lanes: Lanes<(u64, u32)> = Lanes::new(bounds);
            let mut now = Instant::now();
            let mut in_flight: Vec<Load<(u64, u32)>> = Vec::new();
            let mut seen: HashMap<u64, u32> = HashMap::new();
            let mut pushed: HashMap<u64, u32> = HashMap::new();
            let mut check = |load: &Load<(u64, u32)>| {
                for (lane, number) in &load.items {
                    let next = seen.entry(*lane).or_default();
                    assert_eq!(number, next);
                    *next += 1;
                }
                assert!(load.items.len() <= rows_max && !load.items.is_empty());
            };
            for (lane, group, what) in steps {
                now += Duration::from_millis(1);
                match what {
                    0 | 1 => {
                        let number = pushed.entry(lane).or_default();
                        lanes.push(Waiting { lane, group, bytes: 30, item: (lane, *number) }, now);
                        *number += 1;
                    }
                    2 => {
                        if let Some(load) = lanes.take(now, group == 0) {
                            let held = in_flight.iter().flat_map(|load| &load.lanes);
                            prop_assert!(!held.clone().any(|held| load.lanes.contains(held)));
                            check(&load);
                            in_flight.push(load);
                        }
                    }
                    _ => if let Some(load) = in_flight.pop() {
                        lanes.release(&load.lanes, now);
                    }
                }
            }
            for load in in_flight.drain(..) {
                lanes.release(&load.lanes, now);
            }
            while let Some(load) = lanes.take(now, true) {
                check(&load);
                lanes.release(&load.lanes, now);
            }
            prop_assert!(lanes.len() == 0);
            prop_assert_eq!(seen, pushed.into_iter().filter(|(_, count)| *count > 0).collect());
            prop_assert!(lanes.lanes.is_empty() && lanes.groups.is_empty());
        }
    }
}
