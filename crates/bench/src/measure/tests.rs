//! Figures of requests whose times are known.

use super::*;

const OPERATIONS: [Operation; 2] = [Operation::Get, Operation::Put];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// From 1 s to 11 s, or without an end.
fn recorder(ends: bool) -> Recorder {
    let window = Window {
        begins: ms(1000),
        ends: ends.then_some(ms(11_000)),
    };
    Recorder::new(window, OPERATIONS.into_iter())
}

fn note_good(recorder: &Recorder, operation: Operation, sent_ms: u64, took_ms: u64, bytes: u64) {
    let good = Good {
        bytes,
        sent_at: ms(sent_ms),
        head_at: ms(sent_ms + took_ms / 2),
        ended_at: ms(sent_ms + took_ms),
    };
    recorder.note(operation, ms(sent_ms), ms(sent_ms + took_ms), Ok(good));
}

fn figures(rounds: &[&Round], operation: Option<Operation>) -> Figures {
    let mut measured = Measured::default();
    rounds.iter().for_each(|round| measured.add(round));
    measured.figures(operation)
}

fn near(found: f64, expected: f64) {
    assert!(
        (found / expected - 1.0).abs() < 0.001,
        "{found} is not {expected}"
    );
}

#[test]
fn percentiles_are_those_of_the_latencies() {
    let recorder = recorder(true);
    for latency in 1..=1000 {
        note_good(&recorder, Operation::Get, 1000 + latency, latency * 2, 10);
    }
    let round = recorder.finish(ms(11_500));
    let figures = figures(&[&round], Some(Operation::Get));
    assert_eq!((figures.requests, figures.errors), (1000, 0));
    let latency = figures.latency_ms.unwrap();
    near(latency.p50, 1000.0);
    near(latency.p90, 1800.0);
    near(latency.p99, 1980.0);
    near(latency.p99_9, 1998.0);
    assert_eq!(latency.max, 2000.0);
    near(figures.first_byte_ms.unwrap().p50, 500.0);
    assert_eq!(figures.seconds, 10.0);
    assert_eq!(
        (figures.requests_per_second, figures.bytes_per_second),
        (100.0, 1000.0)
    );
}

#[test]
fn rates_are_of_what_ended_in_time_and_latencies_of_what_began_in_time() {
    let recorder = recorder(true);
    // Ends in the warm-up; straddles its end; lies within; straddles the end.
    for (sent_ms, took_ms) in [(0, 500), (500, 1000), (2000, 1000), (10_500, 5000)] {
        note_good(&recorder, Operation::Put, sent_ms, took_ms, 100);
    }
    let round = recorder.finish(ms(15_500));
    let figures = figures(&[&round], Some(Operation::Put));
    assert_eq!(figures.requests, 2);
    assert_eq!(
        (figures.requests_per_second, figures.bytes_per_second),
        (0.2, 20.0)
    );
    assert_eq!(figures.latency_ms.unwrap().max, 5000.0);
    assert!(figures.first_byte_ms.is_none());
}

#[test]
fn a_number_of_requests_takes_as_long_as_the_last_of_them() {
    let recorder = recorder(false);
    for (sent_ms, took_ms) in [(500, 1000), (1000, 500), (2000, 3000)] {
        note_good(&recorder, Operation::Get, sent_ms, took_ms, 1);
    }
    let round = recorder.finish(ms(60_000));
    let figures = figures(&[&round], None);
    assert_eq!((figures.requests, figures.seconds), (2, 4.0));
    assert_eq!(figures.requests_per_second, 0.5);
}

#[test]
fn failures_count_and_have_no_latency() {
    let recorder = recorder(true);
    note_good(&recorder, Operation::Get, 2000, 10, 1);
    for began_ms in [500, 2000, 3000] {
        recorder.note(
            Operation::Put,
            ms(began_ms),
            ms(60_000),
            Err(Failure::timeout(30.0)),
        );
    }
    assert_eq!(recorder.so_far(), (1, 2));
    let round = recorder.finish(ms(60_000));
    let all = figures(&[&round], None);
    assert_eq!((all.requests, all.errors, all.failures.len()), (3, 2, 1));
    assert_eq!(
        (all.failures[0].code.as_str(), all.failures[0].count),
        ("Timeout", 2)
    );
    let puts = figures(&[&round], Some(Operation::Put));
    assert_eq!((puts.requests, puts.errors, puts.latency_ms), (2, 2, None));
    assert_eq!(figures(&[&round], Some(Operation::Get)).errors, 0);
}

#[test]
fn rounds_have_the_median_rate_and_all_latencies() {
    let rounds: Vec<Round> = [10, 40, 20]
        .into_iter()
        .map(|count| {
            let recorder = recorder(true);
            (0..count).for_each(|_| note_good(&recorder, Operation::Get, 2000, count, 1));
            recorder.finish(ms(11_000))
        })
        .collect();
    let rounds: Vec<&Round> = rounds.iter().collect();
    let all = figures(&rounds, None);
    assert_eq!(
        (all.requests, all.seconds, all.requests_per_second),
        (70, 30.0, 2.0)
    );
    assert_eq!(all.latency_ms.unwrap().max, 40.0);
    assert_eq!(figures(&rounds[..2], None).requests_per_second, 2.5);
    assert_eq!(figures(&[], None).requests, 0);
}

#[test]
fn what_is_cut_short_lasted_until_then() {
    let recorder = recorder(true);
    note_good(&recorder, Operation::Get, 2000, 1000, 1);
    let round = recorder.finish(ms(3000));
    assert_eq!(figures(&[&round], None).requests_per_second, 0.5);
    let before = recorder.finish(ms(900));
    assert_eq!(figures(&[&before], None).requests_per_second, 0.0);
}
