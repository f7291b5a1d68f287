//! The byte budget of a route: how much of what was read may be held in memory at once.
//!
//! Invariant: what is held never exceeds the budget by more than one batch. It counts memory, not offsets: a sink that has
//! converted a record and let go of its batch frees the batch's share, whatever is still unsettled.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

#[derive(Debug)]
struct State {
    held: usize,
    interrupted: u64,
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
        let state = State { held: 0, interrupted: 0 };
        Budget { shared: Arc::new((Mutex::new(state), Condvar::new())), bytes_max }
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

    /// Takes `bytes`, whether there is room or not; ask [`Budget::wait`] first.
    pub fn take(&self, bytes: usize) -> Permit {
        self.shared.0.lock().held += bytes;
        Permit { budget: self.clone(), bytes }
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
        state.held -= self.bytes;
        if was_full && state.held < self.budget.bytes_max {
            changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_makes_room() {
        let budget = Budget::new(10);
        let permit = budget.take(12);
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
        let _held = budget.take(1);
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
