//! `granary server`: every role in one process, with no network between them.
//!
//! Start: metadata, disks, placement, gateway, workers, then ready. Stop, on SIGTERM or SIGINT:
//! not ready, gateway drains, workers, disks, metadata; then the process exits with 0. It does the
//! same, in a bounded time and with an exit code of its own, when the metadata can't go on.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_blob::BlobConfig;
use granary_datapath::{ClusterView, DataPath};
use granary_kv_rocks::RocksBudget;
use granary_meta_api::pb;
use granary_runtime::{CancellationToken, Runtime, within};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{Admin, Readiness};
use crate::config::{ServerConfig, shown};
use crate::credentials::{self, RootCredentials};
use crate::descriptors;
use crate::metrics::Sources;
use crate::roles::gateway::GatewayRole;
use crate::roles::meta::{FIRST_NODE, FirstStart, MetaRole, ROOT_ACCOUNT};
use crate::roles::storage::{self, StorageRole};
use crate::roles::worker::WorkerRole;
use crate::telemetry::Telemetry;
use crate::vault::Vault;

/// How old the gateway's view of disks and placement may be.
const VIEW_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stop takes at most, besides requests in flight: a disk may hang.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Runs until a signal says stop.
pub(crate) fn run(config: ServerConfig) -> anyhow::Result<()> {
    // Memory that was freed goes back to the system without waiting for the next allocation.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "no background thread for the allocator");
    }
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = threads.block_on(serve(config));
    // A call may hang in a disk that no longer answers.
    threads.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(mut config: ServerConfig) -> anyhow::Result<()> {
    let telemetry = Telemetry::install(
        &config.log,
        config.log_format,
        config.otlp_endpoint.as_deref(),
    )?;
    let wanted = config.gateway.connections_max;
    config.gateway.connections_max = descriptors::reserve(config.data.len(), wanted)?;
    let outcome = serve_until_signal(&config, &telemetry).await;
    telemetry.stop();
    outcome
}

async fn serve_until_signal(config: &ServerConfig, telemetry: &Telemetry) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let runtime = Runtime::system();
    let running = tokio::select! {
        running = Running::start(&runtime, config, telemetry) => running?,
        // As after a power cut: whatever was acknowledged is durable, the next start recovers.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let failure = tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("SIGTERM: stopping");
            None
        }
        _ = interrupt.recv() => {
            tracing::info!("SIGINT: stopping");
            None
        }
        failure = running.meta.failed() => Some(failure),
    };
    running.readiness.set(false);
    let limit = match &failure {
        None => Duration::from_millis(config.gateway.drain_timeout_ms) + STOP_LIMIT,
        Some(failure) => {
            tracing::error!("{failure}");
            // What is under way waits for metadata that will not answer.
            STOP_LIMIT
        }
    };
    let stopped = within(limit, running.stop(&runtime)).await;
    if failure.is_some() {
        bail!("stopped because the metadata directory failed");
    }
    if stopped.is_err() {
        bail!("a disk hangs: stopped without waiting for it; nothing acknowledged is lost");
    }
    Ok(())
}

/// Everything that runs, in the order it is stopped.
struct Running {
    readiness: Arc<Readiness>,
    gateway: GatewayRole,
    admin: CancellationToken,
    workers: WorkerRole,
    storage: Arc<StorageRole>,
    meta: Arc<MetaRole>,
}

impl Running {
    async fn start(
        runtime: &Runtime,
        config: &ServerConfig,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Self> {
        let budget = RocksBudget::new(config.meta.memory_bytes);
        let cluster = storage::cluster_of(&config.data)?;
        let first = FirstStart {
            region: &config.gateway.region,
            section: &config.meta,
            disks_belong_to: cluster.as_deref(),
        };
        let meta = MetaRole::start(runtime, &config.meta_dir, budget.clone(), first).await?;
        let meta = Arc::new(meta);
        meta.watch_space(runtime, config.meta.min_free_bytes);
        let vault = Vault::load(
            &config.meta_dir.join("master.key"),
            runtime.entropy().as_ref(),
        )?;
        let credentials = install_credentials(runtime, config, &meta, &vault).await?;
        register_node(&meta, config).await?;
        let blob = config.storage.for_cluster(&meta.cluster_id);
        let storage = start_storage(runtime, config, blob, budget, &meta).await?;
        let view = ClusterView::new(runtime.clone(), meta.client.clone(), storage.nodes());
        let datapath = DataPath::new(
            runtime.clone(),
            meta.client.clone(),
            view.clone(),
            config.datapath.clone(),
        );
        view.start_refreshing(VIEW_INTERVAL);
        let workers =
            WorkerRole::start(runtime, &meta.client, &datapath, &view, &config.workers).await?;
        let copies = config.data.len().min(3);
        let mut registry = Registry::default();
        let sources = Sources::new(
            Arc::clone(&meta),
            Arc::clone(&storage),
            telemetry.dropped_lines(),
        );
        let sources = Arc::new(sources);
        crate::metrics::register(&mut registry, Arc::clone(&sources));
        datapath.register_metrics(&mut registry);
        workers.metrics().register(&mut registry);
        let gateway = GatewayRole::start(
            runtime,
            config,
            meta.client.clone(),
            datapath,
            Arc::new(vault),
            &mut registry,
        )
        .await?;
        let readiness = Arc::new(Readiness::default());
        let admin = CancellationToken::new();
        let admin_address = match config.admin_listen {
            None => None,
            Some(address) => {
                let (readiness, metrics) = (Arc::clone(&readiness), Arc::new(registry));
                let listener = Admin {
                    readiness,
                    metrics,
                    sources,
                };
                Some(listener.start(runtime, address, admin.clone()).await?)
            }
        };
        readiness.set(true);
        let address = gateway.address();
        let greeting = greeting(config, address, admin_address, copies, &credentials);
        crate::print(&greeting);
        tracing::info!(%address, copies, region = config.gateway.region, "ready");
        Ok(Self {
            readiness,
            gateway,
            admin,
            workers,
            storage,
            meta,
        })
    }

    async fn stop(self, runtime: &Runtime) {
        self.readiness.set(false);
        self.gateway.drain().await;
        self.workers.stop().await;
        self.storage.stop().await;
        self.meta.stop().await;
        self.admin.cancel();
        runtime.stop().await;
        tracing::info!("stopped");
    }
}

async fn start_storage(
    runtime: &Runtime,
    config: &ServerConfig,
    blob: BlobConfig,
    budget: RocksBudget,
    meta: &MetaRole,
) -> anyhow::Result<Arc<StorageRole>> {
    let storage =
        StorageRole::start(runtime, blob, &config.data, budget, meta.client.clone()).await?;
    storage.watch();
    Ok(storage)
}

/// Makes the root account's access key known to the cluster.
async fn install_credentials(
    runtime: &Runtime,
    config: &ServerConfig,
    meta: &MetaRole,
    vault: &Vault,
) -> anyhow::Result<RootCredentials> {
    let file = config.meta_dir.join("root-credentials.toml");
    let entropy = runtime.entropy().as_ref();
    let credentials = credentials::root(config.root_credentials.as_ref(), &file, entropy)?;
    let pair = &credentials.pair;
    let known = meta
        .client
        .query(pb::GetAccessKey {
            id: pair.id.clone(),
        })
        .await?;
    let sealed = known.key.map(|key| key.sealed_secret).unwrap_or_default();
    if vault.open_text(&sealed).as_deref() == Some(pair.secret.as_str()) {
        return Ok(credentials);
    }
    let key = pb::state::AccessKey {
        id: pair.id.clone(),
        account: ROOT_ACCOUNT.0,
        sealed_secret: vault.seal(&pair.secret, entropy)?.into(),
        disabled: false,
        created_ms: 0,
    };
    let decision = meta
        .client
        .propose(pb::PutAccessKey { key: Some(key) })
        .await?;
    decision.map_err(|no| anyhow::anyhow!("the root access key was refused: {no:?}"))?;
    Ok(credentials)
}

async fn register_node(meta: &MetaRole, config: &ServerConfig) -> anyhow::Result<()> {
    let roles = ["gateway", "meta", "storage", "worker"]
        .map(str::to_owned)
        .to_vec();
    let node = pb::state::Node {
        id: FIRST_NODE.0,
        zone: "default".to_owned(),
        address: config.listen.to_string(),
        roles,
        ..Default::default()
    };
    let decision = meta
        .client
        .propose(pb::RegisterNode { node: Some(node) })
        .await?;
    decision
        .map(|_| ())
        .map_err(|no| anyhow::anyhow!("the node was refused: {no:?}"))
}

/// What a person reads at the start.
fn greeting(
    config: &ServerConfig,
    address: std::net::SocketAddr,
    admin: Option<std::net::SocketAddr>,
    copies: usize,
    credentials: &RootCredentials,
) -> String {
    let endpoint = match config.gateway.public_endpoint.as_str() {
        "" => format!("http://{address}"),
        url => url.to_owned(),
    };
    let data: Vec<_> = config.data.iter().map(|path| shown(path)).collect();
    let copies = match copies {
        1 => "one copy of every object: name more data directories (--data) for more".to_owned(),
        n => format!("{n} copies of every object"),
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "Granary {} serves the OSS API.\n",
        env!("CARGO_PKG_VERSION")
    );
    let _ = writeln!(text, "  endpoint   {endpoint}");
    let _ = writeln!(text, "  region     {}", config.gateway.region);
    if let Some(admin) = admin {
        let _ = writeln!(text, "  admin      http://{admin}/health/ready, /metrics");
    }
    let _ = writeln!(text, "  data       {} ({copies})", data.join(", "));
    let _ = writeln!(
        text,
        "  metadata   {} (keep it: it holds every name)",
        shown(&config.meta_dir)
    );
    let id = &credentials.pair.id;
    if !credentials.fresh {
        let _ = writeln!(text, "  access key {id}");
        return text;
    }
    let secret = &credentials.pair.secret;
    let file = shown(&config.meta_dir.join("root-credentials.toml"));
    let _ = writeln!(text, "\nMade at this first start, kept in {file}:\n");
    let _ = writeln!(
        text,
        "  access key id      {id}\n  access key secret  {secret}\n"
    );
    let _ = writeln!(
        text,
        "Try it (pip install oss2):\n\nimport oss2\nauth = oss2.AuthV4(\"{id}\", \"{secret}\")\n\
         bucket = oss2.Bucket(auth, \"{endpoint}\", \"hello\", region=\"{}\")\n\
         bucket.create_bucket()\nbucket.put_object(\"greeting.txt\", b\"hello\")\n\
         print(bucket.get_object(\"greeting.txt\").read())",
        config.gateway.region
    );
    text
}
