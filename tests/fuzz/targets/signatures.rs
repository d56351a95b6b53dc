//! Signatures: what strangers present is refused, what the owner signed is accepted, and what was
//! changed afterwards is refused.

#![no_main]

use granary_fuzz::Head;
use granary_oss::sign::client::{Credentials, Request};
use granary_oss::sign::{SignedRequest, parse_authorization};
use granary_types::Timestamp;
use http::Method;
use libfuzzer_sys::fuzz_target;

const REGION: &str = "cn-granary-1";
/// A time in 2026.
const NOW: Timestamp = Timestamp(1_767_323_045_000);
const SECRET: &str = "a secret that no corpus has";

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
    // Nobody can sign without the secret.
    match parse_authorization(&request.as_signed()) {
        Ok(Some(presented)) => assert!(
            presented
                .verify(SECRET, NOW, REGION, &request.as_signed())
                .is_err()
        ),
        Ok(None) => sign_in_every_way(&request),
        Err(_) => {}
    }
});

fn sign_in_every_way(request: &Request) {
    let owner = Credentials::new("owner", SECRET);
    type Sign = fn(&Credentials, &mut Request);
    let ways: [(&str, Sign); 6] = [
        ("V1 header", |owner, request| owner.sign_v1(request, NOW)),
        ("V1 URL", |owner, request| {
            owner.presign_v1(request, NOW.plus_millis(60_000))
        }),
        ("V2 header", |owner, request| {
            owner.sign_v2(request, NOW, &["host"])
        }),
        ("V2 URL", |owner, request| {
            owner.presign_v2(request, NOW.plus_millis(60_000), &["host"])
        }),
        ("V4 header", |owner, request| {
            owner.sign_v4(request, NOW, REGION, &["host"])
        }),
        ("V4 URL", |owner, request| {
            owner.presign_v4(request, NOW, 60, REGION, &["host"])
        }),
    ];
    for (way, sign) in ways {
        let mut signed = request.clone();
        // A date that the client made up is signed in place of ours, and need not be near.
        signed.headers.remove("x-oss-date");
        signed.headers.remove("date");
        if signed.query.contains("security-token")
            || signed.query.iter().any(|p| p.name().starts_with("x-oss-"))
        {
            // It would stand there twice.
            return;
        }
        signed.headers.remove("x-oss-content-sha256");
        sign(&owner, &mut signed);
        assert!(accepted(&signed.as_signed()), "{way}: {signed:?}");
        let mut changed = signed.clone();
        changed.method = if signed.method == Method::PUT {
            Method::GET
        } else {
            Method::PUT
        };
        assert!(
            !accepted(&changed.as_signed()),
            "{way}: another method, {changed:?}"
        );
        let mut changed = signed.clone();
        changed.key = Some(format!("{}x", signed.key.as_deref().unwrap_or_default()));
        assert!(
            !accepted(&changed.as_signed()),
            "{way}: another key, {changed:?}"
        );
        let mut changed = signed.clone();
        changed
            .headers
            .append("x-oss-meta-added", http::HeaderValue::from_static("1"));
        assert!(
            !accepted(&changed.as_signed()),
            "{way}: another header, {changed:?}"
        );
        let mut changed = signed;
        changed.query.push("acl", "");
        if !request.query.contains("acl") {
            assert!(
                !accepted(&changed.as_signed()),
                "{way}: another sub-resource, {changed:?}"
            );
        }
    }
}

fn accepted(request: &SignedRequest<'_>) -> bool {
    let presented = parse_authorization(request).ok().flatten();
    presented.is_some_and(|presented| presented.verify(SECRET, NOW, REGION, request).is_ok())
}
