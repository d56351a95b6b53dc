//! Panics and ERROR lines are findings: ERROR means that a human must look, and in a simulation
//! there is none.

use std::fmt::Write as _;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::Findings;

/// ERROR lines that an injected fault explains: a crash closes the stores under a node that is
/// still running its last instructions, and stops the tasks of its groups one after the other.
const EXPECTED: &[&str] = &[
    "key-value store is closed",
    "the power is off",
    "failed to send HeartbeatProgress",
    "failed to send Seen a higher vote",
];

/// Reports unexpected ERROR lines.
pub struct ErrorLines {
    findings: Findings,
}

impl ErrorLines {
    /// A layer for the subscriber.
    pub fn new(findings: Findings) -> Self {
        Self { findings }
    }
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl<S: Subscriber> Layer<S> for ErrorLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        if !EXPECTED.iter().any(|expected| line.0.contains(expected)) {
            self.findings
                .report(format!("ERROR {}:{}", event.metadata().target(), line.0));
        }
    }
}

/// Makes every panic of the process a finding, whichever task it ends.
pub fn report_panics(findings: Findings) {
    std::panic::set_hook(Box::new(move |panic| {
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        let ours: Vec<&str> = trace
            .lines()
            .filter(|line| line.contains("granary"))
            .take(24)
            .collect();
        findings.report(format!("a task panicked: {panic}\n{}", ours.join("\n")));
    }));
}
