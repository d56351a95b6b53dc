//! Where a callback goes, and what is signed of it.

use http::Uri;

use crate::escape;

/// One application server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackUrl {
    /// Whether the connection is secured (`https`).
    pub tls: bool,
    /// The server's name or address; an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Host and port as the URL spells them.
    pub authority: String,
    /// The path, still percent-encoded.
    pub path: String,
    /// The query with its `?`, or nothing.
    pub query: String,
}

impl CallbackUrl {
    /// Reads a URL; `http://` may be left out. `None` when it is none, or has a user name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let with_scheme = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = with_scheme.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        let text = authority.as_str();
        if text.contains('@') {
            return None;
        }
        let host = authority.host();
        let after_host = text.get(host.len()..)?;
        let port = match after_host.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if !after_host.is_empty() => return None,
            None if tls => 443,
            None => 80,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let path = Some(uri.path())
            .filter(|path| !path.is_empty())
            .unwrap_or("/");
        (!host.is_empty()).then(|| Self {
            tls,
            host: host.to_owned(),
            port,
            authority: text.to_owned(),
            path: path.to_owned(),
            query: uri
                .query()
                .map(|query| format!("?{query}"))
                .unwrap_or_default(),
        })
    }

    /// Path and query, as the request line has them.
    pub fn target(&self) -> String {
        format!("{}{}", self.path, self.query)
    }

    /// What is signed: the decoded path, the query as it is, a line feed and the body.
    pub fn string_to_sign(&self, body: &[u8]) -> Vec<u8> {
        let path = escape::decode(&self.path).unwrap_or_else(|| self.path.as_bytes().to_vec());
        [path.as_slice(), self.query.as_bytes(), b"\n", body].concat()
    }
}
