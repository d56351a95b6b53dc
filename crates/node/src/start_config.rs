//! Configuration of `granary start`, a node of a cluster: flags, then `GRANARY_*` variables, then the
//! TOML file, then defaults. What a node shares with `granary server` stands in `config`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Parser};
use granary_datapath::DataPathConfig;
use granary_gateway::{DefaultRedundancy, GatewayConfig};
use serde::Deserialize;

use crate::config::{self, LogFormat, MetaSection, StorageSection, WorkersSection};

/// What `granary start` can be told. The first source that names a setting wins: a flag, its
/// `GRANARY_*` variable, the file given by --config, the default.
#[derive(Args, Debug, Default)]
pub(crate) struct StartArgs {
    /// A TOML file with the same settings (underscores for hyphens) and the tuning sections.
    #[arg(long, value_name = "FILE", env = "GRANARY_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// What makes this process a node of its cluster: identity, keys, and the metadata of a meta
    /// node. Keep it; an empty one is a new node.
    #[arg(long, value_name = "DIR", env = "GRANARY_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// A data directory; repeat it for more, or separate them by commas in the variable.
    #[arg(
        long = "data",
        value_name = "DIR",
        env = "GRANARY_DATA",
        value_delimiter = ','
    )]
    data: Vec<PathBuf>,
    /// What this node does: gateway, meta, storage, worker; separated by commas. [default: all]
    #[arg(
        long,
        value_name = "ROLE",
        env = "GRANARY_ROLES",
        value_delimiter = ','
    )]
    roles: Vec<Role>,
    /// The failure domain for power and network that this node is in. [default: default]
    #[arg(long, value_name = "ZONE", env = "GRANARY_ZONE")]
    zone: Option<String>,
    /// Address that other nodes are served on. [default: 127.0.0.1:9100]
    #[arg(long, value_name = "ADDR", env = "GRANARY_CLUSTER_LISTEN")]
    cluster_listen: Option<String>,
    /// HOST:PORT under which other nodes reach it. [default: --cluster-listen]
    #[arg(long, value_name = "HOST:PORT", env = "GRANARY_CLUSTER_ADDRESS")]
    cluster_address: Option<String>,
    /// Address that serves the OSS API. [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDR", env = "GRANARY_LISTEN")]
    listen: Option<String>,
    /// Address that serves health and metrics; `off` for none. [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR", env = "GRANARY_ADMIN_LISTEN")]
    admin_listen: Option<String>,
    /// A node to ask when joining; repeat it for more.
    #[arg(
        long = "join",
        value_name = "HOST:PORT",
        env = "GRANARY_JOIN",
        value_delimiter = ','
    )]
    join: Vec<String>,
    /// A token that lets this node join when its state directory is empty.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "GRANARY_JOIN_TOKEN",
        hide_env_values = true
    )]
    join_token: Option<String>,
    /// Log format: `text` or `json`. [default: text]
    #[arg(long, value_name = "FORMAT", env = "GRANARY_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// Log filter in the syntax of tracing's EnvFilter. [default: info]
    #[arg(long, value_name = "FILTER", env = "GRANARY_LOG")]
    log: Option<String>,
}

/// The arguments without the command before them.
#[derive(Parser)]
struct Alone {
    #[command(flatten)]
    args: StartArgs,
}

/// What a node does. Any process can have any set.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Serves the OSS API.
    Gateway,
    /// Has replicas of the metadata.
    Meta,
    /// Has disks.
    Storage,
    /// Runs background work.
    Worker,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: [Self; 4] = [Self::Gateway, Self::Meta, Self::Storage, Self::Worker];

    /// As the cluster map names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Meta => "meta",
            Self::Storage => "storage",
            Self::Worker => "worker",
        }
    }
}

/// The file given by --config. Unknown keys are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    data: Vec<PathBuf>,
    roles: Vec<Role>,
    zone: Option<String>,
    cluster_listen: Option<String>,
    cluster_address: Option<String>,
    listen: Option<String>,
    admin_listen: Option<String>,
    join: Vec<String>,
    join_token: Option<String>,
    join_token_file: Option<PathBuf>,
    plaintext: bool,
    default_redundancy: DefaultRedundancy,
    domain: Vec<String>,
    public_endpoint: Option<String>,
    log_format: Option<LogFormat>,
    log: Option<String>,
    otlp_endpoint: Option<String>,
    gateway: GatewayConfig,
    datapath: DataPathConfig,
    storage: StorageSection,
    meta: MetaSection,
    workers: WorkersSection,
}

/// Validated settings of a node.
#[derive(Debug)]
pub(crate) struct StartConfig {
    pub(crate) state_dir: PathBuf,
    pub(crate) data: Vec<PathBuf>,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) zone: String,
    pub(crate) cluster_listen: SocketAddr,
    /// HOST:PORT.
    pub(crate) cluster_address: String,
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) join: Vec<String>,
    join_token: Option<String>,
    /// Read only when the node has to join: later it may be gone.
    join_token_file: Option<PathBuf>,
    /// No TLS between nodes.
    pub(crate) plaintext: bool,
    pub(crate) log_format: LogFormat,
    pub(crate) log: String,
    pub(crate) otlp_endpoint: Option<String>,
    /// Its region is the cluster's, filled when that is known.
    pub(crate) gateway: GatewayConfig,
    pub(crate) datapath: DataPathConfig,
    pub(crate) storage: StorageSection,
    pub(crate) meta: MetaSection,
    pub(crate) workers: WorkersSection,
}

impl StartConfig {
    /// Reads the file, if one is named, and merges it under the flags and variables.
    pub(crate) fn load(args: StartArgs) -> anyhow::Result<Self> {
        let file = match &args.config {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("in {}", path.display()))?
            }
        };
        Self::merge(args, file)
    }

    /// What `granary start --config FILE` would take, variables included.
    pub(crate) fn of_file(file: &Path) -> anyhow::Result<Self> {
        let line = [
            OsStr::new("granary"),
            OsStr::new("--config"),
            file.as_os_str(),
        ];
        Self::load(Alone::try_parse_from(line)?.args)
    }

    fn merge(args: StartArgs, file: File) -> anyhow::Result<Self> {
        let given = [&args.roles, &file.roles];
        let given = given.into_iter().find(|roles| !roles.is_empty());
        let roles: BTreeSet<Role> = match given {
            Some(roles) => roles.iter().copied().collect(),
            None => Role::ALL.into_iter().collect(),
        };
        let data = config::first_list(args.data, file.data, Vec::new);
        if roles.contains(&Role::Storage) == data.is_empty() {
            bail!("data directories (data = [...]) and the role storage go together");
        }
        config::check_data(&data)?;
        let listening = |name, flag: Option<String>, key: Option<String>, default: &str| {
            let text = flag.or(key).unwrap_or_else(|| default.to_owned());
            config::address(name, &text)
        };
        let cluster_listen = listening(
            "cluster-listen",
            args.cluster_listen,
            file.cluster_listen,
            "127.0.0.1:9100",
        )?;
        let cluster_address = args.cluster_address.or(file.cluster_address);
        let cluster_address = cluster_address.unwrap_or_else(|| cluster_listen.to_string());
        check_reachable(&cluster_address)?;
        let admin = args.admin_listen.or(file.admin_listen);
        let admin_listen = match admin.as_deref().unwrap_or("127.0.0.1:9001") {
            "off" => None,
            text => Some(config::address("admin-listen", text)?),
        };
        let mut gateway = config::gateway(
            file.gateway,
            String::new(),
            file.domain,
            file.public_endpoint,
        );
        gateway.default_redundancy = file.default_redundancy;
        let advertised = cluster_address.rsplit_once(':');
        gateway.callback_ports_refused = [
            Some(cluster_listen.port()),
            advertised.and_then(|(_, port)| port.parse().ok()),
            admin_listen.map(|address| address.port()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let zone = args
            .zone
            .or(file.zone)
            .unwrap_or_else(|| "default".to_owned());
        let mut datapath = file.datapath;
        datapath.zone.clone_from(&zone);
        let config = Self {
            state_dir: args.state_dir.or(file.state_dir).context(
                "a node needs a state directory (state_dir): it holds what makes it a node of its cluster",
            )?,
            zone,
            listen: listening("listen", args.listen, file.listen, "127.0.0.1:9000")?,
            join: config::first_list(args.join, file.join, Vec::new),
            join_token: args.join_token.or(file.join_token),
            join_token_file: file.join_token_file,
            plaintext: file.plaintext,
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            log: args.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            otlp_endpoint: file.otlp_endpoint,
            datapath,
            storage: file.storage,
            meta: file.meta,
            workers: file.workers,
            cluster_listen,
            cluster_address,
            admin_listen,
            gateway,
            roles,
            data,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.zone.is_empty() || self.zone.len() > 63 {
            bail!("zone must have 1 to 63 characters");
        }
        config::check_sections(&self.datapath, &self.storage, &self.meta, &self.workers)
    }

    /// The token that lets this node join, if there is one.
    pub(crate) fn join_token(&self) -> anyhow::Result<Option<String>> {
        if self.join_token.is_some() {
            return Ok(self.join_token.clone());
        }
        let Some(file) = &self.join_token_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the join token in {}", file.display()))?;
        Ok(Some(text.trim().to_owned()))
    }

    /// Whether the node has a role.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// An address that others can use: a wildcard is none.
fn check_reachable(address: &str) -> anyhow::Result<()> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    if host.is_empty() || port.parse::<u16>().is_err() {
        bail!("cluster-address: {address} is not HOST:PORT");
    }
    if matches!(host, "0.0.0.0" | "[::]") {
        bail!(
            "cluster-address: other nodes cannot reach {address}; name this node's own address or host name"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_the_real_one() {
        let page = include_str!("../../../docs/configuration.md");
        let block = page.split("```toml\n").nth(2).unwrap();
        let block = block.split("```").next().unwrap();
        let file: File = toml::from_str(block).unwrap();
        assert_eq!(file.roles.len(), 4);
        // All keys but the sections, and the token's second form, which excludes the first.
        let keys: toml::Table = toml::from_str(block).unwrap();
        assert_eq!(keys.len(), 17);
        assert!(block.contains("join_token_file"));
    }
}
