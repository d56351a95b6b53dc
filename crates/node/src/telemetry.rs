//! Logs, and traces when an OTLP endpoint is configured.

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::LogFormat;

/// Keeps the exporter; sends what is left when the process ends.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
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
        let logs = match format {
            LogFormat::Text => tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .boxed(),
            LogFormat::Json => tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr)
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
        Ok(Self { traces })
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
