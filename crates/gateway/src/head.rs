//! The head of a request, read once: who is addressed, with what parameters and headers. Pure.

use granary_oss::address::{Address, AddressStyle, Domains};
use granary_oss::header::text;
use granary_oss::query::{Parameter, Query};
use granary_oss::sign::SignedRequest;
use granary_oss::{ErrorCode, OssError};
use granary_types::{BucketName, ObjectKey};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version, header};

use crate::form::SignedForm;
use crate::version_id::VersionRef;

/// The head of a request.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// The path as it was sent.
    pub(crate) raw_path: String,
    pub(crate) address: Address,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// The host the client used, with its port; empty when it named none.
    pub(crate) host: String,
    /// What the form says, for an operation whose input is one.
    pub(crate) form: Option<SignedForm>,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// InvalidURI, InvalidBucketName, InvalidArgument (query), InvalidRequest (Host), NotImplemented
    /// (Transfer-Encoding).
    pub(crate) fn read(domains: &Domains, parts: Parts) -> Result<Self, OssError> {
        let host = host(&parts)?;
        check_transfer_coding(&parts.headers)?;
        let raw_path = parts.uri.path().to_owned();
        let named = Some(host.as_str()).filter(|host| !host.is_empty());
        Ok(Self {
            address: domains.resolve(named, &raw_path)?,
            query: Query::parse(parts.uri.query())?,
            raw_path,
            method: parts.method,
            headers: parts.headers,
            host,
            form: None,
        })
    }

    /// The bucket that an operation on a bucket or an object acts on.
    ///
    /// # Errors
    /// InvalidBucketName.
    pub(crate) fn bucket_name(&self) -> Result<BucketName, OssError> {
        let named = self.address.bucket_name()?;
        named.ok_or_else(|| OssError::new(ErrorCode::InvalidBucketName))
    }

    /// The object that an operation acts on.
    ///
    /// # Errors
    /// InvalidObjectName.
    pub(crate) fn object_key(&self) -> Result<ObjectKey, OssError> {
        let named = self.address.object_key()?;
        named.ok_or_else(|| OssError::new(ErrorCode::InvalidObjectName))
    }

    /// The version asked for (`versionId`).
    ///
    /// # Errors
    /// InvalidArgument for an empty id and for one that is none of ours.
    pub(crate) fn version(&self) -> Result<VersionRef, OssError> {
        VersionRef::parse(self.query.get("versionId"))
    }

    /// A header as text; `None` when absent, empty or not UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        text(&self.headers, name)
    }

    /// What signatures cover.
    pub(crate) fn signed(&self) -> SignedRequest<'_> {
        let bucket = self.address.bucket.as_deref();
        SignedRequest {
            method: &self.method,
            bucket,
            key: self.address.key.as_deref(),
            slashless: self.address.style == AddressStyle::Path
                && self.raw_path.strip_prefix('/') == bucket,
            query: &self.query,
            headers: &self.headers,
        }
    }

    /// True when the client waits for permission before it sends its body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.text("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// The endpoint the client used: its host without the bucket, below a domain. Any other host is
    /// taken as it is: that `oss.internal` begins with the name of the bucket `oss` says nothing.
    pub(crate) fn endpoint(&self) -> &str {
        match (&self.address.style, &self.address.bucket) {
            (AddressStyle::VirtualHost, Some(bucket)) => {
                self.host.get(bucket.len() + 1..).unwrap_or(&self.host)
            }
            _ => &self.host,
        }
    }

    /// Refuses headers and parameters that ask for something this version does not do: what would
    /// change the stored bytes or the answer is never ignored.
    ///
    /// # Errors
    /// NotImplemented with the name of the header or parameter.
    pub(crate) fn refuse(&self, unbuilt: &[&'static str]) -> Result<(), OssError> {
        // What is sent is looked for in the list, not the other way round: it is mostly less.
        let mut headers = self.headers.keys().map(HeaderName::as_str);
        let mut parameters = self.query.iter().map(Parameter::name);
        let header = |sent| unbuilt.iter().find(|name| name.eq_ignore_ascii_case(sent));
        let parameter = |sent| unbuilt.iter().find(|name| **name == sent);
        let found = headers.find_map(header);
        match found.or_else(|| parameters.find_map(parameter)) {
            Some(name) => Err(not_implemented(name)),
            None => Ok(()),
        }
    }
}

/// NotImplemented with the name of what is not.
pub(crate) fn not_implemented(name: &str) -> OssError {
    OssError::new(ErrorCode::NotImplemented).extra("Header", name)
}

/// Refuses bodies that come in anything but chunks (RFC 9112, section 6.1): their bytes would be
/// stored as they were coded.
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), OssError> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let known = match values.next() {
        None => true,
        Some(value) => value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked"),
    };
    match known && values.next().is_none() {
        true => Ok(()),
        false => Err(not_implemented("Transfer-Encoding")),
    }
}

/// The host of the target (absolute form) or of the header.
fn host(parts: &Parts) -> Result<String, OssError> {
    let invalid = |message: &'static str| OssError::new(ErrorCode::InvalidRequest).message(message);
    let mut values = parts.headers.get_all(header::HOST).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(invalid("The request has more than one Host header."));
    }
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.as_str().to_owned());
    }
    match value.map(|value| value.to_str()) {
        Some(Ok(host)) => Ok(host.trim().to_owned()),
        Some(Err(_)) => Err(invalid("The Host header is not valid.")),
        None if parts.version >= Version::HTTP_11 => {
            Err(invalid("The request must have a Host header."))
        }
        None => Ok(String::new()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A head as the server would read it.
    pub(crate) fn head(method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> Head {
        try_head(method, host, target, headers).unwrap()
    }

    pub(crate) fn try_head(
        method: &str,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Head, OssError> {
        let mut request = http::Request::builder().method(method).uri(target);
        if !host.is_empty() {
            request = request.header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, value.as_bytes());
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Head::read(&Domains::new(["oss.example.com"]), parts)
    }

    #[test]
    fn knows_the_endpoint_that_was_used() {
        for (host, target, endpoint, bucket) in [
            ("127.0.0.1:9000", "/bucket/k", "127.0.0.1:9000", "bucket"),
            ("bucket.localhost:9000", "/k", "localhost:9000", "bucket"),
            ("bucket.OSS.example.com", "/k", "OSS.example.com", "bucket"),
            (
                "ignored",
                "http://bucket.localhost:1/k",
                "localhost:1",
                "bucket",
            ),
            ("oss.example.com", "/bucket/k", "oss.example.com", "bucket"),
            // Named twice.
            (
                "bucket.oss.example.com",
                "/bucket/k",
                "oss.example.com",
                "bucket",
            ),
            ("bucket.localhost:1", "/bucket/k", "localhost:1", "bucket"),
            // A bucket like the first label of a host.
            ("oss.internal:9000", "/oss/k", "oss.internal:9000", "oss"),
            ("oss.example.com", "/oss/k", "oss.example.com", "oss"),
            ("oss.oss.example.com", "/k", "oss.example.com", "oss"),
            ("127.0.0.1:9000", "/127/k", "127.0.0.1:9000", "127"),
            ("[::1]:9000", "/bucket/k", "[::1]:9000", "bucket"),
        ] {
            let head = head("GET", host, target, &[]);
            assert_eq!(head.endpoint(), endpoint, "{host}{target}");
            assert_eq!(head.bucket_name().unwrap().as_str(), bucket);
        }
    }

    #[test]
    fn refuses_what_is_not_http() {
        for (host, target, headers, code) in [
            ("", "/b/k", &[][..], ErrorCode::InvalidRequest),
            (
                "h",
                "/b/k",
                &[("host", "other")][..],
                ErrorCode::InvalidRequest,
            ),
            ("h", "/b/%zz", &[][..], ErrorCode::InvalidURI),
            (
                "h",
                "/b/k",
                &[("transfer-encoding", "gzip, chunked")][..],
                ErrorCode::NotImplemented,
            ),
            (
                "h",
                "/b/k",
                &[
                    ("transfer-encoding", "gzip"),
                    ("transfer-encoding", "chunked"),
                ][..],
                ErrorCode::NotImplemented,
            ),
            ("h", "*", &[][..], ErrorCode::InvalidURI),
        ] {
            assert_eq!(
                try_head("GET", host, target, headers).unwrap_err().code(),
                code,
                "{target}"
            );
        }
    }
}
