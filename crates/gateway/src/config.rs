//! Settings of a gateway and their validated form. Every number here is a limit with a unit in its
//! name; the defaults are what a store on a few machines wants.

use std::time::Duration;

use granary_oss::address::Domains;
use serde::{Deserialize, Serialize};

use crate::callback::Allowed;

/// Settings of a gateway, as the section `[gateway]` of the configuration file spells them. The
/// fields that are not of this section are set by whoever starts the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Region id that clients sign with, without the prefix `oss-`.
    #[serde(skip)]
    pub region: String,
    /// Host names under which `BUCKET.DOMAIN` addresses a bucket.
    #[serde(skip)]
    pub domains: Vec<String>,
    /// What ListBuckets and GetBucketInfo advertise, verbatim; empty: what the client used.
    #[serde(skip)]
    pub public_endpoint: String,
    /// Redundancy of a bucket that asks for none.
    #[serde(skip)]
    pub default_redundancy: DefaultRedundancy,
    /// Open connections; more are answered 503 and closed.
    pub connections_max: usize,
    /// Requests being handled; more are answered 503.
    pub requests_in_flight_max: usize,
    /// Memory for request bodies that are read whole (XML), in bytes. Half as much again is for the
    /// fields of forms.
    pub buffered_body_bytes_max: usize,
    /// Time from the connection to its first byte, in milliseconds.
    pub first_byte_timeout_ms: u64,
    /// Time from a request's first byte to the end of its headers, in milliseconds.
    pub header_timeout_ms: u64,
    /// Time a connection may rest between requests, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Time a body may bring no byte, in milliseconds.
    pub body_stall_timeout_ms: u64,
    /// Slowest body that is waited for, and slowest taking of an answer, in bytes per second over
    /// [`RATE_WINDOW`].
    pub body_rate_min: u64,
    /// Time a client may take no byte of a response, in milliseconds.
    pub write_stall_timeout_ms: u64,
    /// Time requests in flight get to finish at shutdown, in milliseconds.
    pub drain_timeout_ms: u64,
    /// Header lines of one request; more are answered 431.
    pub headers_max: usize,
    /// Request line and headers together, in bytes; more are answered 431.
    pub header_bytes_max: usize,
    /// How old a gateway's view of a bucket may be, in milliseconds.
    pub bucket_view_ms: u64,
    /// How old a gateway's view of an access key may be, in milliseconds.
    pub access_key_view_ms: u64,
    /// Whom callbacks of uploads may reach: `public` for the Internet, names, addresses, networks.
    pub callback_hosts: Vec<String>,
    /// PEM file of the RSA key that signs callbacks; empty: they are not signed.
    pub callback_key_file: String,
    /// URL at which application servers find the public key.
    pub callback_public_key_url: String,
    /// PEM file of certificates that application servers are believed by, besides the system's.
    pub callback_ca_file: String,
    /// Callbacks at once; more fail.
    pub callbacks_in_flight_max: usize,
    /// Ports that callbacks never reach: those at which this process serves nodes and operators.
    #[serde(skip)]
    pub callback_ports_refused: Vec<u16>,
}

/// Which redundancy a bucket gets that asks for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultRedundancy {
    /// Three copies on three nodes of one zone.
    #[serde(rename = "LRS")]
    Lrs,
    /// A copy in each of three zones.
    #[serde(rename = "ZRS")]
    Zrs,
    /// ZRS where three zones have disks, else LRS.
    #[default]
    #[serde(rename = "auto")]
    Auto,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            region: "cn-granary-1".to_owned(),
            domains: Vec::new(),
            public_endpoint: String::new(),
            default_redundancy: DefaultRedundancy::default(),
            connections_max: 8192,
            requests_in_flight_max: 2048,
            buffered_body_bytes_max: 64 * 1024 * 1024,
            first_byte_timeout_ms: 10_000,
            header_timeout_ms: 15_000,
            idle_timeout_ms: 75_000,
            body_stall_timeout_ms: 30_000,
            body_rate_min: 1024,
            write_stall_timeout_ms: 60_000,
            drain_timeout_ms: 30_000,
            headers_max: 512,
            header_bytes_max: 64 * 1024,
            bucket_view_ms: 1_000,
            access_key_view_ms: 5_000,
            callback_hosts: vec!["public".to_owned()],
            callback_key_file: String::new(),
            callback_public_key_url: String::new(),
            callback_ca_file: String::new(),
            callbacks_in_flight_max: 256,
            callback_ports_refused: Vec::new(),
        }
    }
}

/// Window over which the minimum rate of a body or an answer is judged. Only time spent waiting for
/// the client counts.
pub const RATE_WINDOW: Duration = Duration::from_secs(60);

impl GatewayConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check("region", is_region_id(&self.region), || {
            format!("`{}` is not a region id such as cn-granary-1", self.region)
        })?;
        for domain in &self.domains {
            check("domain", is_domain(domain), || {
                format!("`{domain}` is not a host name")
            })?;
        }
        let endpoint = &self.public_endpoint;
        check("public_endpoint", is_endpoint(endpoint), || {
            format!("`{endpoint}` is not a URL such as https://oss.example.com:9000")
        })?;
        Allowed::parse(&self.callback_hosts, &[])?;
        check_numbers(self)
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    /// The setting's name.
    pub setting: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Settings that have been checked, in the units the code uses.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) region: String,
    pub(crate) domains: Domains,
    pub(crate) public_endpoint: Option<String>,
    pub(crate) default_redundancy: DefaultRedundancy,
    pub(crate) connections_max: usize,
    pub(crate) requests_in_flight_max: usize,
    pub(crate) buffered_body_bytes_max: usize,
    pub(crate) timeouts: Timeouts,
    pub(crate) headers_max: usize,
    pub(crate) header_bytes_max: usize,
    pub(crate) bucket_view: Duration,
    pub(crate) access_key_view: Duration,
}

/// How long a client may take for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) first_byte: Duration,
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    pub(crate) body_stall: Duration,
    pub(crate) body_rate_min: u64,
    pub(crate) write_stall: Duration,
    pub(crate) drain: Duration,
}

impl TryFrom<GatewayConfig> for Settings {
    type Error = ConfigError;

    fn try_from(config: GatewayConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            domains: Domains::new(&config.domains),
            public_endpoint: Some(config.public_endpoint).filter(|text| !text.is_empty()),
            default_redundancy: config.default_redundancy,
            region: config.region,
            connections_max: config.connections_max,
            requests_in_flight_max: config.requests_in_flight_max,
            buffered_body_bytes_max: config.buffered_body_bytes_max,
            timeouts: Timeouts {
                first_byte: Duration::from_millis(config.first_byte_timeout_ms),
                header: Duration::from_millis(config.header_timeout_ms),
                idle: Duration::from_millis(config.idle_timeout_ms),
                body_stall: Duration::from_millis(config.body_stall_timeout_ms),
                body_rate_min: config.body_rate_min,
                write_stall: Duration::from_millis(config.write_stall_timeout_ms),
                drain: Duration::from_millis(config.drain_timeout_ms),
            },
            headers_max: config.headers_max,
            header_bytes_max: config.header_bytes_max,
            bucket_view: Duration::from_millis(config.bucket_view_ms),
            access_key_view: Duration::from_millis(config.access_key_view_ms),
        })
    }
}

fn check_numbers(config: &GatewayConfig) -> Result<(), ConfigError> {
    for (setting, value) in [
        ("connections_max", config.connections_max as u64),
        (
            "requests_in_flight_max",
            config.requests_in_flight_max as u64,
        ),
        (
            "buffered_body_bytes_max",
            config.buffered_body_bytes_max as u64,
        ),
        ("first_byte_timeout_ms", config.first_byte_timeout_ms),
        ("header_timeout_ms", config.header_timeout_ms),
        ("idle_timeout_ms", config.idle_timeout_ms),
        ("body_stall_timeout_ms", config.body_stall_timeout_ms),
        ("write_stall_timeout_ms", config.write_stall_timeout_ms),
        (
            "callbacks_in_flight_max",
            config.callbacks_in_flight_max as u64,
        ),
    ] {
        check(setting, value > 0, || "must be more than 0".to_owned())?;
    }
    check(
        "headers_max",
        (16..=4096).contains(&config.headers_max),
        || "must be 16 to 4096".to_owned(),
    )?;
    // hyper refuses a read buffer below 8 KiB.
    check(
        "header_bytes_max",
        (8192..=1024 * 1024).contains(&config.header_bytes_max),
        || "must be 8192 to 1048576".to_owned(),
    )
}

fn check(
    setting: &'static str,
    holds: bool,
    reason: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError {
            setting,
            reason: reason(),
        })
    }
}

fn is_region_id(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(legal) && !text.starts_with("oss-")
}

fn is_domain(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-.:".contains(&b);
    !text.is_empty() && text.bytes().all(legal) && text.bytes().any(|b| b.is_ascii_alphanumeric())
}

/// A URL without path and query; empty for none.
fn is_endpoint(text: &str) -> bool {
    let authority = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let is_host = |text: &str| text.parse::<http::uri::Authority>().is_ok() && !text.contains('@');
    text.is_empty() || authority.is_some_and(is_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert!(Settings::try_from(GatewayConfig::default()).is_ok());
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<GatewayConfig>("headers_max = 100").is_ok());
        let error = toml::from_str::<GatewayConfig>("header_max = 100").unwrap_err();
        assert!(error.to_string().contains("header_max"), "{error}");
    }

    #[test]
    fn wrong_settings_are_named() {
        type Change = fn(&mut GatewayConfig);
        let cases: [(&str, Change); 10] = [
            ("callback_hosts", |c| {
                c.callback_hosts = vec!["a b".to_owned()]
            }),
            ("public_endpoint", |c| c.public_endpoint = "foo".to_owned()),
            ("region", |c| c.region = "oss-cn-x".to_owned()),
            ("region", |c| c.region = String::new()),
            ("domain", |c| c.domains = vec!["a b".to_owned()]),
            ("public_endpoint", |c| {
                c.public_endpoint = "http://h/path".to_owned()
            }),
            ("connections_max", |c| c.connections_max = 0),
            ("idle_timeout_ms", |c| c.idle_timeout_ms = 0),
            ("headers_max", |c| c.headers_max = 1),
            ("header_bytes_max", |c| c.header_bytes_max = 100),
        ];
        for (setting, change) in cases {
            let mut config = GatewayConfig::default();
            change(&mut config);
            assert_eq!(Settings::try_from(config).unwrap_err().setting, setting);
        }
    }
}
