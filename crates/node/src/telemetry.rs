//! Logs, and traces when an OTLP endpoint is configured.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::LogFormat;
use crate::log_lines::Lines;
use crate::log_writer::Batches;

/// Lines that wait for a slow reader of the log; more are dropped and counted.
const WAITING_LINES_MAX: usize = 65_536;

/// Keeps the exporter and the log writer; both send what is left when the process ends.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

impl Telemetry {
    /// Installs the process-wide subscriber. Call it once, inside the async runtime.
    pub(crate) fn install(
        filter: &str,
        format: LogFormat,
        otlp: Option<&str>,
    ) -> anyhow::Result<Self> {
        // The consensus library calls ordinary elections warnings; what matters of it we log.
        let filter = EnvFilter::try_new(format!("openraft=error,{filter}"))
            .context("log: not a filter such as info")?;
        // A thread of its own writes: who reads the log slowly must not stop requests.
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(WAITING_LINES_MAX)
            .finish(Batches::new(std::io::stderr()));
        let dropped = writer.error_counter();
        let logs = match format {
            LogFormat::Text => tracing_subscriber::fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .event_format(Lines::default())
                .with_writer(writer)
                .boxed(),
            LogFormat::Json => tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(writer)
                .boxed(),
        };
        let traces = otlp.map(exporter).transpose()?;
        let spans = traces
            .as_ref()
            .map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer("granary")));
        tracing_subscriber::registry()
            .with(filter)
            .with(logs)
            .with(spans)
            .init();
        Ok(Self {
            traces,
            dropped,
            _writer: guard,
        })
    }

    /// Log lines dropped because their reader was too slow.
    pub(crate) fn dropped_lines(&self) -> ErrorCounter {
        self.dropped.clone()
    }

    /// Sends what is left.
    pub(crate) fn stop(&self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "last traces not sent");
        }
    }
}

fn exporter(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let url = endpoint.parse::<http::Uri>().ok();
    if url.and_then(|url| url.scheme().cloned()) != Some(http::uri::Scheme::HTTP) {
        bail!("otlp-endpoint: {endpoint} is not a URL such as http://127.0.0.1:4317");
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("otlp-endpoint: {endpoint} cannot be used"))?;
    let resource = opentelemetry_sdk::Resource::builder()
        .with_service_name("granary")
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}
