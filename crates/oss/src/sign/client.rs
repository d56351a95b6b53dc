//! Signs requests as the SDKs do. For raw clients in tests and benchmarks; the server only verifies.

use std::fmt;

use granary_types::Timestamp;
use http::{HeaderMap, HeaderValue, Method};

use super::{SECURITY_TOKEN_HEADER, SignedRequest, header_names, v1, v2, v4};
use crate::header::date::{format_basic_iso8601, format_http_date};
use crate::query::Query;

/// Keys to sign with. Its `Debug` shows the id only.
#[derive(Clone)]
pub struct Credentials {
    /// The access key id.
    pub access_key_id: String,
    /// The access key secret.
    pub access_key_secret: String,
    /// The STS token of temporary keys.
    pub security_token: Option<String>,
}

/// A request to sign: signing adds headers, or query parameters, to it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// The bucket, or `None` for the service.
    pub bucket: Option<String>,
    /// The key, or `None` for the bucket.
    pub key: Option<String>,
    /// The query.
    pub query: Query,
    /// The headers that will be sent.
    pub headers: HeaderMap,
}

impl Request {
    /// A request without query and headers.
    pub fn new(method: Method, bucket: Option<&str>, key: Option<&str>) -> Self {
        Self {
            method,
            bucket: bucket.map(str::to_owned),
            key: key.map(str::to_owned),
            query: Query::default(),
            headers: HeaderMap::new(),
        }
    }

    /// The view that verification takes.
    pub fn as_signed(&self) -> SignedRequest<'_> {
        SignedRequest {
            method: &self.method,
            bucket: self.bucket.as_deref(),
            key: self.key.as_deref().map(str::as_bytes),
            slashless: false,
            query: &self.query,
            headers: &self.headers,
        }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        // Dates, keys and tokens are ASCII; anything else is left out and will not verify.
        if let Ok(value) = HeaderValue::try_from(value) {
            self.headers.insert(name, value);
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Permanent keys.
    pub fn new(access_key_id: impl Into<String>, access_key_secret: impl Into<String>) -> Self {
        Self {
            access_key_id: access_key_id.into(),
            access_key_secret: access_key_secret.into(),
            security_token: None,
        }
    }

    /// Adds `Date` and `Authorization: OSS …`.
    pub fn sign_v1(&self, request: &mut Request, now: Timestamp) {
        let date = format_http_date(now);
        request.set("date", &date);
        if let Some(token) = &self.security_token {
            request.set(SECURITY_TOKEN_HEADER, token);
        }
        let text = v1::string_to_sign(&request.as_signed(), &date, false);
        let signature = v1::sign(&self.access_key_secret, &text);
        let value = format!("OSS {}:{signature}", self.access_key_id);
        request.set("authorization", &value);
    }

    /// Adds `OSSAccessKeyId`, `Expires` and `Signature` to the query.
    pub fn presign_v1(&self, request: &mut Request, expires_at: Timestamp) {
        if let Some(token) = &self.security_token {
            request.query.push("security-token", token);
        }
        let expires = expires_at.as_secs().to_string();
        let text = v1::string_to_sign(&request.as_signed(), &expires, false);
        request.query.push("Expires", &expires);
        request.query.push("OSSAccessKeyId", &self.access_key_id);
        request
            .query
            .push("Signature", &v1::sign(&self.access_key_secret, &text));
    }

    /// Adds `Date` and `Authorization: OSS2 …`.
    pub fn sign_v2(&self, request: &mut Request, now: Timestamp, additional: &[&str]) {
        let date = format_http_date(now);
        request.set("date", &date);
        if let Some(token) = &self.security_token {
            request.set(SECURITY_TOKEN_HEADER, token);
        }
        let additional = present(additional, &request.headers);
        let text = v2::string_to_sign(&request.as_signed(), &date, &additional);
        let mut value = format!("{} AccessKeyId:{}", v2::ALGORITHM, self.access_key_id);
        if !additional.is_empty() {
            value.push_str(",AdditionalHeaders:");
            value.push_str(&additional.join(";"));
        }
        value.push_str(",Signature:");
        value.push_str(&v2::sign(&self.access_key_secret, &text));
        request.set("authorization", &value);
    }

    /// Adds the V2 parameters to the query; the URL lives until `expires_at`.
    pub fn presign_v2(&self, request: &mut Request, expires_at: Timestamp, additional: &[&str]) {
        let expires = expires_at.as_secs().to_string();
        let additional = present(additional, &request.headers);
        let query = &mut request.query;
        if let Some(token) = &self.security_token {
            query.push(v2::SECURITY_TOKEN_PARAMETER, token);
        }
        query.push(v2::VERSION_PARAMETER, v2::ALGORITHM);
        query.push(v2::EXPIRES_PARAMETER, &expires);
        query.push(v2::ACCESS_KEY_ID_PARAMETER, &self.access_key_id);
        if !additional.is_empty() {
            query.push(v2::ADDITIONAL_HEADERS_PARAMETER, &additional.join(";"));
        }
        let text = v2::string_to_sign(&request.as_signed(), &expires, &additional);
        let signature = v2::sign(&self.access_key_secret, &text);
        request.query.push(v2::SIGNATURE_PARAMETER, &signature);
    }

    /// Adds `x-oss-date`, `x-oss-content-sha256` and `Authorization: OSS4-HMAC-SHA256 …`.
    pub fn sign_v4(
        &self,
        request: &mut Request,
        now: Timestamp,
        region: &str,
        additional: &[&str],
    ) {
        let (date_header, payload_header) = v4::HEADERS_ALWAYS_SENT;
        let date = format_basic_iso8601(now);
        request.set(date_header, &date);
        request.set(payload_header, v4::UNSIGNED_PAYLOAD);
        if let Some(token) = &self.security_token {
            request.set(SECURITY_TOKEN_HEADER, token);
        }
        let scope = scope(&date, region);
        let additional = present(additional, &request.headers);
        let signature = self.signature_v4(request, &date, &scope, &additional);
        let mut value = format!(
            "{} Credential={}/{}",
            v4::ALGORITHM,
            self.access_key_id,
            scope.to_text()
        );
        if !additional.is_empty() {
            value.push_str(",AdditionalHeaders=");
            value.push_str(&additional.join(";"));
        }
        value.push_str(",Signature=");
        value.push_str(&signature);
        request.set("authorization", &value);
    }

    /// Adds the V4 parameters to the query; the URL lives for `seconds`.
    pub fn presign_v4(
        &self,
        request: &mut Request,
        now: Timestamp,
        seconds: u64,
        region: &str,
        additional: &[&str],
    ) {
        let date = format_basic_iso8601(now);
        let scope = scope(&date, region);
        let additional = present(additional, &request.headers);
        if let Some(token) = &self.security_token {
            request.query.push(SECURITY_TOKEN_HEADER, token);
        }
        request.query.push("x-oss-signature-version", v4::ALGORITHM);
        request.query.push("x-oss-date", &date);
        request.query.push("x-oss-expires", &seconds.to_string());
        request.query.push(
            "x-oss-credential",
            &format!("{}/{}", self.access_key_id, scope.to_text()),
        );
        if !additional.is_empty() {
            request
                .query
                .push("x-oss-additional-headers", &additional.join(";"));
        }
        let signature = self.signature_v4(request, &date, &scope, &additional);
        request.query.push("x-oss-signature", &signature);
    }

    fn signature_v4(
        &self,
        request: &Request,
        date: &str,
        scope: &v4::Scope,
        additional: &[String],
    ) -> String {
        let canonical = v4::canonical_request(
            &request.as_signed(),
            additional,
            v4::Spelling::AsSent,
            v4::EmptyValue::Bare,
        );
        let text = v4::string_to_sign(date, scope, &canonical);
        v4::sign(v4::signing_key(&self.access_key_secret, scope), &text)
    }
}

fn scope(date: &str, region: &str) -> v4::Scope {
    v4::Scope {
        date: date.chars().take(8).collect(),
        region: region.to_owned(),
        product: v4::PRODUCT.to_owned(),
    }
}

/// The additional headers worth listing: sent, and not signed anyway.
fn present(additional: &[&str], headers: &HeaderMap) -> Vec<String> {
    let mut names = header_names(&additional.join(";"));
    names.retain(|name| !v4::is_signed_by_default(name) && headers.contains_key(name.as_str()));
    names
}
