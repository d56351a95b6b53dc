//! Request signatures: V1 (HMAC-SHA1), V2 and V4 (HMAC-SHA256), each in a header or in the URL.
//!
//! Reading is apart from verifying, because the secret is looked up in between:
//! [`parse_authorization`] says who claims to have signed, [`Presented::verify`] whether they did.
//! This module must not know where secrets are stored or what a caller may do.
//!
//! Decisions where the service is not documented:
//! - A V2 URL without all of its parameters is answered with InvalidArgument, as a V4 URL is.
//! - Any `Authorization` header is an attempt to sign; it is never treated as anonymous.
//! - The region, product and date of a V4 scope are checked before the signature and answered with
//!   InvalidArgument, as the Python SDK's tests expect for the region.
//! - `x-oss-content-sha256` may only say UNSIGNED-PAYLOAD: a hash that nobody checks is a lie.

pub mod client;
pub mod post_policy;
mod secret;
mod subresources;
mod v1;
mod v2;
mod v4;

use std::fmt;

use granary_types::{Timestamp, limits::CLOCK_SKEW_MS_MAX};
use http::{HeaderMap, Method, header};
use subtle::ConstantTimeEq as _;

use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;
use crate::header::date::{format_iso8601, parse_http_date};
use crate::query::Query;

pub use secret::SigningSecret;

pub(crate) const SECURITY_TOKEN_HEADER: &str = "x-oss-security-token";
pub(crate) const DATE_HEADER: &str = "x-oss-date";

/// The parts of a request that signatures cover, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// The HTTP method.
    pub method: &'a Method,
    /// The bucket as the client spelled it ([`crate::address::Address::bucket`]).
    pub bucket: Option<&'a str>,
    /// The decoded key ([`crate::address::Address::key`]).
    pub key: Option<&'a [u8]>,
    /// Whether the path ends with the bucket's name: `/bucket`, without the slash behind it.
    pub slashless: bool,
    /// The query, raw and decoded.
    pub query: &'a Query,
    /// The request headers.
    pub headers: &'a HeaderMap,
}

/// Version and place of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureKind {
    /// `Authorization: OSS ak:signature`.
    V1Header,
    /// `OSSAccessKeyId`, `Expires` and `Signature` in the query.
    V1Url,
    /// `Authorization: OSS2 AccessKeyId:…`.
    V2Header,
    /// `x-oss-access-key-id`, `x-oss-signature` and their companions in the query.
    V2Url,
    /// `Authorization: OSS4-HMAC-SHA256 Credential=…`.
    V4Header,
    /// `x-oss-credential`, `x-oss-signature` and their companions in the query.
    V4Url,
}

impl SignatureKind {
    /// True for presigned URLs.
    pub fn is_url(self) -> bool {
        matches!(self, Self::V1Url | Self::V2Url | Self::V4Url)
    }

    /// A label for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1Header => "v1_header",
            Self::V1Url => "v1_url",
            Self::V2Header => "v2_header",
            Self::V2Url => "v2_url",
            Self::V4Header => "v4_header",
            Self::V4Url => "v4_url",
        }
    }
}

/// A signature as presented, read but not verified. Its `Debug` shows neither token nor signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented {
    access_key_id: String,
    security_token: Option<String>,
    signature: String,
    scheme: Scheme,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Scheme {
    V1Header,
    V1Url {
        expires: String,
    },
    V2 {
        place: v2::Place,
        additional: Vec<String>,
    },
    V4 {
        place: v4::Place,
        scope: v4::Scope,
        additional: Vec<String>,
    },
}

/// Finds and reads the signature of a request; `None` for an anonymous one.
///
/// # Errors
/// InvalidArgument for signatures that are malformed, of an unknown kind, or in two places;
/// AccessDenied for an incomplete V1 URL.
pub fn parse_authorization(request: &SignedRequest<'_>) -> Result<Option<Presented>, OssError> {
    let header = request.headers.get(header::AUTHORIZATION);
    let v1_url = ["OSSAccessKeyId", "Signature", "Expires"]
        .iter()
        .any(|p| request.query.contains(p));
    let later_url = [
        "x-oss-signature-version",
        "x-oss-signature",
        "x-oss-credential",
        "x-oss-access-key-id",
    ]
    .iter()
    .any(|p| request.query.contains(p));
    match (header, v1_url, later_url) {
        (None, false, false) => Ok(None),
        (Some(value), false, false) => parse_header(request, value.as_bytes()).map(Some),
        (None, true, false) => v1::parse_url(request).map(Some),
        (None, false, true) => parse_later_url(request).map(Some),
        _ => Err(OssError::new(ErrorCode::InvalidArgument)
            .message("Only one authentication mechanism is allowed: signatures were found in more than one place.")
            .ec(ec::TWO_SIGNATURES)),
    }
}

fn parse_header(request: &SignedRequest<'_>, value: &[u8]) -> Result<Presented, OssError> {
    let text = String::from_utf8_lossy(value);
    let text = text.trim();
    let (scheme, fields) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match scheme {
        "OSS" => v1::parse_header(request, fields.trim(), text),
        v4::ALGORITHM => v4::parse_header(request, fields.trim(), text),
        v2::ALGORITHM => v2::parse_header(request, fields.trim(), text),
        other => Err(unsupported_scheme(other)),
    }
}

fn parse_later_url(request: &SignedRequest<'_>) -> Result<Presented, OssError> {
    match request.query.get("x-oss-signature-version") {
        Some(v4::ALGORITHM) => v4::parse_url(request),
        Some(v2::ALGORITHM) => v2::parse_url(request),
        other => Err(unsupported_scheme(other.unwrap_or_default())),
    }
}

impl Presented {
    /// Who claims to have signed.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The STS token that goes with temporary keys.
    pub fn security_token(&self) -> Option<&str> {
        self.security_token.as_deref()
    }

    /// Version and place of the signature.
    pub fn kind(&self) -> SignatureKind {
        match &self.scheme {
            Scheme::V1Header => SignatureKind::V1Header,
            Scheme::V1Url { .. } => SignatureKind::V1Url,
            Scheme::V2 {
                place: v2::Place::Header,
                ..
            } => SignatureKind::V2Header,
            Scheme::V2 {
                place: v2::Place::Url { .. },
                ..
            } => SignatureKind::V2Url,
            Scheme::V4 {
                place: v4::Place::Header,
                ..
            } => SignatureKind::V4Header,
            Scheme::V4 {
                place: v4::Place::Url { .. },
                ..
            } => SignatureKind::V4Url,
        }
    }

    /// Verifies time and signature; `region` is the id that V4 clients sign with (`cn-hangzhou`).
    ///
    /// # Errors
    /// AccessDenied for a missing or unreadable date and for an expired URL, RequestTimeTooSkewed,
    /// InvalidArgument for a V4 scope that is not ours, SignatureDoesNotMatch with what we signed.
    pub fn verify(
        &self,
        secret: &SigningSecret,
        now: Timestamp,
        region: &str,
        request: &SignedRequest<'_>,
    ) -> Result<(), OssError> {
        let text = secret.expose();
        match &self.scheme {
            Scheme::V1Header => v1::verify_header(self, text, now, request),
            Scheme::V1Url { expires } => v1::verify_url(self, expires, text, now, request),
            Scheme::V2 { place, additional } => {
                v2::verify(self, place, additional, text, now, request)
            }
            Scheme::V4 {
                place,
                scope,
                additional,
            } => {
                let claim = v4::Claim {
                    presented: self,
                    place,
                    scope,
                    additional,
                };
                claim.verify(secret, now, region, request)
            }
        }
    }

    fn matches(&self, computed: &str) -> bool {
        self.signature.as_bytes().ct_eq(computed.as_bytes()).into()
    }

    fn does_not_match(&self, string_to_sign: &[u8]) -> OssError {
        let spaced: Vec<String> = string_to_sign
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        OssError::new(ErrorCode::SignatureDoesNotMatch)
            .extra("OSSAccessKeyId", self.access_key_id.as_str())
            .extra("SignatureProvided", self.signature.as_str())
            .extra("StringToSign", String::from_utf8_lossy(string_to_sign))
            .extra("StringToSignBytes", spaced.join(" "))
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("access_key_id", &self.access_key_id)
            .field("kind", &self.kind())
            .finish_non_exhaustive()
    }
}

/// The time a header signature was made: `x-oss-date` (which the SDKs prefer) or `Date`.
fn signing_time(request: &SignedRequest<'_>) -> Result<Timestamp, OssError> {
    let value = header_text(request, DATE_HEADER).or_else(|| header_text(request, "date"));
    let Some(value) = value else {
        return Err(invalid_date().ec(ec::DATE_MISSING));
    };
    parse_basic_iso8601(&value)
        .or_else(|| parse_http_date(&value))
        .ok_or_else(invalid_date)
}

/// The dates that a V1 or V2 header may have signed, as they were sent.
fn date_lines(request: &SignedRequest<'_>) -> Vec<String> {
    let mut lines: Vec<String> = [DATE_HEADER, "date"]
        .iter()
        .filter_map(|name| header_text(request, name))
        .collect();
    lines.dedup();
    lines
}

fn invalid_date() -> OssError {
    OssError::new(ErrorCode::AccessDenied)
        .message("OSS authentication requires a valid Date.")
        .ec(ec::DATE_INVALID)
}

fn check_skew(signed_at: Timestamp, now: Timestamp) -> Result<(), OssError> {
    if signed_at.as_millis().abs_diff(now.as_millis()) <= CLOCK_SKEW_MS_MAX {
        return Ok(());
    }
    Err(OssError::new(ErrorCode::RequestTimeTooSkewed)
        .extra("MaxAllowedSkewMilliseconds", CLOCK_SKEW_MS_MAX.to_string())
        .extra("RequestTime", format_iso8601(signed_at))
        .extra("ServerTime", format_iso8601(now)))
}

/// Checks the expiry of a V1 or V2 URL, in seconds since 1970; anything before it is in time.
fn check_expiry(expires: &str, now: Timestamp) -> Result<(), OssError> {
    let seconds: u64 = expires.parse().map_err(|_| {
        OssError::new(ErrorCode::AccessDenied)
            .message(format!(
                "Invalid date (should be seconds since epoch): {expires}"
            ))
            .ec(ec::URL_EXPIRES_INVALID)
    })?;
    let expires_at = Timestamp(seconds.saturating_mul(1000));
    if now > expires_at {
        return Err(expired(expires_at, now));
    }
    Ok(())
}

fn expired(expires_at: Timestamp, now: Timestamp) -> OssError {
    OssError::new(ErrorCode::AccessDenied)
        .message("Request has expired.")
        .ec(ec::URL_EXPIRED)
        .extra("Expires", format_iso8601(expires_at))
        .extra("ServerTime", format_iso8601(now))
}

fn unsupported_scheme(scheme: &str) -> OssError {
    OssError::invalid_argument(
        "Unsupported signature version: use OSS (V1), OSS2 (V2) or OSS4-HMAC-SHA256 (V4).",
        "Authorization",
        scheme,
    )
    .ec(ec::UNKNOWN_SCHEME)
}

/// The first value of a header as text, trimmed; `None` when absent or empty.
fn header_text(request: &SignedRequest<'_>, name: &str) -> Option<String> {
    let value = String::from_utf8_lossy(request.headers.get(name)?.as_bytes())
        .trim()
        .to_owned();
    Some(value).filter(|value| !value.is_empty())
}

/// Lower case, sorted, each once: the form in which clients sign the list.
fn header_names(list: &str) -> Vec<String> {
    let mut names: Vec<String> = list
        .split(';')
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// `yyyymmddThhmmssZ`.
fn parse_basic_iso8601(text: &str) -> Option<Timestamp> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    if date.len() != 8 || clock.len() != 6 {
        return None;
    }
    let number = |text: &str, from: usize, to: usize| -> Option<u32> {
        let digits = text.get(from..to)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    crate::header::date::timestamp(
        number(date, 0, 4)?,
        number(date, 4, 6)?,
        number(date, 6, 8)?,
        (
            number(clock, 0, 2)?,
            number(clock, 2, 4)?,
            number(clock, 4, 6)?,
        ),
    )
}

/// The headers that a canonical request carries, lower case and sorted: `name:value\n`, values
/// trimmed, several values of one name joined with `,`. Values are bytes: the Python SDK signs
/// and sends UTF-8.
fn canonical_headers(headers: &HeaderMap, include: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut names: Vec<&str> = headers
        .keys()
        .map(|n| n.as_str())
        .filter(|n| include(n))
        .collect();
    names.sort_unstable();
    let mut lines = Vec::with_capacity(64 * names.len());
    for name in names {
        lines.extend_from_slice(name.as_bytes());
        lines.push(b':');
        for (index, value) in headers.get_all(name).iter().enumerate() {
            if index > 0 {
                lines.push(b',');
            }
            lines.extend_from_slice(value.as_bytes().trim_ascii());
        }
        lines.push(b'\n');
    }
    lines
}

/// `/bucket/key`, `/bucket/` or `/`: the resource as all versions name it, whatever the style.
fn resource(request: &SignedRequest<'_>) -> Vec<u8> {
    let key = request.key.unwrap_or_default();
    let length = 2 + request.bucket.map_or(0, str::len) + key.len();
    let mut resource = Vec::with_capacity(length);
    resource.push(b'/');
    if let Some(bucket) = request.bucket {
        resource.extend_from_slice(bucket.as_bytes());
        resource.push(b'/');
    }
    resource.extend_from_slice(key);
    resource
}

#[cfg(test)]
mod tests;
