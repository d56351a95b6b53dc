//! Latencies and counts of requests, while they run and as figures.
//!
//! Knows no requests and no clock: times are given to it.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use crate::failure::{Failure, FailureCount, Failures};
use crate::request::Good;
use crate::workload::Operation;

/// Longest latency that is told apart, in microseconds: a day, which no timeout exceeds.
const LATENCY_US_MAX: u64 = 86_400_000_000;
/// Latencies are kept to three digits.
const DIGITS: u8 = 3;

/// The time that counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) begins: Duration,
    /// When no more requests begin; without one their number is limited.
    pub(crate) ends: Option<Duration>,
}

/// What is measured of one kind of request. Several can be put together.
#[derive(Clone)]
pub(crate) struct Part {
    latency_us: Latencies,
    first_byte_us: Latencies,
    failures: Failures,
    /// Good answers within the window, which rates are made of.
    in_time: u64,
    bytes_in_time: u64,
}

/// Microseconds of good answers.
#[derive(Clone)]
struct Latencies {
    histogram: Histogram<u64>,
    /// The histogram has it to three digits only.
    max_us: u64,
}

impl Latencies {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        Self {
            histogram: histogram.expect("the bounds are constants that fit"),
            max_us: 0,
        }
    }

    fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(us);
        self.max_us = self.max_us.max(us);
    }

    fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("histograms of the same bounds");
        self.max_us = self.max_us.max(other.max_us);
    }

    fn quantiles(&self) -> Option<Quantiles> {
        let ms = |us: u64| us.min(self.max_us) as f64 / 1000.0;
        let at = |quantile| ms(self.histogram.value_at_quantile(quantile));
        (!self.histogram.is_empty()).then(|| Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: ms(self.max_us),
        })
    }
}

/// Latencies that so many of the answers do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

impl Part {
    fn new() -> Self {
        Self {
            latency_us: Latencies::new(),
            first_byte_us: Latencies::new(),
            failures: Failures::default(),
            in_time: 0,
            bytes_in_time: 0,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.latency_us.merge(&other.latency_us);
        self.first_byte_us.merge(&other.first_byte_us);
        self.failures.merge(&other.failures);
        self.in_time += other.in_time;
        self.bytes_in_time += other.bytes_in_time;
    }
}

/// Takes what workers measure.
pub(crate) struct Recorder {
    window: Window,
    parts: BTreeMap<Operation, Mutex<Part>>,
    /// When the last answer of the window was there.
    last: Mutex<Duration>,
}

impl Recorder {
    pub(crate) fn new(window: Window, operations: impl Iterator<Item = Operation>) -> Self {
        Self {
            window,
            parts: operations
                .map(|operation| (operation, Mutex::new(Part::new())))
                .collect(),
            last: Mutex::new(window.begins),
        }
    }

    pub(crate) fn window(&self) -> Window {
        self.window
    }

    /// Notes a request that began at `began_at`, by which the window counts it.
    pub(crate) fn note(
        &self,
        operation: Operation,
        began_at: Duration,
        ended_at: Duration,
        outcome: Result<Good, Failure>,
    ) {
        let counts = began_at >= self.window.begins;
        let in_time = match self.window.ends {
            Some(ends) => (self.window.begins..ends).contains(&ended_at),
            None => counts,
        };
        let Some(part) = self.parts.get(&operation) else {
            return;
        };
        let mut part = part.lock();
        match outcome {
            Ok(good) => {
                if in_time {
                    part.in_time += 1;
                    part.bytes_in_time += good.bytes;
                }
                if counts {
                    part.latency_us.record(good.ended_at - good.sent_at);
                    part.first_byte_us.record(good.head_at - good.sent_at);
                }
            }
            Err(failure) if counts => part.failures.add(failure),
            Err(_) => {}
        }
        drop(part);
        if counts {
            let mut last = self.last.lock();
            *last = (*last).max(ended_at);
        }
    }

    /// Good answers and failures so far, for a progress bar.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for part in self.parts.values() {
            let part = part.lock();
            sum.0 += part.latency_us.histogram.len();
            sum.1 += part.failures.total();
        }
        sum
    }

    /// What was measured, when it was over at `stopped_at`.
    pub(crate) fn finish(&self, stopped_at: Duration) -> Round {
        let last = *self.last.lock();
        let ended = match self.window.ends {
            // Cut short, it has lasted until then.
            Some(ends) => ends.min(stopped_at),
            None => last,
        };
        Round {
            seconds: ended.saturating_sub(self.window.begins).as_secs_f64(),
            parts: self
                .parts
                .iter()
                .map(|(operation, part)| (*operation, part.lock().clone()))
                .collect(),
        }
    }
}

/// One measurement of a workload.
pub(crate) struct Round {
    seconds: f64,
    parts: BTreeMap<Operation, Part>,
}

/// What stands in reports. Rates are of good answers within the measured time; of several rounds, medians.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Requests that began within the measured time.
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// The measured time, of all rounds.
    pub(crate) seconds: f64,
    pub(crate) requests_per_second: f64,
    /// Of bodies, there and back.
    pub(crate) bytes_per_second: f64,
    pub(crate) latency_ms: Option<Quantiles>,
    /// Until the answer begins; of GET only.
    pub(crate) first_byte_ms: Option<Quantiles>,
    pub(crate) failures: Vec<FailureCount>,
}

/// What all rounds of a workload have measured.
#[derive(Default)]
pub(crate) struct Measured {
    parts: BTreeMap<Operation, Part>,
    paces: Vec<Pace>,
}

/// What one round's rates are made of.
struct Pace {
    seconds: f64,
    /// Good answers in time, and their bytes.
    done: BTreeMap<Operation, (u64, u64)>,
}

impl Measured {
    /// Takes one more round.
    pub(crate) fn add(&mut self, round: &Round) {
        let done = round.parts.iter().map(|(operation, part)| {
            let known = self.parts.entry(*operation).or_insert_with(Part::new);
            known.merge(part);
            (*operation, (part.in_time, part.bytes_in_time))
        });
        let done = done.collect();
        self.paces.push(Pace {
            seconds: round.seconds,
            done,
        });
    }

    /// The figures of one kind of request, or of all together.
    pub(crate) fn figures(&self, operation: Option<Operation>) -> Figures {
        let asked = |own: &Operation| operation.is_none_or(|asked| asked == *own);
        let mut whole = Part::new();
        for (_, part) in self.parts.iter().filter(|(own, _)| asked(own)) {
            whole.merge(part);
        }
        let rates = |count: fn(&(u64, u64)) -> u64| {
            let rate = |pace: &Pace| {
                let done = pace.done.iter().filter(|(own, _)| asked(own));
                let done: u64 = done.map(|(_, done)| count(done)).sum();
                match pace.seconds > 0.0 {
                    true => done as f64 / pace.seconds,
                    false => 0.0,
                }
            };
            median(self.paces.iter().map(rate).collect())
        };
        let errors = whole.failures.total();
        let only_gets = self
            .parts
            .keys()
            .filter(|own| asked(own))
            .all(|own| *own == Operation::Get);
        Figures {
            requests: whole.latency_us.histogram.len() + errors,
            errors,
            seconds: self.paces.iter().map(|pace| pace.seconds).sum(),
            requests_per_second: rates(|(requests, _)| *requests),
            bytes_per_second: rates(|(_, bytes)| *bytes),
            latency_ms: whole.latency_us.quantiles(),
            first_byte_ms: match only_gets {
                true => whole.first_byte_us.quantiles(),
                false => None,
            },
            failures: whole.failures.counts(),
        }
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => 0.0,
        (1, Some(value)) => *value,
        (_, Some(above)) => values
            .get(middle - 1)
            .map_or(*above, |below| (below + above) / 2.0),
    }
}

#[cfg(test)]
mod tests;
