//! The byte budget of a route: how much of what was read may be held in memory at once.
//!
//! Invariant (I11): what is held never exceeds the budget by more than one call's batches, and what was set aside never exceeds it by more
//! than one partition's share. It counts memory, not offsets: a sink that has converted a record and let go of its batch frees the batch's share,
//! whatever is still unsettled.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::Slot;

#[derive(Debug, Default)]
struct State {
    held: usize,
    aside: usize,
    shares: HashMap<Slot, Share>,
    interrupted: u64,
}

/// What one partition holds.
#[derive(Debug, Default)]
struct Share {
    held: usize,
    aside: bool,
}

/// The budget of one route; clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<(Mutex<State>, Condvar)>,
    bytes_max: usize,
}

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    slot: Slot,
    bytes: usize,
}

/// How a wait for room ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Free,
    /// Somebody wants the waiter to look up ([`Budget::interrupt`]).
    Interrupted,
}

impl Budget {
    /// A budget of `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Budget { shared: Arc::default(), bytes_max }
    }

    /// Waits until something may be read. A batch larger than the whole budget passes when nothing else is held.
    pub fn wait(&self) -> Room {
        let (state, changed) = &*self.shared;
        let mut state = state.lock();
        let interrupted = state.interrupted;
        while state.held >= self.bytes_max {
            changed.wait(&mut state);
            if state.interrupted != interrupted {
                return Room::Interrupted;
            }
        }
        Room::Free
    }

    /// Wakes whoever waits for room.
    pub fn interrupt(&self) {
        self.shared.0.lock().interrupted += 1;
        self.shared.1.notify_all();
    }

    /// Takes `bytes` for a partition, whether there is room or not; ask [`Budget::wait`] first.
    pub fn take(&self, slot: Slot, bytes: usize) -> Permit {
        let mut state = self.shared.0.lock();
        let share = state.shares.entry(slot).or_default();
        share.held += bytes;
        if share.aside {
            state.aside += bytes;
        } else {
            state.held += bytes;
        }
        Permit { budget: self.clone(), slot, bytes }
    }

    /// What a partition holds does not count any more, so that others can go on. Returns whether there was room for that.
    pub fn set_aside(&self, slot: Slot) -> bool {
        let mut state = self.shared.0.lock();
        let aside = state.aside;
        let Some(share) = state.shares.get_mut(&slot).filter(|share| !share.aside && aside < self.bytes_max) else {
            return false;
        };
        share.aside = true;
        let bytes = share.held;
        state.aside += bytes;
        state.held -= bytes;
        self.shared.1.notify_all();
        true
    }

    /// What a partition holds counts again.
    pub fn bring_back(&self, slot: Slot) {
        let mut state = self.shared.0.lock();
        let Some(share) = state.shares.get_mut(&slot).filter(|share| share.aside) else { return };
        share.aside = false;
        let bytes = share.held;
        if bytes == 0 {
            state.shares.remove(&slot);
        }
        state.aside -= bytes;
        state.held += bytes;
    }

    /// What a partition holds.
    pub fn held_of(&self, slot: Slot) -> usize {
        self.shared.0.lock().shares.get(&slot).map_or(0, |share| share.held)
    }

    /// Bytes that may be held.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.shared.0.lock().held
    }

    /// Whether anything more would be too much.
    pub fn is_exhausted(&self) -> bool {
        self.held() >= self.bytes_max
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (state, changed) = &*self.budget.shared;
        let mut state = state.lock();
        let was_full = state.held >= self.budget.bytes_max;
        let Some(share) = state.shares.get_mut(&self.slot) else { return };
        share.held -= self.bytes;
        let aside = share.aside;
        if share.held == 0 && !aside {
            state.shares.remove(&self.slot);
        }
        if aside {
            state.aside -= self.bytes;
        } else {
            state.held -= self.bytes;
        }
        if was_full && state.held < self.budget.bytes_max {
            changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(index: u32) -> Slot {
        Slot { index, generation: 1 }
    }

    #[test]
    fn what_is_set_aside_makes_room_once_more_and_no_further() {
        let budget = Budget::new(10);
        let (stuck, other) = (budget.take(slot(0), 10), budget.take(slot(1), 1));
        assert!(budget.is_exhausted());
        assert!(budget.set_aside(slot(0)));
        assert!(!budget.set_aside(slot(0)), "it is aside already");
        assert!(!budget.set_aside(slot(1)), "aside is full");
        assert_eq!((budget.held(), budget.held_of(slot(0))), (1, 10));
        drop(other);
        let more = budget.take(slot(1), 10);
        assert!(budget.is_exhausted());
        drop((stuck, more));
        budget.bring_back(slot(0));
        assert_eq!((budget.held(), budget.held_of(slot(0))), (0, 0));
        let _again = budget.take(slot(0), 10);
        assert!(budget.is_exhausted(), "it counts again");
    }

    #[test]
    fn a_dropped_permit_makes_room() {
        let budget = Budget::new(10);
        let permit = budget.take(slot(0), 12);
        assert!(budget.is_exhausted());
        let waiter = std::thread::spawn({
            let budget = budget.clone();
            move || budget.wait()
        });
        drop(permit);
        assert_eq!(waiter.join().ok(), Some(Room::Free));
    }

    #[test]
    fn a_waiter_looks_up_when_interrupted() {
        let budget = Budget::new(1);
        let _held = budget.take(slot(0), 1);
        let waiter = std::thread::spawn({
            let budget = budget.clone();
            move || budget.wait()
        });
        while !waiter.is_finished() {
            budget.interrupt();
        }
        assert_eq!(waiter.join().ok(), Some(Room::Interrupted));
    }
}
