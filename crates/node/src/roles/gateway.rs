//! The gateway role: listens and serves the OSS API until it is told to drain.

use std::sync::Arc;

use granary_datapath::DataPath;
use granary_gateway::{Gateway, GatewayConfig, GatewayParts, KeyVault};
use granary_meta_api::Meta;
use granary_runtime::{CancellationToken, Runtime, Task};
use prometheus_client::registry::Registry;

use crate::listeners::Taken;

/// The running gateway of this process.
pub(crate) struct GatewayRole {
    until: CancellationToken,
    serving: Task<()>,
}

impl GatewayRole {
    /// Listens on the address that was taken, and serves from now on: nothing after it may fail.
    pub(crate) fn start(
        runtime: &Runtime,
        config: GatewayConfig,
        meta: Meta,
        datapath: DataPath,
        vault: Arc<dyn KeyVault>,
        registry: &mut Registry,
        taken: Taken,
    ) -> anyhow::Result<Self> {
        let parts = GatewayParts {
            runtime: runtime.clone(),
            meta,
            datapath,
            vault,
            registry,
        };
        let gateway = Gateway::new(config, parts)?;
        let listener = taken.listen()?;
        let until = CancellationToken::new();
        let stop = until.clone();
        let serving = runtime.spawn(async move { gateway.serve(listener, stop).await });
        Ok(Self { until, serving })
    }

    /// Takes no more connections and waits for the requests in flight.
    pub(crate) async fn drain(self) {
        self.until.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "gateway did not drain");
        }
    }
}
