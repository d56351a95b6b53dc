//! Every metric of the gateway. Labels are closed sets (operation, code), never bucket, key or
//! access key.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the latency histogram, in seconds.
const LATENCY_BUCKETS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    operation: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

/// The gateway's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<Outcome, Counter>,
    latency: Family<Operation, Histogram, fn() -> Histogram>,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) in_flight: InUse,
    pub(crate) connections: InUse,
    pub(crate) connections_refused: Counter,
    pub(crate) requests_refused: Counter,
    pub(crate) bucket_lookups: Counter,
    pub(crate) access_key_lookups: Counter,
    pub(crate) callbacks: Counter,
    pub(crate) callbacks_failed: Counter,
}

impl Metrics {
    /// Registers everything under the prefix `granary_gateway`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            in_flight: InUse::default(),
            connections: InUse::default(),
            connections_refused: Counter::default(),
            requests_refused: Counter::default(),
            bucket_lookups: Counter::default(),
            access_key_lookups: Counter::default(),
            callbacks: Counter::default(),
            callbacks_failed: Counter::default(),
        };
        let r = registry.sub_registry_with_prefix("granary_gateway");
        r.register(
            "requests",
            "Requests by operation and code",
            metrics.requests.clone(),
        );
        r.register_with_unit(
            "request_duration",
            "Time from the head of a request to the last byte of its answer",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        r.register(
            "received_bytes",
            "Bytes of request bodies",
            metrics.bytes_in.clone(),
        );
        r.register(
            "sent_bytes",
            "Bytes of response bodies",
            metrics.bytes_out.clone(),
        );
        r.register(
            "in_flight",
            "Requests being handled",
            metrics.in_flight.0.clone(),
        );
        r.register(
            "connections",
            "Open connections",
            metrics.connections.0.clone(),
        );
        r.register(
            "connections_refused",
            "Connections over the limit",
            metrics.connections_refused.clone(),
        );
        r.register(
            "requests_refused",
            "Requests over a limit of the gateway",
            metrics.requests_refused.clone(),
        );
        r.register(
            "bucket_lookups",
            "Buckets read from the root because no fresh view was at hand",
            metrics.bucket_lookups.clone(),
        );
        r.register(
            "access_key_lookups",
            "Access keys read from the root because no fresh view was at hand",
            metrics.access_key_lookups.clone(),
        );
        r.register(
            "callbacks",
            "Uploads that asked for a callback",
            metrics.callbacks.clone(),
        );
        r.register(
            "callbacks_failed",
            "Callbacks that no server answered well",
            metrics.callbacks_failed.clone(),
        );
        metrics
    }

    /// Counts one finished request.
    pub(crate) fn completed(
        &self,
        operation: &'static str,
        code: &'static str,
        took: Duration,
        bytes_in: u64,
    ) {
        self.requests
            .get_or_create(&Outcome { operation, code })
            .inc();
        self.latency
            .get_or_create(&Operation { operation })
            .observe(took.as_secs_f64());
        self.bytes_in.inc_by(bytes_in);
    }
}

/// A gauge that goes down by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct InUse(Gauge);

impl InUse {
    /// Counts one more until the answer is dropped.
    pub(crate) fn track(&self) -> Tracked {
        self.0.inc();
        Tracked(self.0.clone())
    }
}

/// One unit of [`InUse`].
#[derive(Debug)]
pub(crate) struct Tracked(Gauge);

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.dec();
    }
}
