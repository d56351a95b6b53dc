//! What the user asks for: arguments and variables, checked before anything is sent.
//!
//! A secret comes from a variable or a file, never from the command line, which others can read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use granary_oss::sign::client::Credentials;
use serde::Deserialize;

use crate::endpoint::{Addressing, Endpoint};
use crate::signing::Dialect;
use crate::workload::{Operation, Workload};

const CONNECTIONS: usize = 32;
const CONNECTIONS_MAX: usize = 4096;
const SECONDS: f64 = 10.0;
const SECONDS_MAX: f64 = 86_400.0;
const ROUNDS_MAX: u32 = 100;
/// Keys of a workload at most: what is known of one takes 24 bytes.
const KEYS_MAX: usize = 1_000_000;
/// Unless told otherwise, the objects of a workload take so many bytes, and are so many at most.
const OBJECTS_BYTES: u64 = 256 * 1024 * 1024;
const OBJECTS_MAX: u64 = 10_000;
const OBJECTS_MIN: u64 = 16;

/// Measures an endpoint that speaks OSS or S3: what `granary bench --help` shows.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub struct BenchArgs {
    /// What to measure, one after the other: put-SIZE, get-SIZE, head, delete, list-KEYS, mixed-SIZE
    ///
    /// A SIZE is a number of bytes, or of KiB, MiB or GiB: 300, 4k, 16m, 1g. mixed-SIZE is 70 % GET, 20 % PUT and 10 %
    /// HEAD; get50+put50-64k is a mix of your own. list-1000 asks for pages of 1000 keys. head and delete are of
    /// objects of 4 KiB unless a size follows, as in head-1m.
    #[arg(required = true, value_name = "WORKLOAD", value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Where the store is: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    endpoint: String,
    /// A bucket that is there, without versioning
    #[arg(long, value_name = "NAME")]
    bucket: String,
    /// Which API it speaks, and how requests are signed: oss (OSS4-HMAC-SHA256) or s3 (AWS4-HMAC-SHA256)
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Dialect::Oss)]
    dialect: Dialect,
    /// Region to sign for [default: cn-granary-1, and us-east-1 with --dialect s3]
    #[arg(long, value_name = "ID")]
    region: Option<String>,
    /// Access key id; its secret comes from a variable [default: from a variable, too]
    #[arg(long, value_name = "ID", conflicts_with = "credentials")]
    access_key_id: Option<String>,
    /// TOML file with access_key_id and access_key_secret, as the root-credentials.toml of a server is
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// The bucket is in the path: http://HOST/BUCKET/KEY [default, but for amazonaws.com and aliyuncs.com]
    #[arg(long, conflicts_with = "virtual_hosted")]
    path_style: bool,
    /// The bucket is in the host: http://BUCKET.HOST/KEY
    #[arg(long)]
    virtual_hosted: bool,
    /// Certificates (PEM) that https endpoints may be vouched for with, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS)]
    connections: usize,
    /// How long each workload is measured [default: 10]
    #[arg(long, value_name = "S", conflicts_with = "requests")]
    seconds: Option<f64>,
    /// Measure so many requests of each workload instead
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Seconds before, which do not count
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    warm_up: f64,
    /// Measure everything so often, in turn; rates are medians then
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u32,
    /// Objects of each workload [default: as many as take 256 MiB, from 16 to 10000, and one per connection]
    #[arg(long, value_name = "N")]
    keys: Option<usize>,
    /// What all keys begin with; a name of the run follows
    #[arg(long, value_name = "TEXT", default_value = "granary-bench/")]
    prefix: String,
    /// Leave the objects there
    #[arg(long)]
    keep: bool,
    /// Seconds without a byte sent or received after which a request has failed
    #[arg(long, value_name = "S", default_value_t = 30.0)]
    timeout: f64,
    /// Write all figures as JSON, too; - is the standard output, and the table goes to the standard error then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Keys: OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and OSS_SESSION_TOKEN, else GRANARY_ROOT_ACCESS_KEY_ID and
GRANARY_ROOT_ACCESS_KEY_SECRET; with --dialect s3 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.

What is measured: latency is the time from sending a request until the last byte of its answer, of good answers;
making a connection is not part of it. Rates are of the answers that ended within the measured time, whole ones: where a
request takes a good part of --seconds they are coarse, so give large objects more time. A request that is under way when
the time is over is waited for and counts for the latencies, so that nothing slow is left out. Nothing is tried again:
whatever goes wrong is an error.

What is stored: every PUT has another body (of 8 bytes and more), which neither compresses nor repeats itself; PUTs go
round over the keys and overwrite after the first round. GET, HEAD and list read objects that are stored before, at random. delete deletes
each of its objects once and ends when none is left, whatever the time; it has no warm-up. All objects are deleted at
the end, also after ^C; a second ^C ends at once. In a bucket with directories those of --prefix stay.

What is checked, of every answer: all bytes of a GET are those that were stored, its ETag is that of the PUT, and
x-oss-hash-crc64ecma, where it is sent, is that of the bytes; of a HEAD length, ETag and CRC; of a PUT the CRC; of a
listing the number of keys, the first and the last.

Memory: 40 MiB, up to 2 MiB per connection and 24 bytes per key, whatever the size of the objects.

Exit code: 0, 1 when it cannot be run, 3 when a request failed or an object could not be deleted, 130 when a signal (^C)
has ended it, or nobody reads what it prints.

Example:
  granary bench --bucket bench --credentials granary-data/meta/root-credentials.toml put-4k,get-4k,mixed-64k";

/// Why it cannot be run as asked.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct SettingError {
    pub(crate) setting: &'static str,
    pub(crate) reason: String,
}

/// How much of each workload is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extent {
    /// Whatever begins within this time.
    Time(Duration),
    /// So many requests.
    Requests(u64),
}

/// Where the figures go as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JsonTo {
    Stdout,
    File(PathBuf),
}

/// The arguments, checked.
pub(crate) struct Settings {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) endpoint: Endpoint,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) dialect: Dialect,
    pub(crate) region: String,
    pub(crate) credentials: Credentials,
    pub(crate) connections: usize,
    pub(crate) extent: Extent,
    pub(crate) warm_up: Duration,
    pub(crate) rounds: u32,
    keys: Option<usize>,
    pub(crate) prefix: String,
    pub(crate) keep: bool,
    pub(crate) timeout: Duration,
    pub(crate) json: Option<JsonTo>,
}

impl Settings {
    /// Checks the arguments. `variable` reads one of the environment.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub(crate) fn from_args(
        args: BenchArgs,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingError> {
        let addressing = match (args.path_style, args.virtual_hosted) {
            (true, _) => Some(Addressing::Path),
            (_, true) => Some(Addressing::VirtualHosted),
            _ => None,
        };
        let extent = match (args.requests, args.seconds) {
            (Some(requests), _) => Extent::Requests(requests.max(1)),
            (None, seconds) => Extent::Time(time("--seconds", seconds.unwrap_or(SECONDS), 0.001)?),
        };
        let region = args.region.clone();
        Ok(Self {
            endpoint: Endpoint::parse(&args.endpoint, &args.bucket, addressing)?,
            credentials: credentials(&args, variable)?,
            region: region.unwrap_or_else(|| args.dialect.default_region().to_owned()),
            connections: within("--connections", args.connections, 1, CONNECTIONS_MAX)?,
            warm_up: time("--warm-up", args.warm_up, 0.0)?,
            rounds: within("--rounds", args.rounds, 1, ROUNDS_MAX)?,
            keys: match args.keys {
                Some(keys) => Some(within("--keys", keys, 1, KEYS_MAX)?),
                None => None,
            },
            prefix: prefix(args.prefix)?,
            timeout: time("--timeout", args.timeout, 0.001)?,
            json: args.json.map(|path| match path.as_os_str() == "-" {
                true => JsonTo::Stdout,
                false => JsonTo::File(path),
            }),
            workloads: args.workloads,
            ca_file: args.ca_file,
            dialect: args.dialect,
            extent,
            keep: args.keep,
        })
    }

    /// Objects of a workload.
    pub(crate) fn keys_of(&self, workload: &Workload) -> usize {
        let fit = (OBJECTS_BYTES / workload.size_bytes).clamp(OBJECTS_MIN, OBJECTS_MAX);
        let fit = usize::try_from(fit).unwrap_or(KEYS_MAX);
        let keys = self.keys.unwrap_or(fit.max(self.connections));
        match workload.has(Operation::List) {
            // A page is full wherever it begins.
            true => keys.max(usize::try_from(workload.page).unwrap_or(keys)),
            false => keys,
        }
    }
}

/// A pair in a file. What else is in it is not for us.
#[derive(Deserialize)]
struct Pair {
    access_key_id: String,
    access_key_secret: String,
    security_token: Option<String>,
}

fn credentials(
    args: &BenchArgs,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Credentials, SettingError> {
    if let Some(file) = &args.credentials {
        return read_pair(file);
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    for (id, secret, token) in args.dialect.key_variables() {
        let id = args.access_key_id.clone().or_else(|| set(id));
        if let (Some(id), Some(secret)) = (id, set(secret)) {
            let mut credentials = Credentials::new(id, secret);
            credentials.security_token = set(token);
            return Ok(credentials);
        }
    }
    let (id, secret, _) = args.dialect.key_variables()[0];
    Err(SettingError {
        setting: "--credentials",
        reason: match &args.access_key_id {
            Some(known) => format!("there is no secret for {known}: set {secret}"),
            None => format!("there are no keys: name a file with a pair, or set {id} and {secret}"),
        },
    })
}

fn read_pair(file: &Path) -> Result<Credentials, SettingError> {
    let wrong = |reason: String| SettingError {
        setting: "--credentials",
        reason: format!("{}: {reason}", file.display()),
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    // The error of the parser shows the line, which may be the secret.
    let pair: Pair = toml::from_str(&text)
        .map_err(|_| wrong("it is no TOML with access_key_id and access_key_secret".to_owned()))?;
    let mut credentials = Credentials::new(pair.access_key_id, pair.access_key_secret);
    credentials.security_token = pair.security_token;
    Ok(credentials)
}

/// Keys are written into paths, queries and documents as they are.
fn prefix(text: String) -> Result<String, SettingError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let fits = text.chars().all(plain) && !text.starts_with('/') && text.len() <= 512;
    // A URL that has these is made another one on its way.
    let moves = text.split('/').any(|part| part == "." || part == "..");
    match fits && !moves {
        true => Ok(text),
        false => Err(SettingError {
            setting: "--prefix",
            reason: "it has letters, digits, -, _, . and /, does not begin with /, and has no part that is . or .."
                .to_owned(),
        }),
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    setting: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<T, SettingError> {
    match value >= least && value <= most {
        true => Ok(value),
        false => Err(SettingError {
            setting,
            reason: format!("{value} is not from {least} to {most}"),
        }),
    }
}

fn time(setting: &'static str, seconds: f64, least: f64) -> Result<Duration, SettingError> {
    within(setting, seconds, least, SECONDS_MAX).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests;
