//! What a person reads at the start: where it listens, how many copies there are of what, the keys.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::{ServerConfig, shown};
use crate::credentials::RootCredentials;

/// The text, written by `Display`.
pub(crate) struct Greeting<'a> {
    pub(crate) config: &'a ServerConfig,
    /// Where the API is served.
    pub(crate) address: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    /// Copies of every chunk that is written now.
    pub(crate) copies: usize,
    /// Data directories that are out of service.
    pub(crate) out: &'a [PathBuf],
    pub(crate) credentials: &'a RootCredentials,
}

impl fmt::Display for Greeting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.config;
        let version = env!("CARGO_PKG_VERSION");
        writeln!(f, "Granary {version} serves the OSS API.\n")?;
        writeln!(f, "  endpoint   {}", self.endpoint())?;
        if !config.gateway.public_endpoint.is_empty() {
            writeln!(f, "  listens on http://{}", self.address)?;
        }
        writeln!(f, "  region     {}", config.gateway.region)?;
        if let Some(admin) = self.admin {
            writeln!(f, "  admin      http://{admin}/health/ready, /metrics")?;
        }
        self.places(f)?;
        self.keys(f)
    }
}

impl Greeting<'_> {
    fn endpoint(&self) -> String {
        match self.config.gateway.public_endpoint.as_str() {
            "" => format!("http://{}", self.address),
            url => url.to_owned(),
        }
    }

    fn places(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serves = |path: &&PathBuf| !self.out.contains(path);
        let list = |paths: Vec<String>| paths.join(", ");
        let data = list(
            self.config
                .data
                .iter()
                .filter(serves)
                .map(|path| shown(path))
                .collect(),
        );
        let inline = size(self.config.datapath.inline_max_bytes as u64);
        let copies = match self.copies {
            1 => "one copy".to_owned(),
            n => format!("{n} copies"),
        };
        let more = match (self.copies, self.out.is_empty()) {
            (1, true) => "; name more data directories (--data) for more",
            _ => "",
        };
        writeln!(
            f,
            "  data       {data} ({copies} of objects over {inline}{more})"
        )?;
        if !self.out.is_empty() {
            let out = list(self.out.iter().map(|path| shown(path)).collect());
            writeln!(
                f,
                "  OUT        {out} (cannot be used and holds no copies: the log says why)"
            )?;
        }
        writeln!(
            f,
            "  metadata   {} (one copy of every name and of objects up to {inline}: keep it)",
            shown(&self.config.meta_dir)
        )
    }

    fn keys(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, secret) = (&self.credentials.pair.id, &self.credentials.pair.secret);
        let file = match &self.credentials.kept_in {
            Some(file) => shown(file),
            None => return writeln!(f, "  access key {id}"),
        };
        if !self.credentials.unseen {
            return writeln!(f, "  access key {id} (its secret is in {file})");
        }
        writeln!(f, "\nMade at this first start, kept in {file}:\n")?;
        writeln!(
            f,
            "  access key id      {id}\n  access key secret  {secret}\n"
        )?;
        let (endpoint, region) = (self.endpoint(), &self.config.gateway.region);
        writeln!(
            f,
            "Try it (pip install oss2):\n\nimport oss2\nauth = oss2.AuthV4(\"{id}\", \"{secret}\")\n\
             bucket = oss2.Bucket(auth, \"{endpoint}\", \"hello\", region=\"{region}\")\n\
             bucket.create_bucket()\nbucket.put_object(\"greeting.txt\", b\"hello\")\n\
             print(bucket.get_object(\"greeting.txt\").read())"
        )
    }
}

/// A number of bytes as people say it.
fn size(bytes: u64) -> String {
    match bytes {
        whole if whole >= 1024 && whole % 1024 == 0 => format!("{} KiB", whole / 1024),
        _ => format!("{bytes} bytes"),
    }
}
