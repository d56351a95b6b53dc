//! The stateless HTTP gateway: OSS requests in, metadata commands and object bytes out.
//!
//! It owns the server, the one request pipeline and one file per operation. It must not know
//! RocksDB, Raft, disks or how chunks are placed: it speaks to `meta-api` and `datapath` only.
//!
//! Invariant: a gateway holds no durable state; killing one loses only its requests in flight.

mod access_log;
mod admission;
mod authn;
mod authz;
mod body;
mod buckets;
mod callback;
mod conditions;
mod config;
mod cors;
mod ctx;
mod failure;
mod form;
mod gzip;
mod head;
mod hierarchy;
mod metrics;
mod ops;
mod pacer;
mod pipeline;
mod render;
mod route;
mod server;
mod throttle;
mod version_id;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use granary_datapath::DataPath;
use granary_meta_api::Meta;
use granary_runtime::{CancellationToken, Runtime};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

pub use authn::{KeyVault, SecretString};
pub use config::{ConfigError, DefaultRedundancy, GatewayConfig, RATE_WINDOW};
pub use ops::table::operations_markdown;

/// What a gateway is made of.
pub struct GatewayParts<'a> {
    /// Clock, entropy and tasks.
    pub runtime: Runtime,
    /// The metadata service.
    pub meta: Meta,
    /// The way of object bytes.
    pub datapath: DataPath,
    /// Opens the secrets of access keys.
    pub vault: Arc<dyn KeyVault>,
    /// Where metrics are registered.
    pub registry: &'a mut Registry,
}

/// A gateway. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<ctx::Shared>,
}

impl Gateway {
    /// A gateway that serves nothing yet.
    ///
    /// # Errors
    /// A setting that cannot be.
    pub fn new(config: GatewayConfig, parts: GatewayParts<'_>) -> Result<Self, ConfigError> {
        let GatewayParts {
            runtime,
            meta,
            datapath,
            vault,
            registry,
        } = parts;
        config.validate()?;
        let callbacks = callback::Callbacks::new(&config, &runtime)?;
        let settings = config::Settings::try_from(config)?;
        let metrics = metrics::Metrics::register(registry);
        let buckets = buckets::BucketViews::new(
            runtime.clone(),
            meta.clone(),
            settings.bucket_view,
            metrics.bucket_lookups.clone(),
        );
        let authenticator = authn::Authenticator::new(
            runtime.clone(),
            meta.clone(),
            vault,
            settings.region.clone(),
            settings.access_key_view,
            metrics.access_key_lookups.clone(),
        );
        let admission = admission::Admission::new(
            settings.requests_in_flight_max,
            settings.buffered_body_bytes_max,
        );
        let shared = ctx::Shared {
            settings,
            runtime,
            meta,
            datapath,
            buckets,
            authenticator,
            admission,
            callbacks,
            gzip: gzip::Gzip::new(),
            metrics,
            refusals: throttle::Throttle::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Serves HTTP/1.1 on `listener` until `until` (or the runtime's shutdown), then lets requests
    /// in flight finish within the configured time. May be called for several listeners.
    pub async fn serve(&self, listener: TcpListener, until: CancellationToken) {
        server::run(Arc::clone(&self.shared), listener, until).await;
    }
}
