//! Configuration of a process: flags, then `GRANARY_*` variables, then the TOML file, then defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use granary_blob::BlobConfig;
use granary_datapath::DataPathConfig;
use granary_gateway::GatewayConfig;
use granary_raft::RaftConfig;
use granary_types::limits;
use granary_workers::{KeeperConfig, ScrubConfig};
use serde::Deserialize;

const YEAR_SECS: u64 = 365 * 24 * 3600;

/// What `granary server` can be told. The first source that names a setting wins: a flag, its
/// `GRANARY_*` variable, the file given by --config, the default.
#[derive(Args, Debug, Default)]
pub(crate) struct ServerArgs {
    /// A data directory; repeat it for more, or separate them by commas. Granary keeps
    /// min(3, directories) copies of objects over 16 KiB.
    /// [default: ./granary-data]
    #[arg(
        long = "data",
        value_name = "DIR",
        env = "GRANARY_DATA",
        value_delimiter = ','
    )]
    data: Vec<PathBuf>,
    /// Where the metadata lives, and objects up to 16 KiB. [default: `meta` inside the first data directory]
    #[arg(long, value_name = "DIR", env = "GRANARY_META_DIR")]
    meta_dir: Option<PathBuf>,
    /// Address that serves the OSS API. [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDR", env = "GRANARY_LISTEN")]
    listen: Option<String>,
    /// Address that serves health and metrics; `off` for none. [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR", env = "GRANARY_ADMIN_LISTEN")]
    admin_listen: Option<String>,
    /// Region id that clients sign with, such as cn-hangzhou; fixed at the first start.
    /// [default: cn-granary-1]
    #[arg(long, value_name = "ID", env = "GRANARY_REGION")]
    region: Option<String>,
    /// A domain whose subdomains are buckets (BUCKET.DOMAIN); repeat it for more, or
    /// separate them by commas.
    #[arg(
        long = "domain",
        value_name = "DOMAIN",
        env = "GRANARY_DOMAIN",
        value_delimiter = ','
    )]
    domain: Vec<String>,
    /// URL that ListBuckets and GetBucketInfo advertise. [default: what the client used]
    #[arg(long, value_name = "URL", env = "GRANARY_PUBLIC_ENDPOINT")]
    public_endpoint: Option<String>,
    /// Access key id of the root account. [default: made at the first start]
    #[arg(long, value_name = "ID", env = "GRANARY_ROOT_ACCESS_KEY_ID")]
    root_access_key_id: Option<String>,
    /// Access key secret of the root account; prefer the variable, flags are visible to others.
    #[arg(
        long,
        value_name = "SECRET",
        env = "GRANARY_ROOT_ACCESS_KEY_SECRET",
        hide_env_values = true
    )]
    root_access_key_secret: Option<String>,
    /// Log format: `text` or `json`. [default: text]
    #[arg(long, value_name = "FORMAT", env = "GRANARY_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// Log filter in the syntax of tracing's EnvFilter. [default: info]
    #[arg(long, value_name = "FILTER", env = "GRANARY_LOG")]
    log: Option<String>,
    /// OTLP/gRPC endpoint that receives traces, such as http://127.0.0.1:4317. [default: none]
    #[arg(long, value_name = "URL", env = "GRANARY_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// A TOML file with the same settings (underscores for hyphens) and the tuning sections.
    #[arg(long, value_name = "FILE", env = "GRANARY_CONFIG")]
    config: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The file given by --config. Unknown keys are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    data: Vec<PathBuf>,
    meta_dir: Option<PathBuf>,
    listen: Option<String>,
    admin_listen: Option<String>,
    region: Option<String>,
    domain: Vec<String>,
    public_endpoint: Option<String>,
    root_access_key_id: Option<String>,
    root_access_key_secret: Option<String>,
    log_format: Option<LogFormat>,
    log: Option<String>,
    otlp_endpoint: Option<String>,
    /// Limits and deadlines of the HTTP server.
    gateway: GatewayConfig,
    /// Data path: inline size, buffers.
    datapath: DataPathConfig,
    /// Volumes, watermarks, compaction.
    storage: StorageSection,
    /// Shards and grace periods.
    meta: MetaSection,
    /// Background work.
    workers: WorkersSection,
}

/// Settings of the metadata service.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MetaSection {
    /// Data shards of a new installation; later values are ignored because the shards exist.
    pub(crate) shards: u32,
    /// Memory for caches and write buffers of all databases of the process, in bytes; 0 for what suits the machine.
    pub(crate) memory_bytes: usize,
    /// Replaced or deleted bytes stay readable this long for requests already running, in seconds.
    pub(crate) reader_grace_secs: u64,
    /// An upload that says nothing for this long has failed, and its bytes are swept, in seconds.
    pub(crate) write_lease_secs: u64,
    /// Free bytes of the file system below which writes are refused; 0 for never.
    pub(crate) min_free_bytes: u64,
    /// A range of a shard with more bytes than this is split; 0 for never.
    pub(crate) split_bytes: u64,
    /// Voters of every shard of a cluster, 3 or 5; as many as there are while there are fewer nodes.
    pub(crate) voters: usize,
    /// A shard whose leader is gone has another one within two of these; in milliseconds.
    pub(crate) election_timeout_ms: u64,
    /// How often a leader says that it is there, in milliseconds.
    pub(crate) heartbeat_ms: u64,
    /// Whether the nodes of a cluster back the metadata up into the storage pool.
    pub(crate) backup: bool,
}

impl Default for MetaSection {
    fn default() -> Self {
        let raft = RaftConfig::default();
        Self {
            shards: 8,
            memory_bytes: 0,
            reader_grace_secs: 900,
            write_lease_secs: 3600,
            min_free_bytes: 256 << 20,
            split_bytes: 1 << 30,
            voters: 3,
            election_timeout_ms: raft.election_max_ms,
            heartbeat_ms: raft.heartbeat_ms,
            backup: true,
        }
    }
}

/// What a node may set as election timeout, in milliseconds. A leader with the longest heartbeat is
/// heard in time by a follower with the shortest timeout: nodes need not agree.
const ELECTION_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 600..=30_000;
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 20..=300;
/// Heartbeats within an election timeout at least.
const HEARTBEATS_LEAST: u64 = 5;
/// Election timeouts after which clients hear that a shard has no leader.
const PATIENCE_ELECTIONS: u64 = 5;
/// The same for short timeouts: whoever restarted keeps out of elections for three seconds.
const PATIENCE_LEAST_MS: u64 = 6000;

impl MetaSection {
    /// How the shards elect and replicate.
    pub(crate) fn raft(&self) -> RaftConfig {
        RaftConfig::with_election(self.election_timeout_ms, self.heartbeat_ms)
    }

    /// How long a request waits for a shard that has no leader.
    pub(crate) fn patience(&self) -> Duration {
        let elections_ms = self.election_timeout_ms * PATIENCE_ELECTIONS;
        Duration::from_millis(elections_ms.max(PATIENCE_LEAST_MS))
    }

    fn check_election(&self) -> anyhow::Result<()> {
        if !ELECTION_TIMEOUT_MS.contains(&self.election_timeout_ms) {
            bail!("meta.election_timeout_ms must be between 600 and 30000");
        }
        if !HEARTBEAT_MS.contains(&self.heartbeat_ms)
            || self.heartbeat_ms * HEARTBEATS_LEAST > self.election_timeout_ms
        {
            bail!(
                "meta.heartbeat_ms must be between 20 and 300, and at most a fifth of \
                 meta.election_timeout_ms"
            );
        }
        Ok(())
    }
}

/// Settings of the background work. All in seconds, and at least 1.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkersSection {
    /// Between two looks for deleted and replaced bytes whose grace is over.
    pub(crate) deletion_interval_secs: u64,
    /// Between two looks for bytes that no object can refer to.
    pub(crate) sweep_interval_secs: u64,
    /// Between two counts of every copy of every chunk; lost disks are noticed at once.
    pub(crate) count_interval_secs: u64,
    /// A disk whose node does not answer is given up after this long: others get its chunks.
    pub(crate) unreachable_out_secs: u64,
    /// A disk that its node does not have any more is given up after this long.
    pub(crate) missing_out_secs: u64,
    /// A disk that was given up keeps its places this long before others get them: until no gateway
    /// counts it by an old map. Shorter is for tests.
    pub(crate) replace_after_secs: u64,
    /// In so many days every copy of every chunk is read once.
    pub(crate) scrub_period_days: u32,
    /// What one disk reads for that per second at most.
    pub(crate) scrub_bytes_per_sec: u64,
}

impl Default for WorkersSection {
    fn default() -> Self {
        let keeper = KeeperConfig::default();
        let scrub = ScrubConfig::default();
        Self {
            deletion_interval_secs: 10,
            sweep_interval_secs: 6 * 3600,
            count_interval_secs: 6 * 3600,
            unreachable_out_secs: keeper.unreachable_out_ms / 1000,
            missing_out_secs: keeper.missing_out_ms / 1000,
            replace_after_secs: keeper.replace_after_ms / 1000,
            scrub_period_days: scrub.period_days,
            scrub_bytes_per_sec: scrub.bytes_per_second,
        }
    }
}

impl WorkersSection {
    /// The settings of the placement keeper.
    pub(crate) fn keeper(&self) -> KeeperConfig {
        KeeperConfig {
            unreachable_out_ms: self.unreachable_out_secs * 1000,
            missing_out_ms: self.missing_out_secs * 1000,
            replace_after_ms: self.replace_after_secs * 1000,
        }
    }

    /// The settings of the scrub.
    pub(crate) fn scrub(&self) -> ScrubConfig {
        ScrubConfig {
            period_days: self.scrub_period_days,
            bytes_per_second: self.scrub_bytes_per_sec,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.scrub_period_days == 0 {
            bail!("workers.scrub_period_days must be more than 0");
        }
        if self.scrub_bytes_per_sec < 1024 * 1024 {
            bail!("workers.scrub_bytes_per_sec must be at least 1048576");
        }
        let all = [
            ("deletion_interval_secs", self.deletion_interval_secs),
            ("sweep_interval_secs", self.sweep_interval_secs),
            ("count_interval_secs", self.count_interval_secs),
            ("unreachable_out_secs", self.unreachable_out_secs),
            ("missing_out_secs", self.missing_out_secs),
            ("replace_after_secs", self.replace_after_secs),
        ];
        for (name, seconds) in all {
            check_seconds("workers", name, seconds)?;
        }
        Ok(())
    }
}

/// A time that an operator can mean: a year is "never" for everything here.
fn check_seconds(section: &str, name: &str, seconds: u64) -> anyhow::Result<()> {
    if !(1..=YEAR_SECS).contains(&seconds) {
        bail!("{section}.{name} must be between 1 and {YEAR_SECS}");
    }
    Ok(())
}

/// Settings of the disks.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StorageSection {
    /// Bytes of one volume file at most.
    volume_bytes: u64,
    /// Free bytes of the file system below which a disk takes no new chunks.
    min_free_bytes: u64,
    /// The same as a share of the file system, in percent; the larger of both counts.
    min_free_percent: u8,
    /// Share of dead bytes, in percent, from which a volume is compacted.
    compact_dead_percent: u8,
    /// Pause between two looks for a volume to compact, in seconds.
    compact_interval_secs: u64,
    /// Bytes per second that compaction may rewrite on one disk.
    compact_bytes_per_sec: u64,
    /// Bytes per second that repair may read and write together on one disk while clients use it.
    repair_bytes_per_sec_beside_clients: u64,
}

impl Default for StorageSection {
    fn default() -> Self {
        let disk = BlobConfig::for_cluster("default");
        Self {
            volume_bytes: disk.volume_bytes,
            min_free_bytes: disk.min_free_bytes,
            min_free_percent: disk.min_free_percent,
            compact_dead_percent: disk.compact_dead_percent,
            compact_interval_secs: disk.compact_interval.as_secs(),
            compact_bytes_per_sec: disk.compact_bytes_per_sec,
            repair_bytes_per_sec_beside_clients: disk.repair_bytes_per_sec_beside_clients,
        }
    }
}

impl StorageSection {
    /// The disk engine's settings.
    pub(crate) fn for_cluster(&self, cluster_id: &str) -> BlobConfig {
        BlobConfig {
            volume_bytes: self.volume_bytes,
            min_free_bytes: self.min_free_bytes,
            min_free_percent: self.min_free_percent,
            compact_dead_percent: self.compact_dead_percent,
            compact_interval: Duration::from_secs(self.compact_interval_secs),
            compact_bytes_per_sec: self.compact_bytes_per_sec,
            repair_bytes_per_sec_beside_clients: self.repair_bytes_per_sec_beside_clients,
            ..BlobConfig::for_cluster(cluster_id)
        }
    }
}

/// Validated settings of `granary server`.
#[derive(Debug)]
pub(crate) struct ServerConfig {
    pub(crate) data: Vec<PathBuf>,
    pub(crate) meta_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) root_credentials: Option<Credentials>,
    pub(crate) log_format: LogFormat,
    pub(crate) log: String,
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) gateway: GatewayConfig,
    pub(crate) datapath: DataPathConfig,
    pub(crate) storage: StorageSection,
    pub(crate) meta: MetaSection,
    pub(crate) workers: WorkersSection,
}

/// An access key pair.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl ServerConfig {
    /// Reads the file, if one is named, and merges it under the flags and variables.
    pub(crate) fn load(args: ServerArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                parse_file(&text).with_context(|| format!("in {}", path.display()))?
            }
        };
        Self::merge(args, file)
    }

    fn merge(args: ServerArgs, file: File) -> anyhow::Result<Self> {
        let data = first_list(args.data, file.data, || {
            vec![PathBuf::from("./granary-data")]
        });
        let first = data
            .first()
            .context("at least one data directory is needed")?;
        check_data(&data)?;
        let meta_dir = args
            .meta_dir
            .or(file.meta_dir)
            .unwrap_or_else(|| first.join("meta"));
        let listen = args.listen.or(file.listen);
        let admin = args.admin_listen.or(file.admin_listen);
        let admin = admin.unwrap_or_else(|| "127.0.0.1:9001".to_owned());
        let id = args.root_access_key_id.or(file.root_access_key_id);
        let secret = args.root_access_key_secret.or(file.root_access_key_secret);
        let region = args.region.or(file.region);
        let endpoint = args.public_endpoint.or(file.public_endpoint);
        let region = region.unwrap_or_else(|| "cn-granary-1".to_owned());
        let domains = first_list(args.domain, file.domain, Vec::new);
        let mut gateway = gateway(file.gateway, region, domains, endpoint);
        let admin_listen = match admin.as_str() {
            "off" => None,
            text => Some(address("admin-listen", text)?),
        };
        gateway.callback_ports_refused = admin_listen.iter().map(SocketAddr::port).collect();
        let config = Self {
            meta_dir,
            listen: address("listen", listen.as_deref().unwrap_or("127.0.0.1:9000"))?,
            admin_listen,
            root_credentials: credentials(id, secret)?,
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            log: args.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            otlp_endpoint: args.otlp_endpoint.or(file.otlp_endpoint),
            gateway,
            datapath: file.datapath,
            storage: file.storage,
            meta: file.meta,
            workers: file.workers,
            data,
        };
        config.gateway.validate()?;
        check_sections(
            &config.datapath,
            &config.storage,
            &config.meta,
            &config.workers,
        )?;
        Ok(config)
    }
}

/// Checks the tuning sections that every process has.
pub(crate) fn check_sections(
    datapath: &DataPathConfig,
    storage: &StorageSection,
    meta: &MetaSection,
    workers: &WorkersSection,
) -> anyhow::Result<()> {
    datapath.validate().context("[datapath]")?;
    if let Err(sentence) = storage.for_cluster("any").check() {
        bail!("[storage] {sentence}");
    }
    if !(1..=1024).contains(&meta.shards) {
        bail!("meta.shards must be between 1 and 1024");
    }
    if meta.split_bytes != 0 && meta.split_bytes < limits::SPLIT_BYTES_MIN {
        bail!(
            "meta.split_bytes must be 0 (never) or at least {}",
            limits::SPLIT_BYTES_MIN
        );
    }
    if !matches!(meta.voters, 3 | 5) {
        bail!("meta.voters must be 3 or 5");
    }
    meta.check_election()?;
    check_seconds("meta", "reader_grace_secs", meta.reader_grace_secs)?;
    check_seconds("meta", "write_lease_secs", meta.write_lease_secs)?;
    workers.check()
}

fn parse_file(text: &str) -> Result<File, toml::de::Error> {
    toml::from_str(text)
}

pub(crate) fn first_list<T>(
    first: Vec<T>,
    second: Vec<T>,
    default: impl FnOnce() -> Vec<T>,
) -> Vec<T> {
    if !first.is_empty() {
        first
    } else if !second.is_empty() {
        second
    } else {
        default()
    }
}

/// The gateway's settings, with what stands outside its section.
pub(crate) fn gateway(
    section: GatewayConfig,
    region: String,
    domains: Vec<String>,
    public_endpoint: Option<String>,
) -> GatewayConfig {
    GatewayConfig {
        region,
        domains: domains
            .into_iter()
            .map(|domain| domain.trim_matches('.').to_ascii_lowercase())
            .collect(),
        public_endpoint: public_endpoint
            .map(|url| url.trim_end_matches('/').to_owned())
            .unwrap_or_default(),
        ..section
    }
}

/// Refuses a data directory that is named twice.
pub(crate) fn check_data(data: &[PathBuf]) -> anyhow::Result<()> {
    for (index, dir) in data.iter().enumerate() {
        if data[..index].contains(dir) {
            bail!("data directory {} is named twice", dir.display());
        }
    }
    Ok(())
}

pub(crate) fn address(name: &str, text: &str) -> anyhow::Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{name}: {text} is not an address such as 127.0.0.1:9000"))
}

pub(crate) fn credentials(
    id: Option<String>,
    secret: Option<String>,
) -> anyhow::Result<Option<Credentials>> {
    match (id, secret) {
        (None, None) => Ok(None),
        (Some(id), Some(secret)) if !id.is_empty() && secret.len() >= 8 => {
            Ok(Some(Credentials { id, secret }))
        }
        (Some(_), Some(_)) => {
            bail!("the root access key needs an id and a secret of 8 characters or more")
        }
        _ => bail!(
            "give both GRANARY_ROOT_ACCESS_KEY_ID and GRANARY_ROOT_ACCESS_KEY_SECRET, or neither"
        ),
    }
}

/// A path as people should see it.
pub(crate) fn shown(path: &Path) -> String {
    path.canonicalize()
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(args: ServerArgs, file: &str) -> anyhow::Result<ServerConfig> {
        ServerConfig::merge(args, parse_file(file)?)
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = merged(ServerArgs::default(), "").unwrap();
        assert_eq!(config.data, [PathBuf::from("./granary-data")]);
        assert_eq!(config.meta_dir, PathBuf::from("./granary-data/meta"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:9000");
        assert_eq!(config.admin_listen.unwrap().to_string(), "127.0.0.1:9001");
        assert_eq!(config.gateway.region, "cn-granary-1");
    }

    #[test]
    fn the_documented_file_is_the_real_one() {
        let page = include_str!("../../../docs/configuration.md");
        let blocks: Vec<&str> = page.split("```toml\n").skip(1).collect();
        let block = |n: usize| blocks[n].split("```").next().unwrap();
        let flags: toml::Table = toml::from_str(block(0)).unwrap();
        parse_file(block(0)).unwrap();
        let documented = parse_file(block(2)).unwrap();
        assert_eq!(format!("{documented:?}"), format!("{:?}", File::default()));
        // Deserialising fills in what is left out, so that every key is looked for as well.
        let sections: toml::Table = toml::from_str(block(2)).unwrap();
        let keys = |section: &str| sections[section].as_table().unwrap().len();
        let counts = ["gateway", "datapath", "storage", "meta", "workers"].map(keys);
        assert_eq!((flags.len(), counts), (12, [19, 10, 7, 10, 8]));
    }

    #[test]
    fn flags_win_over_the_file() {
        let args = ServerArgs {
            region: Some("cn-flag-1".to_owned()),
            ..ServerArgs::default()
        };
        let file = "region = \"cn-file-1\"\nadmin_listen = \"off\"\n[meta]\nshards = 3\n";
        let config = merged(args, file).unwrap();
        assert_eq!(
            (config.gateway.region.as_str(), config.meta.shards),
            ("cn-flag-1", 3)
        );
        assert_eq!(config.admin_listen, None);
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for bad in [
            "regoin = \"x\"",
            "listen = \"nowhere\"",
            "region = \"Not A Region\"",
            "public_endpoint = \"http://oss.example.com/path\"",
            "[gateway]\nregion = \"cn-x-1\"",
            "[gateway]\nidle_timeout_ms = 0",
            "root_access_key_id = \"alone\"",
            "[meta]\nshards = 0",
            "[meta]\nshard = 1",
            "[meta]\nreader_grace_secs = 0",
            "[meta]\nelection_timeout_ms = 599",
            "[meta]\nelection_timeout_ms = 60000",
            "[meta]\nsplit_bytes = 1000000",
            "[meta]\nheartbeat_ms = 0",
            "[meta]\nheartbeat_ms = 301",
            "[meta]\nelection_timeout_ms = 600\nheartbeat_ms = 150",
            "[workers]\nsweep_interval_secs = 0",
            "[storage]\nvolume_bytes = 1",
            "[datapath]\ninline_max_bytes = 1000000",
            "[gateway]\nconections_max = 1",
            "data = [\"a\", \"a\"]",
        ] {
            assert!(merged(ServerArgs::default(), bad).is_err(), "{bad}");
        }
    }
}
