//! Where the store is: its URL, how a bucket is addressed there, and connections to it, in the clear or over TLS.
//!
//! Must not know what is asked over them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use granary_oss::escape;
use granary_runtime::{Runtime, read_certificates, tls_client};
use http::Uri;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::settings::SettingError;

/// Stores that want the bucket in the host.
const VIRTUAL_HOSTED: [&str; 3] = ["aliyuncs.com", "amazonaws.com", "amazonaws.com.cn"];

/// Where the name of the bucket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Addressing {
    /// `http://HOST/BUCKET/KEY`
    Path,
    /// `http://BUCKET.HOST/KEY`
    VirtualHosted,
}

/// The URL of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As the user gave it.
    pub(crate) url: String,
    pub(crate) bucket: String,
    pub(crate) addressing: Addressing,
    pub(crate) tls: bool,
    /// Who is dialled, and whom a certificate must name: without the brackets of an IPv6 address.
    dialled: String,
    port: u16,
    /// The Host header.
    pub(crate) host: String,
}

impl Endpoint {
    /// Reads the URL; without an addressing, the usual one of the host is taken.
    ///
    /// # Errors
    /// Another scheme, a path, no host, or a bucket that cannot be one.
    pub(crate) fn parse(
        url: &str,
        bucket: &str,
        addressing: Option<Addressing>,
    ) -> Result<Self, SettingError> {
        let wrong = |setting, reason: &str| SettingError {
            setting,
            reason: reason.to_owned(),
        };
        let in_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(in_name) {
            return Err(wrong(
                "--bucket",
                "a name has 3 to 63 lower-case letters, digits, - and .",
            ));
        }
        let form = || wrong("--endpoint", "it is http://HOST:PORT or https://HOST:PORT");
        let uri: Uri = url.parse().map_err(|_| form())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(form()),
        };
        let authority = uri.authority().ok_or_else(form)?;
        let bare = uri.path_and_query().is_none_or(|path| path == "/");
        if !bare || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(form());
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => None,
            _ => Some(authority.port_u16().ok_or_else(form)?),
        };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_address = address.parse::<IpAddr>().is_ok();
        let usual = match VIRTUAL_HOSTED.iter().any(|domain| is_below(host, domain)) {
            true => Addressing::VirtualHosted,
            false => Addressing::Path,
        };
        let addressing = addressing.unwrap_or(usual);
        let (dialled, host) = match addressing {
            Addressing::Path => (address.to_owned(), host.to_owned()),
            Addressing::VirtualHosted if is_address => {
                return Err(wrong(
                    "--virtual-hosted",
                    "an address has no names below it",
                ));
            }
            Addressing::VirtualHosted => (format!("{bucket}.{host}"), format!("{bucket}.{host}")),
        };
        let usual_port = if tls { 443 } else { 80 };
        let port = port.unwrap_or(usual_port);
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            bucket: bucket.to_owned(),
            addressing,
            tls,
            dialled,
            port,
            host: match port == usual_port {
                true => host,
                false => format!("{host}:{port}"),
            },
        })
    }

    /// The path of a key, or of the bucket, as it is sent.
    pub(crate) fn path(&self, key: Option<&str>) -> String {
        let key = escape::encode_path(key.unwrap_or_default().as_bytes());
        match self.addressing {
            Addressing::Path => format!("/{}/{key}", self.bucket),
            Addressing::VirtualHosted => format!("/{key}"),
        }
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    let above = host.strip_suffix(domain);
    above.is_some_and(|above| above.ends_with('.'))
}

/// Opens connections to an endpoint.
pub(crate) struct Dialler {
    endpoint: Endpoint,
    tls: Option<TlsConnector>,
}

/// What a connection reads and writes.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Dialler {
    /// Reads the certificates that an https endpoint needs: the system's, and those of `ca_file`.
    ///
    /// # Errors
    /// A file that cannot be read or has none.
    pub(crate) fn new(
        endpoint: Endpoint,
        ca_file: Option<&Path>,
        runtime: &Runtime,
    ) -> Result<Self, SettingError> {
        let tls = match endpoint.tls {
            true => Some(connector(runtime, ca_file)?),
            false => None,
        };
        Ok(Self { endpoint, tls })
    }

    /// A connection that is ready for requests.
    ///
    /// # Errors
    /// What the network or TLS says.
    pub(crate) async fn dial(&self) -> std::io::Result<Box<dyn Stream>> {
        let (host, port) = (self.endpoint.dialled.as_str(), self.endpoint.port);
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(tls.connect(name, tcp).await?))
    }
}

fn connector(runtime: &Runtime, ca_file: Option<&Path>) -> Result<TlsConnector, SettingError> {
    let own = match ca_file {
        Some(file) => read_certificates(file).map_err(|error| SettingError {
            setting: "--ca-file",
            reason: format!("{}: {error}", file.display()),
        })?,
        None => Vec::new(),
    };
    let config = tls_client(runtime, own).map_err(|error| SettingError {
        setting: "--endpoint",
        reason: error.to_string(),
    })?;
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_whom_to_dial_and_where_the_bucket_stands() {
        use Addressing::{Path, VirtualHosted};
        for (url, asked, dialled, port, host, path, tls) in [
            (
                "http://127.0.0.1:9000",
                None,
                "127.0.0.1",
                9000,
                "127.0.0.1:9000",
                "/bkt/a",
                false,
            ),
            (
                "http://127.0.0.1:9000/",
                None,
                "127.0.0.1",
                9000,
                "127.0.0.1:9000",
                "/bkt/a",
                false,
            ),
            (
                "https://store.example",
                None,
                "store.example",
                443,
                "store.example",
                "/bkt/a",
                true,
            ),
            (
                "http://store.example:80",
                None,
                "store.example",
                80,
                "store.example",
                "/bkt/a",
                false,
            ),
            (
                "https://[::1]:9000",
                None,
                "::1",
                9000,
                "[::1]:9000",
                "/bkt/a",
                true,
            ),
            (
                "http://store.example:81",
                Some(VirtualHosted),
                "bkt.store.example",
                81,
                "bkt.store.example:81",
                "/a",
                false,
            ),
            (
                "https://oss-cn-hangzhou.aliyuncs.com",
                None,
                "bkt.oss-cn-hangzhou.aliyuncs.com",
                443,
                "bkt.oss-cn-hangzhou.aliyuncs.com",
                "/a",
                true,
            ),
            (
                "https://s3.eu-west-1.amazonaws.com",
                Some(Path),
                "s3.eu-west-1.amazonaws.com",
                443,
                "s3.eu-west-1.amazonaws.com",
                "/bkt/a",
                true,
            ),
        ] {
            let endpoint =
                Endpoint::parse(url, "bkt", asked).unwrap_or_else(|e| panic!("{url}: {e}"));
            let found = (
                endpoint.dialled.as_str(),
                endpoint.port,
                endpoint.host.as_str(),
                endpoint.path(Some("a")),
                endpoint.tls,
            );
            assert_eq!(found, (dialled, port, host, path.to_owned(), tls), "{url}");
        }
        let endpoint = Endpoint::parse("http://h", "bkt", None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(endpoint.path(None), "/bkt/");
        assert_eq!(endpoint.path(Some("a b/c")), "/bkt/a%20b/c");
    }

    #[test]
    fn urls_of_something_else_are_refused() {
        for url in [
            "",
            "127.0.0.1:9000",
            "ftp://h",
            "http://",
            "http://h/path",
            "http://h/?query",
            "http://user@h",
            "http://h:99999",
        ] {
            assert!(Endpoint::parse(url, "bkt", None).is_err(), "{url}");
        }
        let hosted = Some(Addressing::VirtualHosted);
        assert!(Endpoint::parse("http://127.0.0.1", "bkt", hosted).is_err());
        for bucket in ["", "ab", "A", "a/b", "a b"] {
            assert!(
                Endpoint::parse("http://h", bucket, None).is_err(),
                "{bucket}"
            );
        }
    }
}
