//! Signature V4: HMAC-SHA256 over a canonical request, with a key bound to day, region and product.

use std::borrow::Cow;

use granary_types::{Timestamp, limits::PRESIGN_V4_SECS_MAX};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::{
    DATE_HEADER, Presented, SECURITY_TOKEN_HEADER, Scheme, SignedRequest, SigningSecret,
    canonical_headers, check_skew, expired, header_names, header_text, invalid_date,
    parse_basic_iso8601, resource, signing_time, subresources,
};
use crate::error::{OssError, ec};
use crate::error_code::ErrorCode;
use crate::escape;
use crate::header::date::format_basic_iso8601;

pub(super) const ALGORITHM: &str = "OSS4-HMAC-SHA256";
pub(super) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
pub(super) const PRODUCT: &str = "oss";
const TERMINATOR: &str = "aliyun_v4_request";
const PAYLOAD_HASH_HEADER: &str = "x-oss-content-sha256";

/// `yyyymmdd/region/product/aliyun_v4_request`, without the last part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) date: String,
    pub(super) region: String,
    pub(super) product: String,
}

impl Scope {
    pub(super) fn to_text(&self) -> String {
        [&self.date, &self.region, &self.product, TERMINATOR].join("/")
    }
}

/// Where the signature and its companions are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Header,
    Url { date: String, expires: String },
}

impl Place {
    fn name(&self) -> &'static str {
        match self {
            Self::Header => "Authorization header",
            Self::Url { .. } => "credential",
        }
    }
}

/// `Credential=…,[AdditionalHeaders=…,]Signature=…` in any order and with any white space: the
/// Python SDK writes `, ` and puts the additional headers last.
pub(super) fn parse_header(
    request: &SignedRequest<'_>,
    fields: &str,
    whole: &str,
) -> Result<Presented, OssError> {
    let invalid = |message: &'static str| {
        OssError::invalid_argument(message, "Authorization", whole).ec(ec::V4_CREDENTIAL)
    };
    let (mut credential, mut additional, mut signature) = (None, None, None);
    for field in fields
        .split(',')
        .map(str::trim)
        .filter(|field| !field.is_empty())
    {
        let (name, value) = field
            .split_once('=')
            .ok_or_else(|| invalid("Authorization header is invalid."))?;
        let slot = match name.trim() {
            "Credential" => &mut credential,
            "AdditionalHeaders" => &mut additional,
            "Signature" => &mut signature,
            _ => return Err(invalid("Authorization header is invalid.")),
        };
        if slot.replace(value.trim()).is_some() {
            return Err(invalid("Authorization header is invalid."));
        }
    }
    let credential = credential.unwrap_or_default();
    let (access_key_id, scope) = parse_credential(credential)
        .ok_or_else(|| invalid("Invalid credential in Authorization header."))?;
    let signature = signature
        .filter(|signature| !signature.is_empty())
        .ok_or_else(|| invalid("Invalid signature in Authorization header."))?;
    Ok(Presented {
        access_key_id,
        security_token: header_text(request, SECURITY_TOKEN_HEADER),
        signature: signature.to_owned(),
        scheme: Scheme::V4 {
            place: Place::Header,
            scope,
            additional: header_names(additional.unwrap_or_default()),
        },
    })
}

pub(super) fn parse_url(request: &SignedRequest<'_>) -> Result<Presented, OssError> {
    let required = |name: &'static str| {
        request.query.get_non_empty(name).ok_or_else(|| {
            OssError::invalid_argument(
                format!("The parameter {name} is required by a presigned URL."),
                name,
                "",
            )
            .ec(ec::URL_INCOMPLETE)
        })
    };
    let credential = required("x-oss-credential")?;
    let (access_key_id, scope) = parse_credential(credential).ok_or_else(|| {
        OssError::invalid_argument("The credential is invalid.", "x-oss-credential", credential)
            .ec(ec::V4_CREDENTIAL_DATE)
    })?;
    let additional = request
        .query
        .get("x-oss-additional-headers")
        .unwrap_or_default();
    Ok(Presented {
        access_key_id,
        security_token: request
            .query
            .get_non_empty(SECURITY_TOKEN_HEADER)
            .map(str::to_owned),
        signature: required("x-oss-signature")?.to_owned(),
        scheme: Scheme::V4 {
            place: Place::Url {
                date: required("x-oss-date")?.to_owned(),
                expires: required("x-oss-expires")?.to_owned(),
            },
            scope,
            additional: header_names(additional),
        },
    })
}

/// A signature with everything it was presented with.
pub(super) struct Claim<'a> {
    pub(super) presented: &'a Presented,
    pub(super) place: &'a Place,
    pub(super) scope: &'a Scope,
    pub(super) additional: &'a [String],
}

impl Claim<'_> {
    pub(super) fn verify(
        &self,
        secret: &SigningSecret,
        now: Timestamp,
        region: &str,
        request: &SignedRequest<'_>,
    ) -> Result<(), OssError> {
        self.check_payload_hash(request)?;
        let date = match self.place {
            Place::Header => {
                let signed_at = signing_time(request)?;
                check_skew(signed_at, now)?;
                format_basic_iso8601(signed_at)
            }
            Place::Url { date, expires } => {
                check_url_period(date, expires, now)?;
                date.clone()
            }
        };
        self.check_scope(&date, region)?;
        let key = secret.v4_key(self.scope);
        let mut tried: Vec<Vec<u8>> = Vec::new();
        for (spelling, empty) in FORMS {
            let canonical = canonical_request(request, self.additional, spelling, empty);
            if tried.contains(&canonical) {
                continue;
            }
            let text = string_to_sign(&date, self.scope, &canonical);
            if self.presented.matches(&sign(key.clone(), &text)) {
                return Ok(());
            }
            tried.push(canonical);
        }
        let canonical = tried.first().map(Vec::as_slice).unwrap_or_default();
        let text = string_to_sign(&date, self.scope, canonical);
        Err(self
            .presented
            .does_not_match(text.as_bytes())
            .ec(ec::V4_SIGNATURE)
            .extra("CanonicalRequest", String::from_utf8_lossy(canonical)))
    }

    fn check_payload_hash(&self, request: &SignedRequest<'_>) -> Result<(), OssError> {
        match header_text(request, PAYLOAD_HASH_HEADER) {
            Some(hash) if hash != UNSIGNED_PAYLOAD => Err(OssError::invalid_argument(
                "The header x-oss-content-sha256 must be UNSIGNED-PAYLOAD.",
                PAYLOAD_HASH_HEADER,
                hash,
            )
            .ec(ec::PAYLOAD_HASH)),
            _ => Ok(()),
        }
    }

    fn check_scope(&self, date: &str, region: &str) -> Result<(), OssError> {
        let place = self.place.name();
        let header = matches!(self.place, Place::Header);
        let argument = if header {
            "Authorization"
        } else {
            "x-oss-credential"
        };
        let invalid = |what: &str, value: &str| {
            let message = if header {
                format!("Invalid signing {what} in {place}.")
            } else {
                format!("The signing {what} in {place} is invalid.")
            };
            OssError::invalid_argument(message, argument, value)
        };
        if !date.starts_with(self.scope.date.as_str()) {
            return Err(invalid("date", &self.scope.date).ec(ec::V4_CREDENTIAL_DATE));
        }
        if self.scope.region != region {
            return Err(invalid("region", &self.scope.region).ec(ec::V4_REGION));
        }
        if self.scope.product != PRODUCT {
            return Err(invalid("product", &self.scope.product).ec(ec::V4_PRODUCT));
        }
        Ok(())
    }
}

fn check_url_period(date: &str, expires: &str, now: Timestamp) -> Result<(), OssError> {
    let signed_at = parse_basic_iso8601(date).ok_or_else(invalid_date)?;
    let seconds = expires
        .parse()
        .ok()
        .filter(|seconds| (1..=PRESIGN_V4_SECS_MAX).contains(seconds))
        .ok_or_else(|| {
            OssError::invalid_argument(
                format!("The value of x-oss-expires must be between 1 and {PRESIGN_V4_SECS_MAX}."),
                "x-oss-expires",
                expires,
            )
            .ec(ec::V4_EXPIRES)
        })?;
    // A URL made by a clock that is ahead is accepted within the usual skew.
    if signed_at > now && check_skew(signed_at, now).is_err() {
        return Err(OssError::new(ErrorCode::AccessDenied)
            .message("The request is not valid yet.")
            .ec(ec::V4_URL_NOT_YET_VALID));
    }
    let expires_at = signed_at.plus_millis(seconds.saturating_mul(1000));
    if now > expires_at {
        return Err(expired(expires_at, now));
    }
    Ok(())
}

/// `ak/yyyymmdd/region/product/aliyun_v4_request`, read from the end.
pub(super) fn parse_credential(text: &str) -> Option<(String, Scope)> {
    let mut parts = text.rsplitn(5, '/');
    let (terminator, product, region, date, id) = (
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
    );
    let date_fits = date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit());
    (terminator == TERMINATOR && date_fits && !id.is_empty()).then(|| {
        let scope = Scope {
            date: date.to_owned(),
            region: region.to_owned(),
            product: product.to_owned(),
        };
        (id.to_owned(), scope)
    })
}

/// Whether a header is signed without being listed as additional.
pub(super) fn is_signed_by_default(name: &str) -> bool {
    name.starts_with("x-oss-") || name == "content-type" || name == "content-md5"
}

/// Which spelling of the query goes into the canonical request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    AsSent,
    Canonical,
}

/// How a parameter without a value goes into the canonical request; what was sent does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmptyValue {
    /// `k`, as most SDKs sign it.
    Bare,
    /// `k=`, as ali-oss signs what its callers set to an empty string.
    Equals,
    /// `k` of a sub-resource and `k=` of the rest: ali-oss again, which sends both as `k=`.
    SubresourcesBare,
}

/// The canonical requests that a client may have signed, the documented one first. A proxy or an HTTP
/// library may re-encode the query after the client signed it (lower-case hexadecimal, a bare `/`), so
/// the decoded parameters are tried in the canonical spelling too.
const FORMS: [(Spelling, EmptyValue); 6] = [
    (Spelling::AsSent, EmptyValue::Bare),
    (Spelling::Canonical, EmptyValue::Bare),
    (Spelling::AsSent, EmptyValue::Equals),
    (Spelling::Canonical, EmptyValue::Equals),
    (Spelling::AsSent, EmptyValue::SubresourcesBare),
    (Spelling::Canonical, EmptyValue::SubresourcesBare),
];

/// The canonical request. `additional` is lower-case and sorted.
pub(super) fn canonical_request(
    request: &SignedRequest<'_>,
    additional: &[String],
    spelling: Spelling,
    empty: EmptyValue,
) -> Vec<u8> {
    let mut canonical = Vec::with_capacity(512);
    let mut line = |bytes: &[u8]| {
        canonical.extend_from_slice(bytes);
        canonical.push(b'\n');
    };
    line(request.method.as_str().as_bytes());
    line(escape::encode_path(&resource(request)).as_bytes());
    line(canonical_query(request, spelling, empty).as_bytes());
    line(&canonical_headers(request.headers, |name| {
        is_signed_by_default(name) || additional.iter().any(|listed| listed == name)
    }));
    line(additional.join(";").as_bytes());
    let hash = header_text(request, PAYLOAD_HASH_HEADER);
    canonical.extend_from_slice(hash.as_deref().unwrap_or(UNSIGNED_PAYLOAD).as_bytes());
    canonical
}

fn canonical_query(request: &SignedRequest<'_>, spelling: Spelling, empty: EmptyValue) -> String {
    let parameters = request
        .query
        .iter()
        .filter(|p| p.name() != "x-oss-signature");
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>, bool)> = parameters
        .map(|p| {
            let (name, value) = match spelling {
                Spelling::AsSent => (without_plus(p.raw_name()), without_plus(p.raw_value())),
                Spelling::Canonical => (
                    escape::encode(p.name().as_bytes()).into(),
                    escape::encode(p.value().as_bytes()).into(),
                ),
            };
            let bare = match empty {
                EmptyValue::Bare => true,
                EmptyValue::Equals => false,
                EmptyValue::SubresourcesBare => subresources::is_signed(p.name(), false),
            };
            let has_sign = !bare || !value.is_empty();
            (name, value, has_sign)
        })
        .collect();
    pairs.sort_unstable();
    let length = pairs
        .iter()
        .map(|(name, value, _)| name.len() + value.len() + 2);
    let mut query = String::with_capacity(length.sum());
    for (name, value, has_sign) in pairs {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(&name);
        if has_sign {
            query.push('=');
            query.push_str(&value);
        }
    }
    query
}

/// A space as `%20`, where it was sent as `+`.
fn without_plus(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte == b'+') {
        true => text.replace('+', "%20").into(),
        false => text.into(),
    }
}

/// The string that V4 signs; `date` is `yyyymmddThhmmssZ`.
pub(super) fn string_to_sign(date: &str, scope: &Scope, canonical: &[u8]) -> String {
    let hash = hexadecimal(&Sha256::digest(canonical).into());
    [ALGORITHM, date, &scope.to_text(), &hash].join("\n")
}

/// The key of a scope, ready to sign with.
pub(super) type SigningKey = Hmac<Sha256>;

/// Derives the key of a scope from a secret.
pub(super) fn signing_key(secret: &str, scope: &Scope) -> SigningKey {
    let first = keyed(format!("aliyun_v4{secret}").as_bytes());
    let parts = [&scope.date, &scope.region, &scope.product, TERMINATOR];
    parts.into_iter().fold(first, |mac, part| {
        keyed(&mac.chain_update(part).finalize().into_bytes())
    })
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length")
}

/// The signature of a string: lower-case hexadecimal.
pub(super) fn sign(key: SigningKey, string_to_sign: &str) -> String {
    hexadecimal(
        &key.chain_update(string_to_sign)
            .finalize()
            .into_bytes()
            .into(),
    )
}

/// Lower case. In one piece: `hex::encode` pushes digit by digit.
fn hexadecimal(digest: &[u8; 32]) -> String {
    let mut digits = vec![0; 2 * digest.len()];
    hex::encode_to_slice(digest, &mut digits).expect("two digits for each byte");
    String::from_utf8(digits).expect("digits are ASCII")
}

/// The header that carries the signing time, and the one that carries the payload hash.
pub(super) const HEADERS_ALWAYS_SENT: (&str, &str) = (DATE_HEADER, PAYLOAD_HASH_HEADER);
