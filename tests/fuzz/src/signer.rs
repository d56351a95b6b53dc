//! The three signatures as the API's documentation describes them, written apart from the product's:
//! what this signs, the product must accept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_oss::sign::client::Request;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::escapes::encoded;

/// Parameters that V1 signs, of those that requests here may have.
const SIGNED_BY_V1: [&str; 9] = [
    "acl",
    "callback",
    "delete",
    "partNumber",
    "response-content-type",
    "tagging",
    "uploadId",
    "uploads",
    "versionId",
];
/// Parameters that V1 leaves out.
const LEFT_OUT_BY_V1: [&str; 7] = [
    "delimiter",
    "encoding-type",
    "list-type",
    "marker",
    "max-keys",
    "prefix",
    "start-after",
];

/// Base64 of HMAC-SHA1.
pub fn hmac_sha1(secret: &str, text: &[u8]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(text);
    STANDARD.encode(mac.finalize().into_bytes())
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The V4 signature of a string, with the key of a day and a region.
pub fn v4_of_text(secret: &str, day: &str, region: &str, text: &[u8]) -> String {
    let key = hmac_sha256(format!("aliyun_v4{secret}").as_bytes(), day.as_bytes());
    let key = hmac_sha256(&key, region.as_bytes());
    let key = hmac_sha256(&key, b"oss");
    let key = hmac_sha256(&key, b"aliyun_v4_request");
    hex(&hmac_sha256(&key, text))
}

/// `None` when the request has a parameter of which this does not know whether V1 signs it.
pub fn v1(request: &Request, secret: &str, date: &str) -> Option<String> {
    let mut parameters = Vec::new();
    for parameter in request.query.iter() {
        let (name, value) = (parameter.name(), parameter.value());
        if SIGNED_BY_V1.contains(&name) {
            if parameters.iter().any(|(other, _)| *other == name) {
                return None;
            }
            parameters.push((name, value));
        } else if !LEFT_OUT_BY_V1.contains(&name) {
            return None;
        }
    }
    parameters.sort();
    let parameters = parameters.iter().map(|(name, value)| match *value {
        "" => (*name).to_owned(),
        value => format!("{name}={value}"),
    });
    let parameters: Vec<String> = parameters.collect();
    let mut text = head_lines(request, date);
    text.extend(header_lines(request, &|name| name.starts_with("x-oss-")));
    text.extend(path(request).as_bytes());
    if !parameters.is_empty() {
        text.extend(format!("?{}", parameters.join("&")).as_bytes());
    }
    Some(hmac_sha1(secret, &text))
}

/// `additional` in lower case and sorted.
pub fn v2(request: &Request, secret: &str, date: &str, additional: &[&str]) -> String {
    let mut text = head_lines(request, date);
    text.extend(header_lines(request, &|name| {
        name.starts_with("x-oss-") || additional.contains(&name)
    }));
    text.extend(additional.join(";").as_bytes());
    text.push(b'\n');
    text.extend(encoded(path(request).as_bytes()).as_bytes());
    let query = canonical_query(request);
    if !query.is_empty() {
        text.extend(format!("?{query}").as_bytes());
    }
    STANDARD.encode(hmac_sha256(secret.as_bytes(), &text))
}

/// `additional` in lower case and sorted; `date` is `yyyymmddThhmmssZ`.
pub fn v4(
    request: &Request,
    secret: &str,
    date: &str,
    region: &str,
    additional: &[&str],
) -> String {
    let path = encoded(path(request).as_bytes()).replace("%2F", "/");
    let query = canonical_query(request);
    let mut canonical = format!("{}\n{path}\n{query}\n", request.method).into_bytes();
    canonical.extend(header_lines(request, &|name| {
        name.starts_with("x-oss-")
            || ["content-type", "content-md5"].contains(&name)
            || additional.contains(&name)
    }));
    canonical.extend(format!("\n{}\nUNSIGNED-PAYLOAD", additional.join(";")).as_bytes());
    let (day, hash) = (&date[..8], hex(&Sha256::digest(&canonical)));
    let scope = format!("{day}/{region}/oss/aliyun_v4_request");
    let text = format!("OSS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
    v4_of_text(secret, day, region, text.as_bytes())
}

fn head_lines(request: &Request, date: &str) -> Vec<u8> {
    let value = |name| request.headers.get(name).map_or(&b""[..], |v| v.as_bytes());
    let method = request.method.as_str().as_bytes();
    let (md5, kind) = (value("content-md5"), value("content-type"));
    [
        method,
        b"\n",
        md5,
        b"\n",
        kind,
        b"\n",
        date.as_bytes(),
        b"\n",
    ]
    .concat()
}

fn header_lines(request: &Request, signed: &dyn Fn(&str) -> bool) -> Vec<u8> {
    let names: std::collections::BTreeSet<&str> =
        request.headers.keys().map(|name| name.as_str()).collect();
    let mut lines = Vec::new();
    for name in names.into_iter().filter(|name| signed(name)) {
        let values: Vec<&[u8]> = request
            .headers
            .get_all(name)
            .iter()
            .map(|v| v.as_bytes())
            .collect();
        lines.extend([name.as_bytes(), b":", &values.join(&b","[..]), b"\n"].concat());
    }
    lines
}

fn path(request: &Request) -> String {
    match (&request.bucket, &request.key) {
        (None, key) => format!("/{}", key.as_deref().unwrap_or_default()),
        (Some(bucket), key) => format!("/{bucket}/{}", key.as_deref().unwrap_or_default()),
    }
}

/// Every parameter, decoded and encoded again, sorted.
fn canonical_query(request: &Request) -> String {
    let mut pairs: Vec<(String, String)> = request
        .query
        .iter()
        .map(|p| (encoded(p.name().as_bytes()), encoded(p.value().as_bytes())))
        .collect();
    pairs.sort();
    let pair = |(name, value): &(String, String)| match value.as_str() {
        "" => name.clone(),
        value => format!("{name}={value}"),
    };
    let pairs: Vec<String> = pairs.iter().map(pair).collect();
    pairs.join("&")
}
