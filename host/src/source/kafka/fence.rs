//! The fence between the control thread and the reader: after crossing it, the reader holds no record that it took before.
//!
//! Invariant (I5): [`Fence::cross`] returns only when the reader passed the top of its loop, where it holds nothing, or has ended.

use parking_lot::{Condvar, Mutex};

use crate::ack::budget::Budget;

#[derive(Debug, Default)]
struct State {
    wanted: u64,
    passed: u64,
    ended: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fence(Mutex<State>, Condvar);

impl Fence {
    /// Waits until the reader passed. `budget`: where the reader may be waiting.
    pub fn cross(&self, budget: &Budget) {
        let mut state = self.0.lock();
        state.wanted += 1;
        let wanted = state.wanted;
        while state.passed < wanted && !state.ended {
            budget.interrupt();
            self.1.wait_for(&mut state, std::time::Duration::from_millis(10));
        }
    }

    /// The reader is at the top of its loop.
    pub fn pass(&self) {
        let mut state = self.0.lock();
        if state.passed < state.wanted {
            state.passed = state.wanted;
            self.1.notify_all();
        }
    }

    /// The reader has ended.
    pub fn end(&self) {
        self.0.lock().ended = true;
        self.1.notify_all();
    }
}
