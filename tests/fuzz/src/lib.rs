//! What the targets share: the head of a request, from the text that a fuzzer makes; what must hold of
//! every error; and simple second implementations to compare the real ones with.

pub mod escapes;
pub mod signer;

use granary_oss::address::{Address, Domains};
use granary_oss::query::Query;
use granary_oss::{OssError, render_error, xml};
use granary_types::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

/// The domain whose subdomains are buckets.
pub const DOMAIN: &str = "oss.granary.test";
/// The region that signatures are made for.
pub const REGION: &str = "cn-granary-1";
/// A time in 2026.
pub const NOW: Timestamp = Timestamp(1_767_323_045_000);
/// What nobody signs with but the targets themselves.
pub const SECRET: &str = "a secret that no corpus has";

/// Bytes of the header that carries an error where no body is allowed: the limit of common proxies.
const ERROR_HEADER_BYTES_MAX: usize = 8 * 1024;

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
    pub fn address(&self) -> Option<Address> {
        checked(domains().resolve(self.host(), self.uri.path()))
    }

    /// The query; `None` when it is refused.
    pub fn query(&self) -> Option<Query> {
        checked(Query::parse(self.uri.query()))
    }
}

/// The domains that are served.
pub fn domains() -> Domains {
    Domains::new([DOMAIN])
}

/// What was read; of an error, that it can be told to the client: its document is one and says what the
/// error says, and its header fits through proxies.
pub fn checked<T>(read: Result<T, OssError>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            check_error(&error);
            None
        }
    }
}

fn check_error(error: &OssError) {
    let document = render_error(error, "5C3D9175B6FC201293AD4890", "granary.test");
    // XML has no way to write it.
    if !contains(&document, b"&#0;") {
        let root = xml::parse(&document, "Error").expect("the document of an error is one");
        let text = |name| root.required(name).expect("every error has it").text();
        assert_eq!(text("Code"), error.code().as_str());
        assert_eq!(text("Message"), error.message_text());
        assert_eq!(text("EC"), error.ec_text());
    }
    let header = granary_oss::error::render_error_header(error, "5C3D9175B6FC201293AD4890", "h");
    assert!(header.len() <= ERROR_HEADER_BYTES_MAX, "{error:?}");
}

/// Whether bytes contain others.
pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
