//! Signatures: what strangers present is refused, what the owner signed is accepted, whichever program
//! signed it, and what was changed afterwards is refused.

#![no_main]

use granary_fuzz::{Head, NOW, REGION, SECRET, checked, signer};
use granary_oss::escape;
use granary_oss::sign::client::{Credentials, Request};
use granary_oss::sign::{SignatureKind, SignedRequest, SigningSecret, parse_authorization};
use granary_types::Timestamp;
use http::{HeaderValue, Method};
use libfuzzer_sys::fuzz_target;

/// [`NOW`] as V1 and V2 write it, as V4 does, and a minute later in seconds since 1970.
const HTTP_DATE: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
const DATE: &str = "20260102T030405Z";
const EXPIRES: &str = "1767323105";
/// Longer than a clock may be wrong, and than any URL here lives.
const LATER: Timestamp = Timestamp(NOW.0 + 16 * 60 * 1000);
/// A request by whoever knows the secret.
type Sign = fn(&Credentials, &mut Request);

fuzz_target!(|data: &[u8]| {
    let Some(head) = Head::read(data) else { return };
    let (Some(address), Some(query)) = (head.address(), head.query()) else {
        return;
    };
    let bucket = address.bucket_name().ok().flatten();
    let key = address.object_key().ok().flatten();
    let mut request = Request::new(
        head.method.clone(),
        bucket.as_ref().map(|name| name.as_str()),
        key.as_ref().map(|key| key.as_str()),
    );
    request.query = query;
    request.headers = head.headers.clone();
    match checked(parse_authorization(&request.as_signed())) {
        // Nobody can sign without the secret.
        Some(Some(presented)) => {
            let verified = presented.verify(
                &SigningSecret::new(SECRET),
                NOW,
                REGION,
                &request.as_signed(),
            );
            assert!(checked(verified).is_none());
            assert!(!presented.access_key_id().is_empty());
        }
        Some(None) => sign_in_every_way(request),
        None => {}
    }
});

fn sign_in_every_way(mut request: Request) {
    let reserved = |name: &str| name.starts_with("x-oss-") || name == "security-token";
    if request.query.iter().any(|p| reserved(p.name())) {
        // It would stand there twice.
        return;
    }
    // A date that the client made up is signed in place of ours, and need not be near.
    for name in [
        "x-oss-date",
        "date",
        "x-oss-content-sha256",
        "security-token",
    ] {
        request.headers.remove(name);
    }
    let ways: [(SignatureKind, Sign); 6] = [
        (SignatureKind::V1Header, |owner, request| {
            owner.sign_v1(request, NOW)
        }),
        (SignatureKind::V1Url, |owner, request| {
            owner.presign_v1(request, NOW.plus_millis(60_000));
        }),
        (SignatureKind::V2Header, |owner, request| {
            owner.sign_v2(request, NOW, &["host"])
        }),
        (SignatureKind::V2Url, |owner, request| {
            owner.presign_v2(request, NOW.plus_millis(60_000), &["host"]);
        }),
        (SignatureKind::V4Header, |owner, request| {
            owner.sign_v4(request, NOW, REGION, &["host"]);
        }),
        (SignatureKind::V4Url, |owner, request| {
            owner.presign_v4(request, NOW, 60, REGION, &["host"]);
        }),
    ];
    for (kind, sign) in ways {
        let mut signed = request.clone();
        let token = signed
            .headers
            .remove("x-oss-security-token")
            .map(|_| "a token");
        let mut owner = Credentials::new("owner", SECRET);
        owner.security_token = token.map(str::to_owned);
        sign(&owner, &mut signed);
        check_signed(kind, &signed, token);
        if let Some(signed) = signed_apart(kind, &request) {
            assert!(
                accepted(&signed.as_signed()),
                "{kind:?} by another: {signed:?}"
            );
        }
    }
}

fn check_signed(kind: SignatureKind, signed: &Request, token: Option<&str>) {
    let presented = parse_authorization(&signed.as_signed()).ok().flatten();
    let presented = presented.expect("it is signed");
    assert_eq!(
        (presented.kind(), presented.access_key_id()),
        (kind, "owner")
    );
    assert_eq!(presented.security_token(), token);
    let verify = |secret, now, region| {
        let verified = presented.verify(
            &SigningSecret::new(secret),
            now,
            region,
            &signed.as_signed(),
        );
        checked(verified).is_some()
    };
    assert!(verify(SECRET, NOW, REGION), "{kind:?}: {signed:?}");
    assert!(
        !verify("another", NOW, REGION),
        "{kind:?}: another secret, {signed:?}"
    );
    assert!(
        !verify(SECRET, LATER, REGION),
        "{kind:?}: later, {signed:?}"
    );
    let is_v4 = matches!(kind, SignatureKind::V4Header | SignatureKind::V4Url);
    let is_v1 = matches!(kind, SignatureKind::V1Header | SignatureKind::V1Url);
    assert!(
        !is_v4 || !verify(SECRET, NOW, "elsewhere"),
        "{kind:?}: elsewhere, {signed:?}"
    );

    let refused = |what: &str, change: &dyn Fn(&mut Request)| {
        let mut changed = signed.clone();
        change(&mut changed);
        assert!(
            !accepted(&changed.as_signed()),
            "{kind:?}: {what}, {changed:?}"
        );
    };
    refused("another method", &|changed| {
        changed.method = match changed.method {
            Method::PUT => Method::GET,
            _ => Method::PUT,
        };
    });
    refused("another key", &|changed| {
        changed.key = Some(format!("{}x", signed.key.as_deref().unwrap_or_default()));
    });
    refused("another header", &|changed| {
        let value = HeaderValue::from_static("1");
        changed.headers.append("x-oss-meta-added", value);
    });
    refused("another type", &|changed| {
        let value = HeaderValue::from_static("text/none of them");
        changed.headers.insert("content-type", value);
    });
    if !signed.query.contains("acl") {
        refused("another sub-resource", &|changed| {
            changed.query.push("acl", "")
        });
    }
    if signed.bucket.is_some() {
        refused("another bucket", &|changed| {
            changed.bucket = Some("x-other".to_owned())
        });
    }
    if token.is_some() && !kind.is_url() {
        refused("no token", &|changed| {
            changed.headers.remove("x-oss-security-token");
        });
    }
    if !is_v1 {
        refused("another parameter", &|changed| {
            changed.query.push("any", "1")
        });
        if signed.headers.contains_key("host") {
            refused("another host", &|changed| {
                let value = HeaderValue::from_static("another.example");
                changed.headers.append("host", value);
            });
        }
    }
}

/// Signed by the second implementation; `None` when it does not know how.
fn signed_apart(kind: SignatureKind, request: &Request) -> Option<Request> {
    let is_nothing = |name: &str, value: &str| name.is_empty() && value.is_empty();
    if request
        .query
        .iter()
        .any(|p| is_nothing(p.name(), p.value()))
    {
        // It does not travel.
        return None;
    }
    let mut signed = request.clone();
    let additional: &[&str] = match request.headers.contains_key("range") {
        true => &["range"],
        false => &[],
    };
    let listed = additional.join(";");
    let set = |headers: &mut http::HeaderMap, name: &'static str, value: &str| {
        headers.insert(name, HeaderValue::try_from(value).expect("ASCII"));
    };
    match kind {
        SignatureKind::V1Header => {
            set(&mut signed.headers, "date", HTTP_DATE);
            let signature = signer::v1(&signed, SECRET, HTTP_DATE)?;
            set(
                &mut signed.headers,
                "authorization",
                &format!("OSS owner:{signature}"),
            );
        }
        SignatureKind::V1Url => {
            let signature = signer::v1(&signed, SECRET, EXPIRES)?;
            signed.query.push("OSSAccessKeyId", "owner");
            signed.query.push("Expires", EXPIRES);
            signed.query.push("Signature", &signature);
        }
        SignatureKind::V2Header => {
            set(&mut signed.headers, "x-oss-date", HTTP_DATE);
            let signature = signer::v2(&signed, SECRET, HTTP_DATE, additional);
            let value = format!(
                "OSS2 AccessKeyId:owner, AdditionalHeaders:{listed}, Signature:{signature}"
            );
            set(&mut signed.headers, "authorization", &value);
        }
        SignatureKind::V2Url => {
            signed.query.push("x-oss-signature-version", "OSS2");
            signed.query.push("x-oss-expires", EXPIRES);
            signed.query.push("x-oss-access-key-id", "owner");
            signed.query.push("x-oss-additional-headers", &listed);
            let signature = signer::v2(&signed, SECRET, EXPIRES, additional);
            signed.query.push("x-oss-signature", &signature);
        }
        SignatureKind::V4Header => {
            set(&mut signed.headers, "x-oss-date", DATE);
            set(
                &mut signed.headers,
                "x-oss-content-sha256",
                "UNSIGNED-PAYLOAD",
            );
            let signature = signer::v4(&signed, SECRET, DATE, REGION, additional);
            let credential = format!("owner/{}/{REGION}/oss/aliyun_v4_request", &DATE[..8]);
            let value = format!(
                "OSS4-HMAC-SHA256 Credential={credential}, Signature={signature}, AdditionalHeaders={listed}"
            );
            set(&mut signed.headers, "authorization", &value);
        }
        SignatureKind::V4Url => {
            let credential = format!("owner/{}/{REGION}/oss/aliyun_v4_request", &DATE[..8]);
            signed
                .query
                .push("x-oss-signature-version", "OSS4-HMAC-SHA256");
            signed.query.push("x-oss-credential", &credential);
            signed.query.push("x-oss-date", DATE);
            signed.query.push("x-oss-expires", "60");
            signed.query.push("x-oss-additional-headers", &listed);
            let signature = signer::v4(&signed, SECRET, DATE, REGION, additional);
            signed.query.push("x-oss-signature", &signature);
        }
    }
    // As it travels.
    let raw = signed.query.to_raw();
    signed.query = granary_oss::query::Query::parse(Some(&raw)).ok()?;
    let path = signed
        .key
        .as_deref()
        .map(|key| escape::encode_path(key.as_bytes()));
    let key = path.map(|path| escape::decode(&path).expect("it was encoded"));
    signed.key = key.and_then(|key| String::from_utf8(key).ok());
    Some(signed)
}

fn accepted(request: &SignedRequest<'_>) -> bool {
    let presented = parse_authorization(request).ok().flatten();
    presented.is_some_and(|presented| {
        presented
            .verify(&SigningSecret::new(SECRET), NOW, REGION, request)
            .is_ok()
    })
}
