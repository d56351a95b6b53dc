//! What is wrong with the disk right now; set by the control, obeyed by every operation.
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Sync,
    /// Names, sizes, attributes.
    Name,
}

#[derive(Default)]
struct State {
    failing: Vec<Kind>,
    delay: Duration,
    hangs: bool,
}

#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

impl Faults {
    /// Waits as long as the disk is slow or hangs; true when the operation is to fail with EIO.
    pub fn strike(&self, kind: Kind) -> bool {
        let mut state = self.state.lock();
        while state.hangs {
            self.changed.wait(&mut state);
        }
        let (fails, delay) = (state.failing.contains(&kind), state.delay);
        drop(state);
        if !delay.is_zero() && kind != Kind::Name {
            std::thread::sleep(delay);
        }
        fails
    }

    pub fn fail(&self, kinds: &[Kind]) {
        self.state.lock().failing.extend_from_slice(kinds);
    }

    pub fn delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    pub fn hang(&self) {
        self.state.lock().hangs = true;
    }

    /// The disk is well again.
    pub fn heal(&self) {
        *self.state.lock() = State::default();
        self.changed.notify_all();
    }
}
