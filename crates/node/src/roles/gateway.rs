//! The gateway role: listens and serves the OSS API until it is told to drain.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use granary_datapath::DataPath;
use granary_gateway::{Gateway, GatewayParts, KeyVault};
use granary_meta_api::Meta;
use granary_runtime::{CancellationToken, Runtime, Task};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::config::ServerConfig;

/// The running gateway of this process.
pub(crate) struct GatewayRole {
    address: SocketAddr,
    until: CancellationToken,
    serving: Task<()>,
}

impl GatewayRole {
    /// Listens, and serves from now on.
    pub(crate) async fn start(
        runtime: &Runtime,
        config: &ServerConfig,
        meta: Meta,
        datapath: DataPath,
        vault: Arc<dyn KeyVault>,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let parts = GatewayParts {
            runtime: runtime.clone(),
            meta,
            datapath,
            vault,
            registry,
        };
        let gateway = Gateway::new(config.gateway.clone(), parts)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("listen: cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let until = CancellationToken::new();
        let stop = until.clone();
        let serving = runtime.spawn(async move { gateway.serve(listener, stop).await });
        Ok(Self {
            address,
            until,
            serving,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and waits for the requests in flight.
    pub(crate) async fn drain(self) {
        self.until.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "gateway did not drain");
        }
    }
}
