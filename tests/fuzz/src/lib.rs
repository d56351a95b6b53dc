//! What the targets share: the head of a request, from the text that a fuzzer makes.

use granary_oss::address::Domains;
use granary_oss::query::Query;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

/// The domain whose subdomains are buckets.
pub const DOMAIN: &str = "oss.granary.test";

/// The head of a request as the server gets it from its HTTP library.
pub struct Head {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// The headers, `Host` among them.
    pub headers: HeaderMap,
}

impl Head {
    /// Reads `METHOD TARGET`, then a header a line; `None` for what the HTTP library refuses itself.
    pub fn read(data: &[u8]) -> Option<Self> {
        let mut lines = data.split(|&byte| byte == b'\n');
        let first = std::str::from_utf8(lines.next()?).ok()?;
        let (method, target) = first.split_once(' ')?;
        let mut headers = HeaderMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let name = HeaderName::from_bytes(name).ok()?;
            headers.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        Some(Self {
            method: Method::from_bytes(method.as_bytes()).ok()?,
            uri: target.parse().ok()?,
            headers,
        })
    }

    /// The host that is named, as text.
    pub fn host(&self) -> Option<&str> {
        self.headers.get("host")?.to_str().ok()
    }

    /// Bucket and key as they are addressed, both decoded; `None` when the address is refused.
    pub fn address(&self) -> Option<granary_oss::address::Address> {
        let domains = Domains::new([DOMAIN]);
        domains.resolve(self.host(), self.uri.path()).ok()
    }

    /// The query; `None` when it is refused.
    pub fn query(&self) -> Option<Query> {
        Query::parse(self.uri.query()).ok()
    }
}
