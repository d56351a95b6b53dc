//! Signature V2: `base64(HMAC-SHA256(secret, verb, md5, type, date, headers, names, resource))`.
//!
//! What V1 leaves open is covered here: every query parameter, and the headers that the client
//! lists as additional ones. The resource is percent-encoded as a whole, its slashes too. The date
//! line is `x-oss-date` or `Date`, as under V1; both are covered when both are sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_types::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{
    Presented, SECURITY_TOKEN_HEADER, Scheme, SignedRequest, canonical_headers, check_expiry,
    check_skew, date_lines, header_names, header_text, resource, signing_time,
};
use crate::error::{OssError, ec};
use crate::escape;

pub(super) const ALGORITHM: &str = "OSS2";
pub(super) const VERSION_PARAMETER: &str = "x-oss-signature-version";
pub(super) const EXPIRES_PARAMETER: &str = "x-oss-expires";
pub(super) const ACCESS_KEY_ID_PARAMETER: &str = "x-oss-access-key-id";
pub(super) const ADDITIONAL_HEADERS_PARAMETER: &str = "x-oss-additional-headers";
pub(super) const SIGNATURE_PARAMETER: &str = "x-oss-signature";
/// A URL's token has the name it has under V1.
pub(super) const SECURITY_TOKEN_PARAMETER: &str = "security-token";

/// Where the signature and its companions are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Header,
    Url { expires: String },
}

/// `AccessKeyId:…[,AdditionalHeaders:…],Signature:…` in any order; Java writes `, ` between them.
pub(super) fn parse_header(
    request: &SignedRequest<'_>,
    fields: &str,
    whole: &str,
) -> Result<Presented, OssError> {
    let invalid = |message: &'static str, ec: &'static str| {
        OssError::invalid_argument(message, "Authorization", whole).ec(ec)
    };
    let (mut id, mut additional, mut signature) = (None, None, None);
    let mut pairs = 0;
    for field in fields
        .split(',')
        .map(str::trim)
        .filter(|field| !field.is_empty())
    {
        pairs += 1;
        let unknown = || invalid("Authorization header is invalid.", ec::V2_UNKNOWN_FIELD);
        let (name, value) = field.split_once(':').ok_or_else(unknown)?;
        let slot = match name.trim() {
            "AccessKeyId" => &mut id,
            "AdditionalHeaders" => &mut additional,
            "Signature" => &mut signature,
            _ => return Err(unknown()),
        };
        if slot.replace(value.trim()).is_some() {
            return Err(unknown());
        }
    }
    if pairs < 2 {
        return Err(invalid(
            "Authorization header is invalid.",
            ec::V2_AUTHORIZATION_FORMAT,
        ));
    }
    let id = id.ok_or_else(|| {
        invalid(
            "The AccessKeyId field is missing in the Authorization header.",
            ec::V2_ACCESS_KEY_ID_MISSING,
        )
    })?;
    if id.is_empty() {
        return Err(invalid(
            "The AccessKeyId field in the Authorization header is empty.",
            ec::V2_ACCESS_KEY_ID_EMPTY,
        ));
    }
    let signature = signature.filter(|s| !s.is_empty()).ok_or_else(|| {
        invalid(
            "The Signature field is missing in the Authorization header.",
            ec::V2_SIGNATURE_MISSING,
        )
    })?;
    Ok(Presented {
        access_key_id: id.to_owned(),
        security_token: header_text(request, SECURITY_TOKEN_HEADER),
        signature: signature.to_owned(),
        scheme: Scheme::V2 {
            place: Place::Header,
            additional: header_names(additional.unwrap_or_default()),
        },
    })
}

pub(super) fn parse_url(request: &SignedRequest<'_>) -> Result<Presented, OssError> {
    let required = |name: &'static str, missing: &'static str, empty: &'static str| {
        let value = request.query.get(name);
        value.filter(|value| !value.is_empty()).ok_or_else(|| {
            OssError::invalid_argument(
                format!("The parameter {name} is required by a presigned URL."),
                name,
                "",
            )
            .ec(if value.is_some() { empty } else { missing })
        })
    };
    let expires = required(
        EXPIRES_PARAMETER,
        ec::V2_URL_EXPIRES_MISSING,
        ec::V2_URL_EXPIRES_MISSING,
    )?;
    let id = required(
        ACCESS_KEY_ID_PARAMETER,
        ec::V2_URL_ACCESS_KEY_ID_MISSING,
        ec::V2_URL_ACCESS_KEY_ID_EMPTY,
    )?;
    let signature = required(
        SIGNATURE_PARAMETER,
        ec::URL_INCOMPLETE,
        ec::V2_URL_SIGNATURE_EMPTY,
    )?;
    let additional = request.query.get(ADDITIONAL_HEADERS_PARAMETER);
    Ok(Presented {
        access_key_id: id.to_owned(),
        security_token: request
            .query
            .get_non_empty(SECURITY_TOKEN_PARAMETER)
            .map(str::to_owned),
        signature: signature.to_owned(),
        scheme: Scheme::V2 {
            place: Place::Url {
                expires: expires.to_owned(),
            },
            additional: header_names(additional.unwrap_or_default()),
        },
    })
}

/// A header is bound to the clock; a URL's expiry is checked before its signature, and its `Date`
/// header plays no part.
pub(super) fn verify(
    presented: &Presented,
    place: &Place,
    additional: &[String],
    secret: &str,
    now: Timestamp,
    request: &SignedRequest<'_>,
) -> Result<(), OssError> {
    let lines = match place {
        Place::Header => {
            check_skew(signing_time(request)?, now)?;
            date_lines(request)
        }
        Place::Url { expires } => {
            check_expiry(expires, now)?;
            vec![expires.clone()]
        }
    };
    let mut first = None;
    for date_line in &lines {
        let candidate = string_to_sign(request, date_line, additional);
        if presented.matches(&sign(secret, &candidate)) {
            return Ok(());
        }
        first.get_or_insert(candidate);
    }
    Err(presented.does_not_match(&first.unwrap_or_default()))
}

/// The string that V2 signs. `date_line` is a date, or the expiry of a URL; `additional` is
/// lower-case and sorted.
pub(super) fn string_to_sign(
    request: &SignedRequest<'_>,
    date_line: &str,
    additional: &[String],
) -> Vec<u8> {
    let value = |name| {
        request
            .headers
            .get(name)
            .map(|v| v.as_bytes().trim_ascii())
            .unwrap_or_default()
    };
    let mut text = Vec::with_capacity(512);
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
        name.starts_with("x-oss-") || additional.iter().any(|listed| listed == name)
    }));
    text.extend_from_slice(additional.join(";").as_bytes());
    text.push(b'\n');
    text.extend_from_slice(escape::encode(&resource(request)).as_bytes());
    let mut covered: Vec<(String, String)> = request
        .query
        .iter()
        .filter(|parameter| parameter.name() != SIGNATURE_PARAMETER)
        .map(|parameter| {
            let encoded = |text: &str| escape::encode(text.as_bytes());
            (encoded(parameter.name()), encoded(parameter.value()))
        })
        .collect();
    covered.sort_unstable();
    for (index, (name, value)) in covered.iter().enumerate() {
        text.push(if index == 0 { b'?' } else { b'&' });
        text.extend_from_slice(name.as_bytes());
        if !value.is_empty() {
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
        }
    }
    text
}

/// The signature of a string: base64 of HMAC-SHA256.
pub(super) fn sign(secret: &str, string_to_sign: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes any key length");
    mac.update(string_to_sign);
    STANDARD.encode(mac.finalize().into_bytes())
}
