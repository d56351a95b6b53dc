//! One log line per minute about something that may happen to every request.

use std::time::Duration;

use parking_lot::Mutex;

const PAUSE: Duration = Duration::from_secs(60);

/// Remembers the last line and counts what was not written since.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Duration>,
    silent: u64,
}

impl Throttle {
    /// Whether to write a line at `now`, a monotonic time: how many times it said no since the last
    /// line, or `None` for no line.
    pub(crate) fn note(&self, now: Duration) -> Option<u64> {
        let mut state = self.0.lock();
        if state.last.is_some_and(|last| now < last + PAUSE) {
            state.silent += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_counts_the_others() {
        let throttle = Throttle::default();
        let at = |seconds| throttle.note(Duration::from_secs(seconds));
        assert_eq!(
            [at(1), at(2), at(60), at(61), at(62), at(200)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }
}
