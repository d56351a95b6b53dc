//! What a run has found, as a table for people and as JSON for programs. Every unit is in a name.

use std::fmt::Write as _;

use granary_oss::header::date::format_iso8601;
use granary_types::Timestamp;
use serde::Serialize;

use crate::endpoint::Addressing;
use crate::measure::{Figures, Measured, Quantiles};
use crate::settings::{Extent, Settings};
use crate::signing::Dialect;
use crate::workload::{Operation, Workload};

/// Heads of the columns after the name, with their widths.
const COLUMNS: [(&str, usize); 10] = [
    ("requests", 9),
    ("errors", 7),
    ("requests/s", 11),
    ("MB/s", 9),
    ("p50 ms", 9),
    ("p90 ms", 9),
    ("p99 ms", 9),
    ("p99.9 ms", 9),
    ("max ms", 9),
    ("first byte p50 ms", 18),
];
const NOTHING: &str = "-";

/// The JSON document.
#[derive(Serialize)]
pub(crate) struct Report {
    granary_version: &'static str,
    started_at: String,
    settings: Asked,
    /// Ended by the user: some workloads or rounds are missing, the last one is short.
    pub(crate) interrupted: bool,
    /// Why not everything was measured.
    pub(crate) error: Option<String>,
    /// What all keys of the run begin with, if some of its objects are still there.
    pub(crate) objects_left_under: Option<String>,
    pub(crate) workloads: Vec<WorkloadReport>,
}

/// The settings in force.
#[derive(Serialize)]
struct Asked {
    endpoint: String,
    bucket: String,
    dialect: Dialect,
    addressing: Addressing,
    region: String,
    connections: usize,
    seconds: Option<f64>,
    requests: Option<u64>,
    warm_up_seconds: f64,
    rounds: u32,
    timeout_seconds: f64,
}

/// One workload.
#[derive(Serialize)]
pub(crate) struct WorkloadReport {
    workload: String,
    object_bytes: u64,
    keys: usize,
    #[serde(flatten)]
    pub(crate) total: Figures,
    /// Of a mix, by kind of request.
    operations: Vec<OperationReport>,
    /// Each round by itself.
    rounds: Vec<Figures>,
}

#[derive(Serialize)]
struct OperationReport {
    operation: Operation,
    #[serde(flatten)]
    figures: Figures,
}

impl WorkloadReport {
    pub(crate) fn new(
        workload: &Workload,
        keys: usize,
        measured: &Measured,
        rounds: Vec<Figures>,
    ) -> Self {
        let of_mix = workload.shares.iter().filter(|_| workload.shares.len() > 1);
        let operations = of_mix
            .map(|(operation, _)| OperationReport {
                operation: *operation,
                figures: measured.figures(Some(*operation)),
            })
            .collect();
        Self {
            workload: workload.name.clone(),
            object_bytes: workload.size_bytes,
            keys,
            total: measured.figures(None),
            operations,
            rounds,
        }
    }

    /// Its rows of the table: one, and one for each kind of request of a mix.
    pub(crate) fn rows(&self, workload: &Workload, name_width: usize) -> String {
        let moves = |operation: Operation| operation.moves_bytes();
        let any_moves = workload.shares.iter().any(|(own, _)| moves(*own));
        let mut rows = row(&self.workload, name_width, &self.total, any_moves);
        for part in &self.operations {
            let name = format!("  {}", part.operation.as_str());
            rows.push('\n');
            rows += &row(&name, name_width, &part.figures, moves(part.operation));
        }
        rows
    }
}

impl Report {
    pub(crate) fn new(settings: &Settings, started_at: Timestamp) -> Self {
        let (seconds, requests) = match settings.extent {
            Extent::Time(time) => (Some(time.as_secs_f64()), None),
            Extent::Requests(requests) => (None, Some(requests)),
        };
        Self {
            granary_version: env!("CARGO_PKG_VERSION"),
            started_at: format_iso8601(started_at),
            settings: Asked {
                endpoint: settings.endpoint.url.clone(),
                bucket: settings.endpoint.bucket.clone(),
                dialect: settings.dialect,
                addressing: settings.endpoint.addressing,
                region: settings.region.clone(),
                connections: settings.connections,
                seconds,
                requests,
                warm_up_seconds: settings.warm_up.as_secs_f64(),
                rounds: settings.rounds,
                timeout_seconds: settings.timeout.as_secs_f64(),
            },
            interrupted: false,
            error: None,
            objects_left_under: None,
            workloads: Vec::new(),
        }
    }

    /// What is measured, and the heads of the table.
    pub(crate) fn head(&self, name_width: usize) -> String {
        let asked = &self.settings;
        let extent = match (asked.seconds, asked.requests) {
            (_, Some(requests)) => format!("{requests} requests"),
            (seconds, None) => format!("{} s", seconds.unwrap_or_default()),
        };
        let rounds = match asked.rounds {
            1 => String::new(),
            n => format!(", {n} rounds"),
        };
        let mut head = format!(
            "{}, bucket {}: {} connections, {extent} of each after {} s of warm-up{rounds}\n\n{:name_width$}",
            asked.endpoint, asked.bucket, asked.connections, asked.warm_up_seconds, "workload"
        );
        for (name, width) in COLUMNS {
            // Writing to a String cannot fail.
            let _ = write!(head, " {name:>width$}");
        }
        head
    }

    /// What went wrong, if anything did.
    pub(crate) fn failures(&self) -> Option<String> {
        let mut text = String::new();
        for workload in &self.workloads {
            for failure in &workload.total.failures {
                let status = failure.status.map_or_else(String::new, |s| format!("{s} "));
                let _ = write!(
                    text,
                    "\n{} errors of {}: {status}{}: {}",
                    failure.count, workload.workload, failure.code, failure.example
                );
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// Whether a request failed.
    pub(crate) fn has_errors(&self) -> bool {
        self.workloads
            .iter()
            .any(|workload| workload.total.errors > 0)
    }
}

/// The longest name, for the first column.
pub(crate) fn name_width(workloads: &[Workload]) -> usize {
    let names = workloads.iter().map(|workload| workload.name.len());
    names.max().unwrap_or_default().max("workload".len())
}

fn row(name: &str, name_width: usize, figures: &Figures, moves_bytes: bool) -> String {
    let nothing = || NOTHING.to_owned();
    let ms = |quantiles: Option<Quantiles>, pick: fn(&Quantiles) -> f64| {
        quantiles.map_or_else(nothing, |quantiles| format!("{:.2}", pick(&quantiles)))
    };
    let latency = figures.latency_ms;
    let cells = [
        figures.requests.to_string(),
        figures.errors.to_string(),
        format!("{:.1}", figures.requests_per_second),
        match moves_bytes {
            true => format!("{:.1}", figures.bytes_per_second / 1e6),
            false => nothing(),
        },
        ms(latency, |q| q.p50),
        ms(latency, |q| q.p90),
        ms(latency, |q| q.p99),
        ms(latency, |q| q.p99_9),
        ms(latency, |q| q.max),
        ms(figures.first_byte_ms, |q| q.p50),
    ];
    let mut row = format!("{name:name_width$}");
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _ = write!(row, " {cell:>width$}");
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_below_their_heads_and_say_nothing_where_there_is_nothing() {
        let quantiles = Quantiles {
            p50: 3.381,
            p90: 5.0,
            p99: 10.35,
            p99_9: 44.444,
            max: 1234.567,
        };
        let mut figures = Figures {
            requests: 85_170,
            errors: 2,
            seconds: 10.0,
            requests_per_second: 8516.8,
            bytes_per_second: 34_884_812.8,
            latency_ms: Some(quantiles),
            first_byte_ms: Some(quantiles),
            failures: Vec::new(),
        };
        let cells = |row: &str| {
            row.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let full = row("get-4k", 10, &figures, true);
        assert_eq!(
            cells(&full),
            [
                "get-4k", "85170", "2", "8516.8", "34.9", "3.38", "5.00", "10.35", "44.44",
                "1234.57", "3.38"
            ]
        );
        let width = 10 + COLUMNS.iter().map(|(_, width)| width + 1).sum::<usize>();
        assert_eq!(full.len(), width);
        (figures.latency_ms, figures.first_byte_ms) = (None, None);
        let empty = row("head", 10, &figures, false);
        assert_eq!(cells(&empty)[4..], ["-"; 7]);
    }
}
