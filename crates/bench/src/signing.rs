//! Signs requests as the SDKs of a dialect do, each anew; bodies are not part of a signature.
//!
//! OSS signatures are those of `granary_oss`. S3's, AWS4-HMAC-SHA256, is here: it signs the path as it is sent, the
//! host, and every header that is there when it is called.

use clap::ValueEnum;
use granary_oss::escape;
use granary_oss::header::date::format_basic_iso8601;
use granary_oss::sign::client::{Credentials, Request};
use granary_types::Timestamp;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

const S3_ALGORITHM: &str = "AWS4-HMAC-SHA256";
const S3_SERVICE: &str = "s3";
const S3_TERMINATOR: &str = "aws4_request";
const S3_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const S3_PAYLOAD_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const S3_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const UNSIGNED_PAYLOAD: HeaderValue = HeaderValue::from_static("UNSIGNED-PAYLOAD");

/// The API that a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    /// Alibaba Cloud OSS, and Granary.
    Oss,
    /// Amazon S3, and what is compatible with it.
    S3,
}

impl Dialect {
    pub(crate) fn default_region(self) -> &'static str {
        match self {
            Self::Oss => "cn-granary-1",
            Self::S3 => "us-east-1",
        }
    }

    /// Variables with an id, its secret and its token, those of the dialect's SDKs first.
    pub(crate) fn key_variables(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Self::Oss => &[
                (
                    "OSS_ACCESS_KEY_ID",
                    "OSS_ACCESS_KEY_SECRET",
                    "OSS_SESSION_TOKEN",
                ),
                // Of the root, whose keys are no temporary ones.
                (
                    "GRANARY_ROOT_ACCESS_KEY_ID",
                    "GRANARY_ROOT_ACCESS_KEY_SECRET",
                    "",
                ),
            ],
            Self::S3 => &[(
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN",
            )],
        }
    }
}

/// Keys with what they sign for.
pub(crate) struct Signer {
    pub(crate) dialect: Dialect,
    pub(crate) credentials: Credentials,
    pub(crate) region: String,
}

impl Signer {
    /// Adds the headers of a signature. `host` and `path` are what is sent.
    pub(crate) fn sign(&self, request: &mut Request, host: &str, path: &str, now: Timestamp) {
        match self.dialect {
            Dialect::Oss => self.credentials.sign_v4(request, now, &self.region, &[]),
            Dialect::S3 => self.sign_s3(request, host, path, now),
        }
    }

    fn sign_s3(&self, request: &mut Request, host: &str, path: &str, now: Timestamp) {
        let date = format_basic_iso8601(now);
        let headers = &mut request.headers;
        headers.insert(S3_DATE, ascii(&date));
        headers.entry(S3_PAYLOAD_HASH).or_insert(UNSIGNED_PAYLOAD);
        if let Some(token) = &self.credentials.security_token {
            headers.insert(S3_TOKEN, ascii(token));
        }
        let day = date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/{S3_SERVICE}/{S3_TERMINATOR}", self.region);
        let (canonical, names) = canonical_request(request, host, path);
        let hash = hex::encode(Sha256::digest(canonical));
        let text = format!("{S3_ALGORITHM}\n{date}\n{scope}\n{hash}");
        let mut key = format!("AWS4{}", self.credentials.access_key_secret).into_bytes();
        for part in [day, &self.region, S3_SERVICE, S3_TERMINATOR, &text] {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes any key length");
            mac.update(part.as_bytes());
            key = mac.finalize().into_bytes().to_vec();
        }
        let value = format!(
            "{S3_ALGORITHM} Credential={}/{scope},SignedHeaders={names},Signature={}",
            self.credentials.access_key_id,
            hex::encode(key)
        );
        request
            .headers
            .insert(http::header::AUTHORIZATION, ascii(&value));
    }
}

/// Keys, tokens and dates are ASCII; what is not is sent as nothing and refused by the store.
fn ascii(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// The request as S3 signs it, and the names of the headers that it signs.
fn canonical_request(request: &Request, host: &str, path: &str) -> (Vec<u8>, String) {
    let mut pairs: Vec<(String, String)> = request
        .query
        .iter()
        .map(|parameter| {
            let encoded = |text: &str| escape::encode(text.as_bytes());
            (encoded(parameter.name()), encoded(parameter.value()))
        })
        .collect();
    pairs.sort_unstable();
    let query: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut headers: Vec<(&str, &[u8])> = vec![("host", host.as_bytes())];
    headers.extend(
        request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes().trim_ascii())),
    );
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = format!("{}\n{path}\n{}\n", request.method, query.join("&")).into_bytes();
    for (name, value) in &headers {
        canonical.extend_from_slice(name.as_bytes());
        canonical.push(b':');
        canonical.extend_from_slice(value);
        canonical.push(b'\n');
    }
    canonical.push(b'\n');
    canonical.extend_from_slice(names.as_bytes());
    canonical.push(b'\n');
    let hash = request.headers.get(S3_PAYLOAD_HASH);
    canonical.extend_from_slice(hash.unwrap_or(&UNSIGNED_PAYLOAD).as_bytes());
    (canonical, names)
}

#[cfg(test)]
mod tests {
    use granary_oss::query::Query;
    use granary_oss::sign::{self, SignatureKind};
    use http::Method;

    use super::*;

    /// 2013-05-24T00:00:00Z, when Amazon's examples are signed.
    const THEN: Timestamp = Timestamp(1_369_353_600_000);
    const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// The examples of "Signature Calculations for the Authorization Header" in Amazon's API reference.
    #[test]
    fn s3_signatures_are_those_of_the_published_examples() {
        let signer = Signer {
            dialect: Dialect::S3,
            credentials: Credentials::new(
                "AKIAIOSFODNN7EXAMPLE",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            ),
            region: "us-east-1".to_owned(),
        };
        let put_hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        for (method, path, query, headers, names, signature) in [
            (
                Method::GET,
                "/test.txt",
                &[][..],
                &[("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY_HASH)][..],
                "host;range;x-amz-content-sha256;x-amz-date",
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                Method::PUT,
                "/test%24file.text",
                &[],
                &[
                    ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                    ("x-amz-content-sha256", put_hash),
                    ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ],
                "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                Method::GET,
                "/",
                &[("lifecycle", "")],
                &[("x-amz-content-sha256", EMPTY_HASH)],
                "host;x-amz-content-sha256;x-amz-date",
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                Method::GET,
                "/",
                &[("prefix", "J"), ("max-keys", "2")],
                &[("x-amz-content-sha256", EMPTY_HASH)],
                "host;x-amz-content-sha256;x-amz-date",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let mut request = Request::new(method, None, None);
            request.query = Query::from_pairs(query.iter().copied());
            for (name, value) in headers {
                request
                    .headers
                    .insert(*name, HeaderValue::from_static(value));
            }
            signer.sign(&mut request, "examplebucket.s3.amazonaws.com", path, THEN);
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                 SignedHeaders={names},Signature={signature}"
            );
            assert_eq!(request.headers["authorization"], expected, "{path}");
            assert_eq!(request.headers["x-amz-date"], "20130524T000000Z");
        }
    }

    #[test]
    fn s3_requests_carry_the_token_and_sign_it_and_no_body() {
        let mut credentials = Credentials::new("id", "secret");
        credentials.security_token = Some("token".to_owned());
        let signer = Signer {
            dialect: Dialect::S3,
            credentials,
            region: "r".to_owned(),
        };
        let mut request = Request::new(Method::GET, None, None);
        signer.sign(&mut request, "h:1", "/b/k", THEN);
        assert_eq!(request.headers["x-amz-security-token"], "token");
        assert_eq!(request.headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        let signed = request.headers["authorization"].to_str().unwrap();
        assert!(
            signed.contains("host;x-amz-content-sha256;x-amz-date;x-amz-security-token,"),
            "{signed}"
        );
    }

    #[test]
    fn oss_requests_carry_a_v4_signature_that_the_server_accepts() {
        let signer = Signer {
            dialect: Dialect::Oss,
            credentials: Credentials::new("id", "secret"),
            region: "cn-granary-1".to_owned(),
        };
        let mut request = Request::new(Method::GET, Some("bucket"), None);
        request.query = Query::from_pairs([("list-type", "2"), ("prefix", "a/b")]);
        signer.sign(&mut request, "h:1", "/bucket/", THEN);
        let presented = sign::parse_authorization(&request.as_signed())
            .unwrap()
            .expect("it is signed");
        assert_eq!(presented.kind(), SignatureKind::V4Header);
        let verified = presented.verify(
            &sign::SigningSecret::new("secret"),
            THEN,
            "cn-granary-1",
            &request.as_signed(),
        );
        verified.unwrap();
    }
}
