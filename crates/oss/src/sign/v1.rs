//! Signature V1: `base64(HMAC-SHA1(secret, verb, md5, type, date, x-oss-* headers, resource))`.
//!
//! Clients disagree in three places, so a signature is accepted when it matches one of a few strings:
//! the covered query parameters (the union list, or that and every `x-oss-*`: go v2), the date line
//! (`x-oss-date`, which python and java v2 put there, or `Date`, as go v2 does), and the resource of a
//! path that ends with the bucket's name (`/bucket/`, or `/bucket` as it is sent: OpenDAL). Both dates
//! and all listed parameters are covered by each string, and no other request has the resource
//! `/bucket`, so accepting several weakens nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_types::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use super::{
    Presented, SECURITY_TOKEN_HEADER, Scheme, SignedRequest, canonical_headers, check_expiry,
    check_skew, date_lines, header_text, resource, signing_time, subresources,
};
use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;

pub(super) fn parse_header(
    request: &SignedRequest<'_>,
    fields: &str,
    whole: &str,
) -> Result<Presented, OssError> {
    match fields
        .split_once(':')
        .map(|(id, signature)| (id.trim(), signature.trim()))
    {
        Some((id, signature)) if !id.is_empty() && !signature.is_empty() => Ok(Presented {
            access_key_id: id.to_owned(),
            // java v2 sends the token in a header of the V1 URL parameter's name.
            security_token: header_text(request, SECURITY_TOKEN_HEADER)
                .or_else(|| header_text(request, "security-token")),
            signature: signature.to_owned(),
            scheme: Scheme::V1Header,
        }),
        _ => Err(OssError::invalid_argument(
            "Authorization header is invalid.",
            "Authorization",
            whole,
        )
        .ec(ec::V1_AUTHORIZATION_FORMAT)),
    }
}

pub(super) fn parse_url(request: &SignedRequest<'_>) -> Result<Presented, OssError> {
    let parameter = |name| request.query.get_non_empty(name);
    match (parameter("OSSAccessKeyId"), parameter("Expires"), parameter("Signature")) {
        (Some(id), Some(expires), Some(signature)) => Ok(Presented {
            access_key_id: id.to_owned(),
            security_token: parameter("security-token").map(str::to_owned),
            signature: signature.to_owned(),
            scheme: Scheme::V1Url { expires: expires.to_owned() },
        }),
        _ => Err(OssError::new(ErrorCode::AccessDenied)
            .message(
                "Query-string authentication requires the Signature, Expires and OSSAccessKeyId parameters.",
            )
            .ec(ec::URL_INCOMPLETE)),
    }
}

pub(super) fn verify_header(
    presented: &Presented,
    secret: &str,
    now: Timestamp,
    request: &SignedRequest<'_>,
) -> Result<(), OssError> {
    check_skew(signing_time(request)?, now)?;
    verify_any(presented, secret, request, &date_lines(request))
}

/// The expiry is checked before the signature; the `Date` header plays no part.
pub(super) fn verify_url(
    presented: &Presented,
    expires: &str,
    secret: &str,
    now: Timestamp,
    request: &SignedRequest<'_>,
) -> Result<(), OssError> {
    check_expiry(expires, now)?;
    verify_any(presented, secret, request, &[expires.to_owned()])
}

fn verify_any(
    presented: &Presented,
    secret: &str,
    request: &SignedRequest<'_>,
    date_lines: &[String],
) -> Result<(), OssError> {
    let mut resources = vec![resource(request)];
    if let (true, Some(bucket)) = (request.slashless, request.bucket) {
        resources.push(format!("/{bucket}").into_bytes());
    }
    let mut first = None;
    for resource in &resources {
        for date_line in date_lines {
            for all_x_oss in [false, true] {
                let candidate = string_of(request, resource, date_line, all_x_oss);
                if presented.matches(&sign(secret, &candidate)) {
                    return Ok(());
                }
                first.get_or_insert(candidate);
            }
        }
    }
    Err(presented.does_not_match(&first.unwrap_or_default()))
}

/// The string that V1 signs. `date_line` is a date, or the expiry of a URL.
pub(super) fn string_to_sign(
    request: &SignedRequest<'_>,
    date_line: &str,
    all_x_oss: bool,
) -> Vec<u8> {
    string_of(request, &resource(request), date_line, all_x_oss)
}

fn string_of(
    request: &SignedRequest<'_>,
    resource: &[u8],
    date_line: &str,
    all_x_oss: bool,
) -> Vec<u8> {
    let value = |name| {
        request
            .headers
            .get(name)
            .map(|v| v.as_bytes().trim_ascii())
            .unwrap_or_default()
    };
    let mut text = Vec::with_capacity(256);
    for line in [
        request.method.as_str().as_bytes(),
        value("content-md5"),
        value("content-type"),
        date_line.as_bytes(),
    ] {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend(canonical_headers(request.headers, |name| {
        name.starts_with("x-oss-")
    }));
    text.extend_from_slice(resource);
    let mut covered: Vec<(&str, &str)> = Vec::new();
    for parameter in request.query.iter() {
        let (name, value) = (parameter.name(), parameter.value());
        let seen = covered.iter().any(|(other, _)| *other == name);
        if !seen && subresources::is_signed(name, all_x_oss) {
            covered.push((name, value));
        }
    }
    covered.sort_unstable();
    for (index, (name, value)) in covered.into_iter().enumerate() {
        text.push(if index == 0 { b'?' } else { b'&' });
        text.extend_from_slice(name.as_bytes());
        if !value.is_empty() {
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
        }
    }
    text
}

/// The signature of a string: base64 of HMAC-SHA1.
pub(super) fn sign(secret: &str, string_to_sign: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes any key length");
    mac.update(string_to_sign);
    STANDARD.encode(mac.finalize().into_bytes())
}
