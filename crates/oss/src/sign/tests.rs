//! Golden vectors: for V1 and V4 those of the official Go SDK v2's signer tests, for V2 those of the
//! service's documentation and what the Python SDK makes. The errors of a bad signature, and
//! sign → verify properties.

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::client::{Credentials, Request};
use super::*;

const REGION: &str = "cn-hangzhou";

fn request(method: &str, key: Option<&str>, query: &str, headers: &[(&str, &str)]) -> Request {
    let mut request = Request::new(
        Method::from_bytes(method.as_bytes()).unwrap(),
        Some("bucket"),
        key,
    );
    request.query = Query::parse(Some(query)).unwrap();
    for (name, value) in headers {
        let name = HeaderName::try_from(*name).unwrap();
        request
            .headers
            .append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request
}

fn verify(request: &Request, secret: &str, now: Timestamp) -> Result<SignatureKind, OssError> {
    let signed = request.as_signed();
    let presented = parse_authorization(&signed)?.expect("the request is signed");
    assert_eq!(presented.access_key_id(), "ak");
    presented
        .verify(&SigningSecret::new(secret), now, REGION, &signed)
        .map(|()| presented.kind())
}

fn seconds(seconds: u64) -> Timestamp {
    Timestamp(seconds * 1000)
}

#[test]
fn a_key_that_was_derived_is_good_for_its_day_and_region_only() {
    let secret = SigningSecret::new("sk");
    let (today, tomorrow) = (seconds(1_702_743_657), seconds(1_702_830_057));
    let attempts = [
        (today, REGION, "sk"),
        (today, REGION, "other"),
        (tomorrow, REGION, "sk"),
        (tomorrow, "cn-other", "sk"),
        (tomorrow, REGION, "other"),
        (today, REGION, "sk"),
        (today, "cn-other", "sk"),
    ];
    for (now, region, signed_with) in attempts.into_iter().cycle().take(20) {
        let mut request = request("GET", Some("k"), "", &[]);
        Credentials::new("ak", signed_with).sign_v4(&mut request, now, region, &[]);
        let signed = request.as_signed();
        let presented = parse_authorization(&signed).unwrap().unwrap();
        let outcome = presented.verify(&secret, now, region, &signed);
        assert_eq!(outcome.is_ok(), signed_with == "sk", "{now:?} {region}");
    }
}

#[test]
fn v1_header_vectors() {
    const DATE: &str = "Wed, 28 Dec 2022 10:27:41 GMT";
    let full: &[(&str, &str)] = &[
        ("content-md5", "eB5eJF1ptWaXm4bijSPyxw=="),
        ("content-type", "text/html"),
        ("x-oss-meta-author", "alice"),
        ("x-oss-meta-magic", "abracadabra"),
        ("x-oss-date", DATE),
    ];
    let bare: &[(&str, &str)] = &[("x-oss-date", DATE)];
    for (method, key, query, headers, signature) in [
        (
            "PUT",
            Some("nelson"),
            "",
            full,
            "kSHKmLxlyEAKtZPkJhG9bZb5k7M=",
        ),
        (
            "PUT",
            Some("nelson"),
            "acl",
            full,
            "/afkugFbmWDQ967j1vr6zygBLQk=",
        ),
        (
            "GET",
            None,
            "resourceGroup&non-resousce=null",
            bare,
            "vkQmfuUDyi1uDi3bKt67oemssIs=",
        ),
        (
            "GET",
            None,
            "resourceGroup&acl",
            bare,
            "x3E5TgOvl/i7PN618s5mEvpJDYk=",
        ),
    ] {
        let mut request = request(method, key, query, headers);
        request.bucket = Some("examplebucket".to_owned());
        Credentials::new("ak", "sk").sign_v1(&mut request, seconds(1_672_223_261));
        let header = request.headers.get("authorization").unwrap();
        assert_eq!(header, &format!("OSS ak:{signature}"), "{query}");
        assert_eq!(request.headers.get("date").unwrap(), DATE);
        let kind = verify(&request, "sk", seconds(1_672_223_300)).unwrap();
        assert_eq!(kind, SignatureKind::V1Header);
    }
}

#[test]
fn v1_url_vectors() {
    let mut keys = Credentials::new("ak", "sk");
    for (token, key, expires, signature) in [
        (
            None,
            "key",
            1_699_807_420,
            "dcLTea%2BYh9ApirQ8o8dOPqtvJXQ%3D",
        ),
        (
            Some("token"),
            "key+123",
            1_699_808_204,
            "jzKYRrM5y6Br0dRFPaTGOsbrDhY%3D",
        ),
    ] {
        let mut request = request("GET", Some(key), "versionId=versionId", &[]);
        keys.security_token = token.map(str::to_owned);
        keys.presign_v1(&mut request, seconds(expires));
        assert!(
            request
                .query
                .to_raw()
                .contains(&format!("Signature={signature}")),
            "{key}"
        );
        assert_eq!(
            verify(&request, "sk", seconds(expires)).unwrap(),
            SignatureKind::V1Url
        );
        let presented = parse_authorization(&request.as_signed()).unwrap().unwrap();
        assert_eq!(presented.security_token(), token);
    }
}

const V4_QUERY: &str =
    "%2Bparam1=value3&%2Bparam2=&%7Cparam1=value4&%7Cparam2=&param1=value1&param2=";
const V4_KEY: &str = "1234+-/123/1.txt";

fn v4_request(content_type: &str) -> Request {
    let headers = [
        ("x-oss-head1", "value"),
        ("abc", "value"),
        ("zabc", "value"),
        ("xyz", "value"),
        ("content-type", content_type),
    ];
    request("PUT", Some(V4_KEY), V4_QUERY, &headers)
}

#[test]
fn v4_header_vectors() {
    for (token, time, additional, expected) in [
        (
            None,
            1_702_743_657,
            &[][..],
            "20231216/cn-hangzhou/oss/aliyun_v4_request,Signature=e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe",
        ),
        (
            Some("token"),
            1_702_784_856,
            &[][..],
            "20231217/cn-hangzhou/oss/aliyun_v4_request,Signature=b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea",
        ),
        (
            None,
            1_702_747_512,
            &["x-oss-no-exist", "ZAbc", "x-oss-head1", "abc", "absent"][..],
            "20231216/cn-hangzhou/oss/aliyun_v4_request,AdditionalHeaders=abc;zabc,Signature=4a4183c187c07c8947db7620deb0a6b38d9fbdd34187b6dbaccb316fa251212f",
        ),
    ] {
        let mut request = v4_request("text/plain");
        let mut keys = Credentials::new("ak", "sk");
        keys.security_token = token.map(str::to_owned);
        keys.sign_v4(&mut request, seconds(time), REGION, additional);
        let header = request.headers.get("authorization").unwrap();
        assert_eq!(
            header,
            &format!("OSS4-HMAC-SHA256 Credential=ak/{expected}")
        );
        assert_eq!(
            verify(&request, "sk", seconds(time)).unwrap(),
            SignatureKind::V4Header
        );
        let presented = parse_authorization(&request.as_signed()).unwrap().unwrap();
        assert_eq!(presented.security_token(), token);
    }
}

#[test]
fn v4_url_vectors() {
    for (token, time, additional, expected) in [
        (
            None,
            1_702_781_677,
            &[][..],
            "a39966c61718be0d5b14e668088b3fa07601033f6518ac7b523100014269c0fe",
        ),
        (
            Some("token"),
            1_702_785_388,
            &[][..],
            "3817ac9d206cd6dfc90f1c09c00be45005602e55898f26f5ddb06d7892e1f8b5",
        ),
        (
            None,
            1_702_783_809,
            &["abc", "ZAbc"][..],
            "6bd984bfe531afb6db1f7550983a741b103a8c58e5e14f83ea474c2322dfa2b7",
        ),
    ] {
        let mut request = v4_request("application/octet-stream");
        let mut keys = Credentials::new("ak", "sk");
        keys.security_token = token.map(str::to_owned);
        keys.presign_v4(&mut request, seconds(time), 599, REGION, additional);
        assert_eq!(request.query.get("x-oss-signature"), Some(expected));
        assert_eq!(
            verify(&request, "sk", seconds(time + 599)).unwrap(),
            SignatureKind::V4Url
        );
    }
}

#[test]
fn v4_headers_are_read_in_any_order_and_spacing() {
    let mut request = v4_request("text/plain");
    let now = seconds(1_702_747_512);
    Credentials::new("ak", "sk").sign_v4(&mut request, now, REGION, &["abc", "zabc"]);
    let value = "OSS4-HMAC-SHA256  Signature=4a4183c187c07c8947db7620deb0a6b38d9fbdd34187b6dbaccb316fa251212f, \
                 Credential=ak/20231216/cn-hangzhou/oss/aliyun_v4_request ,AdditionalHeaders = ZAbc;abc";
    request
        .headers
        .insert("authorization", value.parse().unwrap());
    verify(&request, "sk", now).unwrap();
}

#[test]
fn v4_survives_a_query_that_was_encoded_again() {
    let now = seconds(1_702_743_657);
    let mut request = request("GET", None, "prefix=a%2Fb%3Ac&marker=x%20y", &[]);
    Credentials::new("ak", "sk").sign_v4(&mut request, now, REGION, &[]);
    request.query = Query::parse(Some("prefix=a/b%3ac&marker=x+y")).unwrap();
    verify(&request, "sk", now).unwrap();
    request.query = Query::parse(Some("prefix=a/b%3ad&marker=x+y")).unwrap();
    assert!(verify(&request, "sk", now).is_err());
}

/// What ali-oss 6.23 makes: parameters that its callers set to an empty string are signed as `k=`,
/// sub-resources as `k`, and all of them are sent as `k=`.
#[test]
fn v4_counts_with_either_form_of_an_empty_value() {
    let now = seconds(1_702_743_657);
    let signed_by_ali_oss = |query, signature: &str| {
        let headers = [
            ("x-oss-date", "20231216T162057Z"),
            ("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
        ];
        let mut request = request("GET", None, query, &headers);
        let value = format!(
            "OSS4-HMAC-SHA256 Credential=ak/20231216/cn-hangzhou/oss/aliyun_v4_request,Signature={signature}"
        );
        request
            .headers
            .insert("authorization", value.parse().unwrap());
        request
    };
    for (query, signature) in [
        (
            "list-type=2&prefix=",
            "3c98015c8b24936b04e67a58b77121a1e90d885bafa8801c1d3d1187740039e2",
        ),
        (
            "delimiter=/&prefix",
            "7e29fd2a54db2108704ec56f9daa2e4bd9d9bb2b5aeff7866d5a79a828291442",
        ),
        (
            "versions=&prefix=",
            "70e1f140d558a45c3998a57126b22379889525ce8d3f4bdaf00f49e77df4f8ef",
        ),
        (
            "uploads=&prefix=&delimiter=",
            "c2b4d74243830e47297e1323bd8908eef8ea5e13abc29796013b05e999e7737f",
        ),
    ] {
        let mut request = signed_by_ali_oss(query, signature);
        verify(&request, "sk", now).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        assert!(verify(&request, "other", now).is_err());
        request.query.push("max-keys", "");
        assert!(verify(&request, "sk", now).is_err(), "{query}");
    }
    let mut url = request(
        "GET",
        Some(V4_KEY),
        "prefix=&response-content-type=&x-oss-credential=ak%2F20231216%2Fcn-hangzhou%2Foss%2Faliyun_v4_request\
         &x-oss-date=20231216T162057Z&x-oss-expires=599&x-oss-signature-version=OSS4-HMAC-SHA256\
         &x-oss-signature=3b1aff02e8462a7c2504cae568bf920426ffd46351f233fd7f4b51731742d132",
        &[],
    );
    assert_eq!(verify(&url, "sk", now).unwrap(), SignatureKind::V4Url);
    url.query.push("max-keys", "");
    assert!(verify(&url, "sk", now).is_err());
}

/// The error shows the documented form, whatever was tried.
#[test]
fn v4_shows_the_documented_form_of_an_empty_value() {
    let now = seconds(1_702_743_657);
    let mut request = request("GET", None, "list-type=2&prefix=", &[]);
    Credentials::new("ak", "sk").sign_v4(&mut request, now, REGION, &[]);
    let said = format!("{:?}", verify(&request, "other", now).unwrap_err());
    assert!(said.contains("list-type=2&prefix\\n"), "{said}");
}

/// The examples of the service's documentation.
#[test]
fn v2_documented_vectors() {
    let keys = Credentials::new(
        "44CF9590006BF252F707",
        "OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV",
    );
    let made = |method, headers, sign: &dyn Fn(&mut Request)| {
        let mut made = request(method, Some("nelson"), "", headers);
        made.bucket = Some("oss-example".to_owned());
        sign(&mut made);
        made
    };
    let put = made(
        "PUT",
        &[
            ("content-md5", "FxqG8Ca0qEJPOghSihJ8Ew=="),
            ("content-type", "text/plain"),
            ("x-oss-object-acl", "private"),
        ],
        &|r| keys.sign_v2(r, seconds(1_487_151_431), &["range"]),
    );
    assert_eq!(put.headers["date"], "Wed, 15 Feb 2017 09:37:11 GMT");
    assert_eq!(
        put.headers["authorization"],
        "OSS2 AccessKeyId:44CF9590006BF252F707,Signature:5Am2ewK1tL0gXX7GV6dwybZtj7efOEtc0Mo2FR6CkM8="
    );
    let get = made(
        "GET",
        &[
            ("range", "bytes=0-7"),
            ("if-modified-since", "Thu, 16 Feb 2017 02:10:39 GMT"),
        ],
        &|r| keys.sign_v2(r, seconds(1_487_210_979), &["range", "if-modified-since"]),
    );
    assert_eq!(
        get.headers["authorization"],
        "OSS2 AccessKeyId:44CF9590006BF252F707,AdditionalHeaders:if-modified-since;range,Signature:YG9mKO3m4S0Jx9Hk6Lq64VchJg/TOTkyCX4DaeeOYxE="
    );
    let url = made("GET", &[], &|r| {
        keys.presign_v2(r, seconds(1_487_152_431), &["host"]);
    });
    assert_eq!(
        url.query.to_raw(),
        "x-oss-signature-version=OSS2&x-oss-expires=1487152431&x-oss-access-key-id=44CF9590006BF252F707&x-oss-signature=ps%2F%2BMLhd1WKkVi%2FQlOiliJsTaBMBk93f6UYVscDNHCQ%3D"
    );
}

/// What `oss2` makes of keys, parameters and headers that need care.
#[test]
fn v2_vectors_of_the_python_sdk() {
    let now = 1_702_743_657;
    for (token, additional, header, url) in [
        (
            None,
            &[][..],
            "Signature:rJ8AEux4f5+q3l4jYf3KqastWY0yCKgm55yEHxXLwAI=",
            "HUpR3ERegkOz5CjsunvDO76dPoi1K9e8X1E0tcHKzEQ=",
        ),
        (
            Some("token"),
            &[][..],
            "Signature:AblaSr+vueungaIHvP5bAo5Nu0knWS0rJ/YR6oJe0hQ=",
            "u4PkQMcg1HyWGsX5Y0oYfLnwQWrk8aiSVN86mmoSdlI=",
        ),
        (
            None,
            &["ZAbc", "abc", "absent"][..],
            "AdditionalHeaders:abc;zabc,Signature:EkmKxg/z7DotPtFn8mdota3GcwIU6s+GQuKqk+WQx2g=",
            "eX6bvOdr+rZXjytcZCiHEMlpQM+E6yXFY7+dibblfa4=",
        ),
    ] {
        let mut keys = Credentials::new("ak", "sk");
        keys.security_token = token.map(str::to_owned);
        let mut base = v4_request("text/plain");
        base.key = Some("1234+-/123/1 ü.txt".to_owned());
        let mut signed = base.clone();
        keys.sign_v2(&mut signed, seconds(now), additional);
        assert_eq!(
            signed.headers["authorization"],
            format!("OSS2 AccessKeyId:ak,{header}")
        );
        let kind = verify(&signed, "sk", seconds(now + 900)).unwrap();
        assert_eq!((kind, kind.is_url()), (SignatureKind::V2Header, false));
        let presented = parse_authorization(&signed.as_signed()).unwrap().unwrap();
        assert_eq!(presented.security_token(), token);

        let mut signed = base;
        keys.presign_v2(&mut signed, seconds(now + 599), additional);
        assert_eq!(signed.query.get("x-oss-signature"), Some(url));
        let kind = verify(&signed, "sk", seconds(now + 599)).unwrap();
        assert_eq!((kind, kind.is_url()), (SignatureKind::V2Url, true));
        let presented = parse_authorization(&signed.as_signed()).unwrap().unwrap();
        assert_eq!(presented.security_token(), token);
    }
    let mut service = request("GET", None, "prefix=a%20b%2F%C3%A4&tag-key=k", &[]);
    service.bucket = None;
    Credentials::new("ak", "sk").sign_v2(&mut service, seconds(now), &[]);
    assert_eq!(
        service.headers["authorization"],
        "OSS2 AccessKeyId:ak,Signature:ePiYiRDAbUheTILYqxlGGyTzjly6Paqo6oEz5cZ+Qzo="
    );
}

/// Java separates fields by `, `; Python does not sort the names that it lists; either date counts.
#[test]
fn v2_headers_are_read_in_any_order_and_spacing() {
    let now = seconds(1_702_743_657);
    let date = "Sat, 16 Dec 2023 16:20:57 GMT";
    let other = "Sat, 16 Dec 2023 16:20:50 GMT";
    for (dates, line) in [
        (&[("date", date)][..], date),
        (&[("x-oss-date", date), ("date", other)][..], date),
        (&[("x-oss-date", date), ("date", other)][..], other),
    ] {
        let mut request = v4_request("text/plain");
        for (name, value) in dates {
            request.headers.insert(*name, value.parse().unwrap());
        }
        let additional = ["abc".to_owned(), "zabc".to_owned()];
        let text = v2::string_to_sign(&request.as_signed(), line, &additional);
        let signature = v2::sign("sk", &text);
        let value =
            format!("OSS2  Signature:{signature} , AdditionalHeaders: ZAbc;abc, AccessKeyId:ak");
        request
            .headers
            .insert("authorization", value.parse().unwrap());
        verify(&request, "sk", now).unwrap();
        request.headers.insert("abc", "changed".parse().unwrap());
        assert!(verify(&request, "sk", now).is_err());
    }
}

/// What go v2 and java v2 do differently from the rest under V1.
#[test]
fn v1_accepts_the_sdks_dialects() {
    let now = seconds(1_672_223_261);
    let date = format_iso8601(now);
    assert_eq!(date, "2022-12-28T10:27:41.000Z");
    let http_date = "Wed, 28 Dec 2022 10:27:41 GMT";
    let earlier = "Wed, 28 Dec 2022 10:27:31 GMT";
    // (headers, date line, whether every x-oss-* parameter is covered)
    for (headers, date_line, all_x_oss) in [
        (&[("date", http_date)][..], http_date, false),
        (&[("date", http_date)][..], http_date, true),
        (
            &[("date", earlier), ("x-oss-date", http_date)][..],
            http_date,
            true,
        ),
        (
            &[("date", earlier), ("x-oss-date", http_date)][..],
            earlier,
            false,
        ),
        (
            &[("x-oss-date", "20221228T102741Z")][..],
            "20221228T102741Z",
            false,
        ),
    ] {
        let mut request = request("GET", Some("k"), "x-oss-unknown=1&acl&prefix=p", headers);
        let text = v1::string_to_sign(&request.as_signed(), date_line, all_x_oss);
        assert_eq!(
            String::from_utf8_lossy(&text).contains("x-oss-unknown"),
            all_x_oss
        );
        let value = format!("OSS ak:{}", v1::sign("sk", &text));
        request
            .headers
            .insert("authorization", value.parse().unwrap());
        verify(&request, "sk", now).unwrap();
    }
    let mut request = request(
        "GET",
        Some("k"),
        "",
        &[("date", http_date), ("security-token", "t")],
    );
    request
        .headers
        .insert("authorization", "OSS ak:x".parse().unwrap());
    let presented = parse_authorization(&request.as_signed()).unwrap().unwrap();
    assert_eq!(presented.security_token(), Some("t"));
}

/// A path that ends with the bucket's name may be signed as it is sent, and only such a path.
#[test]
fn v1_accepts_a_bucket_without_its_slash() {
    let now = seconds(1_672_223_261);
    let date = "Wed, 28 Dec 2022 10:27:41 GMT";
    let text = format!("GET\n\n\n{date}\n/bucket?acl");
    let value = format!("OSS ak:{}", v1::sign("sk", text.as_bytes()));
    let headers = [("date", date), ("authorization", &value)];
    for (key, slashless, accepted) in [
        (None, true, true),
        (None, false, false),
        (Some("k"), false, false),
    ] {
        let request = request("GET", key, "acl", &headers);
        let signed = SignedRequest {
            slashless,
            ..request.as_signed()
        };
        let presented = parse_authorization(&signed).unwrap().unwrap();
        let outcome = presented.verify(&SigningSecret::new("sk"), now, REGION, &signed);
        assert_eq!(outcome.is_ok(), accepted, "{key:?} {slashless}");
    }
    // The usual form stays good, and is what a mismatch shows.
    let mut usual = request("GET", None, "acl", &[]);
    Credentials::new("ak", "sk").sign_v1(&mut usual, now);
    for (secret, accepted) in [("sk", true), ("other", false)] {
        let signed = SignedRequest {
            slashless: true,
            ..usual.as_signed()
        };
        let presented = parse_authorization(&signed).unwrap().unwrap();
        let outcome = presented.verify(&SigningSecret::new(secret), now, REGION, &signed);
        assert_eq!(outcome.is_ok(), accepted);
        if let Err(error) = outcome {
            let shown = format!("{error:?}");
            assert!(shown.contains("/bucket/?acl"), "{shown}");
        }
    }
}

#[test]
fn a_mismatch_says_what_was_signed() {
    let now = seconds(1_672_223_261);
    let mut request = request("GET", Some("中"), "acl", &[]);
    Credentials::new("ak", "sk").sign_v1(&mut request, now);
    let error = verify(&request, "other", now).unwrap_err();
    assert_eq!(error.code(), ErrorCode::SignatureDoesNotMatch);
    let text = "GET\n\n\nWed, 28 Dec 2022 10:27:41 GMT\n/bucket/中?acl";
    assert_eq!(error.extra_value("StringToSign"), Some(text));
    assert_eq!(error.extra_value("OSSAccessKeyId"), Some("ak"));
    assert!(error.extra_value("SignatureProvided").is_some());
    let bytes = error.extra_value("StringToSignBytes").unwrap();
    assert!(bytes.starts_with("47 45 54 0A"), "{bytes}");

    let mut request = v4_request("text/plain");
    Credentials::new("ak", "sk").sign_v4(&mut request, now, REGION, &[]);
    let error = verify(&request, "other", now).unwrap_err();
    assert_eq!(error.code(), ErrorCode::SignatureDoesNotMatch);
    let canonical = error.extra_value("CanonicalRequest").unwrap();
    assert!(canonical.starts_with("PUT\n/bucket/1234%2B-/123/1.txt\n%2Bparam1=value3&%2Bparam2&"));
    let text = error.extra_value("StringToSign").unwrap();
    assert!(text.starts_with("OSS4-HMAC-SHA256\n20221228T102741Z\n20221228/cn-hangzhou/oss/"));

    let mut request = self::request("GET", Some("中/k"), "b=2&acl&a=%2F", &[("range", "x")]);
    Credentials::new("ak", "sk").sign_v2(&mut request, now, &["range"]);
    let error = verify(&request, "other", now).unwrap_err();
    assert_eq!(error.code(), ErrorCode::SignatureDoesNotMatch);
    let text = "GET\n\n\nWed, 28 Dec 2022 10:27:41 GMT\nrange:x\nrange\n\
                %2Fbucket%2F%E4%B8%AD%2Fk?a=%2F&acl&b=2";
    assert_eq!(error.extra_value("StringToSign"), Some(text));
}

#[test]
fn time_is_checked_before_the_signature() {
    let now = 1_672_223_261u64;
    for (offset, outcome) in [(900, None), (901, Some(ErrorCode::RequestTimeTooSkewed))] {
        for server in [now + offset, now - offset] {
            let mut v1 = request("GET", None, "", &[]);
            Credentials::new("ak", "sk").sign_v1(&mut v1, seconds(now));
            let mut v2 = request("GET", None, "", &[]);
            Credentials::new("ak", "sk").sign_v2(&mut v2, seconds(now), &[]);
            let mut v4 = request("GET", None, "", &[]);
            Credentials::new("ak", "sk").sign_v4(&mut v4, seconds(now), REGION, &[]);
            for request in [&v1, &v2, &v4] {
                let error = verify(request, "sk", seconds(server)).err();
                assert_eq!(error.as_ref().map(OssError::code), outcome, "{offset}");
                if let Some(error) = error {
                    assert_eq!(error.ec_text(), "0002-00000504");
                    assert_eq!(
                        error.extra_value("MaxAllowedSkewMilliseconds"),
                        Some("900000")
                    );
                    assert!(error.extra_value("ServerTime").is_some());
                }
            }
        }
    }
    let mut url_v1 = request("GET", Some("k"), "", &[]);
    Credentials::new("ak", "sk").presign_v1(&mut url_v1, seconds(now + 60));
    let mut url_v2 = request("GET", Some("k"), "", &[]);
    Credentials::new("ak", "sk").presign_v2(&mut url_v2, seconds(now + 60), &[]);
    let mut url_v4 = request("GET", Some("k"), "", &[]);
    Credentials::new("ak", "sk").presign_v4(&mut url_v4, seconds(now), 60, REGION, &[]);
    for url in [&url_v1, &url_v2, &url_v4] {
        verify(url, "sk", seconds(now + 60)).unwrap();
        let error = verify(url, "wrong secret", seconds(now + 61)).unwrap_err();
        assert_eq!(
            (error.code(), error.ec_text()),
            (ErrorCode::AccessDenied, "0002-00000069")
        );
        assert_eq!(error.message_text(), "Request has expired.");
    }
    let error = verify(&url_v4, "sk", seconds(now - 901)).unwrap_err();
    assert_eq!(
        (error.code(), error.ec_text()),
        (ErrorCode::AccessDenied, "0002-00000235")
    );
}

#[test]
fn malformed_signatures_get_the_services_errors() {
    const DATE: &str = "Wed, 28 Dec 2022 10:27:41 GMT";
    const URL: &str = "OSSAccessKeyId=ak&Expires=1672223300&Signature=s";
    const V2_URL: &str = "x-oss-signature-version=OSS2&x-oss-expires=1672223300&x-oss-access-key-id=ak&x-oss-signature=s";
    const V4_URL: &str =
        "x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-signature=00&x-oss-date=20221228T102741Z";
    let v4 = |scope: &str| format!("OSS4-HMAC-SHA256 Credential=ak/{scope},Signature=00");
    let credential = |scope: &str, expires: &str| {
        format!("{V4_URL}&x-oss-expires={expires}&x-oss-credential=ak/{scope}/aliyun_v4_request")
    };
    use ErrorCode::{AccessDenied, InvalidArgument, SignatureDoesNotMatch};
    /// `Authorization`, query, other headers, and the code and EC that answer them.
    type Case = (
        String,
        String,
        Vec<(&'static str, &'static str)>,
        ErrorCode,
        &'static str,
    );
    let cases: Vec<Case> = vec![
        (
            "OSS ak".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000062",
        ),
        (
            "OSS :sig".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000062",
        ),
        (
            "OSS".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000062",
        ),
        (
            "Bearer x".into(),
            String::new(),
            vec![],
            InvalidArgument,
            ec::UNKNOWN_SCHEME,
        ),
        (
            "OSS2 AccessKeyId:ak,".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000102",
        ),
        (
            "OSS2".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000102",
        ),
        (
            "OSS2 AccessKeyId:ak,Signature:x,Unknown:y".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000104",
        ),
        (
            "OSS2 AccessKeyId:ak,Signature:x,Signature:y".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000104",
        ),
        (
            "OSS2 AccessKeyId=ak,Signature=x".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000104",
        ),
        (
            "OSS2 AdditionalHeaders:host,Signature:x".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000105",
        ),
        (
            "OSS2 AccessKeyId:,Signature:x".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000106",
        ),
        (
            "OSS2 AccessKeyId:ak,AdditionalHeaders:host".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000108",
        ),
        (
            "OSS2 AccessKeyId:ak,Signature:x".into(),
            String::new(),
            vec![],
            AccessDenied,
            "0002-00000503",
        ),
        (
            "OSS2 AccessKeyId:ak,Signature:x".into(),
            String::new(),
            vec![("date", DATE)],
            SignatureDoesNotMatch,
            "0002-00000040",
        ),
        (
            "OSS2 AccessKeyId:ak,Signature:x".into(),
            V2_URL.into(),
            vec![],
            InvalidArgument,
            ec::TWO_SIGNATURES,
        ),
        (
            "OSS ak:sig".into(),
            URL.into(),
            vec![],
            InvalidArgument,
            ec::TWO_SIGNATURES,
        ),
        (
            "OSS ak:sig".into(),
            String::new(),
            vec![],
            AccessDenied,
            "0002-00000503",
        ),
        (
            "OSS ak:sig".into(),
            String::new(),
            vec![("date", "Wed, 8 Dec 2022 10:27:41 GMT")],
            AccessDenied,
            "0002-00000505",
        ),
        (
            "OSS ak:sig".into(),
            String::new(),
            vec![("date", DATE)],
            SignatureDoesNotMatch,
            "0002-00000040",
        ),
        (
            String::new(),
            "OSSAccessKeyId=ak&Signature=s".into(),
            vec![],
            AccessDenied,
            ec::URL_INCOMPLETE,
        ),
        (
            String::new(),
            "Expires=1".into(),
            vec![],
            AccessDenied,
            ec::URL_INCOMPLETE,
        ),
        (
            String::new(),
            "OSSAccessKeyId=ak&Expires=soon&Signature=s".into(),
            vec![],
            AccessDenied,
            "0002-00000070",
        ),
        (
            String::new(),
            URL.into(),
            vec![],
            SignatureDoesNotMatch,
            "0002-00000040",
        ),
        (
            v4("20221228/cn-hangzhou/oss/aws4_request"),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000213",
        ),
        (
            v4("2022-12-28/cn-hangzhou/oss/aliyun_v4_request"),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000213",
        ),
        (
            "OSS4-HMAC-SHA256 Signature=00".into(),
            String::new(),
            vec![],
            InvalidArgument,
            "0002-00000213",
        ),
        (
            v4("20221228/cn-beijing/oss/aliyun_v4_request"),
            String::new(),
            vec![("date", DATE)],
            InvalidArgument,
            "0002-00000226",
        ),
        (
            v4("20221228/cn-hangzhou/ecs/aliyun_v4_request"),
            String::new(),
            vec![("date", DATE)],
            InvalidArgument,
            ec::V4_PRODUCT,
        ),
        (
            v4("20221227/cn-hangzhou/oss/aliyun_v4_request"),
            String::new(),
            vec![("date", DATE)],
            InvalidArgument,
            "0002-00000223",
        ),
        (
            v4("20221228/cn-hangzhou/oss/aliyun_v4_request"),
            String::new(),
            vec![("x-oss-content-sha256", "abc"), ("date", DATE)],
            InvalidArgument,
            ec::PAYLOAD_HASH,
        ),
        (
            v4("20221228/cn-hangzhou/oss/aliyun_v4_request"),
            String::new(),
            vec![("date", DATE)],
            SignatureDoesNotMatch,
            ec::V4_SIGNATURE,
        ),
        (
            String::new(),
            V4_URL.into(),
            vec![],
            InvalidArgument,
            ec::URL_INCOMPLETE,
        ),
        (
            String::new(),
            "x-oss-signature=00".into(),
            vec![],
            InvalidArgument,
            ec::UNKNOWN_SCHEME,
        ),
        (
            String::new(),
            "x-oss-signature-version=OSS2&x-oss-access-key-id=ak&x-oss-signature=0".into(),
            vec![],
            InvalidArgument,
            "0002-00000113",
        ),
        (
            String::new(),
            "x-oss-signature-version=OSS2&x-oss-expires=1672223300&x-oss-signature=0".into(),
            vec![],
            InvalidArgument,
            "0002-00000115",
        ),
        (
            String::new(),
            "x-oss-signature-version=OSS2&x-oss-expires=1672223300&x-oss-access-key-id=&x-oss-signature=0".into(),
            vec![],
            InvalidArgument,
            "0002-00000116",
        ),
        (
            String::new(),
            "x-oss-signature-version=OSS2&x-oss-expires=1672223300&x-oss-access-key-id=ak&x-oss-signature=".into(),
            vec![],
            InvalidArgument,
            "0002-00000118",
        ),
        (
            String::new(),
            "x-oss-signature-version=OSS2&x-oss-expires=soon&x-oss-access-key-id=ak&x-oss-signature=0".into(),
            vec![],
            AccessDenied,
            "0002-00000070",
        ),
        (
            String::new(),
            "x-oss-signature-version=OSS2&x-oss-expires=1672223300&x-oss-access-key-id=ak".into(),
            vec![],
            InvalidArgument,
            ec::URL_INCOMPLETE,
        ),
        (
            String::new(),
            V2_URL.into(),
            vec![],
            SignatureDoesNotMatch,
            "0002-00000040",
        ),
        (
            String::new(),
            format!("{V2_URL}&{URL}"),
            vec![],
            InvalidArgument,
            ec::TWO_SIGNATURES,
        ),
        (
            String::new(),
            credential("20221228/cn-hangzhou/oss", "0"),
            vec![],
            InvalidArgument,
            ec::V4_EXPIRES,
        ),
        (
            String::new(),
            credential("20221228/cn-hangzhou/oss", "604801"),
            vec![],
            InvalidArgument,
            ec::V4_EXPIRES,
        ),
        (
            String::new(),
            credential("20221228/cn-beijing/oss", "60"),
            vec![],
            InvalidArgument,
            "0002-00000226",
        ),
        (
            String::new(),
            credential("20221228/cn-hangzhou/oss", "60"),
            vec![],
            SignatureDoesNotMatch,
            ec::V4_SIGNATURE,
        ),
    ];
    for (authorization, query, headers, code, ec) in cases {
        let mut headers: Vec<(&str, &str)> = headers;
        if !authorization.is_empty() {
            headers.push(("authorization", &authorization));
        }
        let request = request("GET", Some("k"), &query, &headers);
        let error = verify(&request, "sk", seconds(1_672_223_261)).unwrap_err();
        assert_eq!(
            (error.code(), error.ec_text()),
            (code, ec),
            "{authorization} {query}: {error}"
        );
    }
    let region = request(
        "HEAD",
        Some("k"),
        "",
        &[
            (
                "authorization",
                v4("20221228/cn-beijing/oss/aliyun_v4_request").as_str(),
            ),
            ("date", DATE),
        ],
    );
    let error = verify(&region, "sk", seconds(1_672_223_261)).unwrap_err();
    assert_eq!(
        error.message_text(),
        "Invalid signing region in Authorization header."
    );
}

#[test]
fn unsigned_requests_are_anonymous() {
    let request = request(
        "GET",
        Some("k"),
        "x-oss-process=x&versionId=1",
        &[("date", "x")],
    );
    assert_eq!(parse_authorization(&request.as_signed()).unwrap(), None);
}

fn requests() -> impl Strategy<Value = Request> {
    let pair = (
        "(acl|uploads|prefix|x-oss-process|versionId|.{1,6})",
        ".{0,12}",
    );
    let meta = ("x-oss-meta-[a-z]{1,5}", "[ -~]{0,12}");
    (
        prop_oneof![
            Just("GET"),
            Just("PUT"),
            Just("HEAD"),
            Just("DELETE"),
            Just("POST")
        ],
        proptest::option::of("[^/\\\\].{0,30}"),
        proptest::collection::vec(pair, 0..5),
        proptest::collection::vec(meta, 0..3),
    )
        .prop_map(|(method, key, pairs, metas)| {
            let metas: Vec<_> = metas
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let mut made = request(method, key.as_deref(), "", &metas);
            made.query = Query::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            made
        })
}

proptest! {
    #[test]
    fn every_signed_request_verifies_and_no_other_key_does(
        base in requests(),
        token in proptest::option::of("[A-Za-z0-9+/=]{1,20}"),
        at in 1_600_000_000u64..2_000_000_000,
    ) {
        let mut keys = Credentials::new("ak", "sk");
        keys.security_token = token;
        let signers: [&dyn Fn(&mut Request); 6] = [
            &|r| keys.sign_v1(r, seconds(at)),
            &|r| keys.presign_v1(r, seconds(at + 60)),
            &|r| keys.sign_v2(r, seconds(at), &["x-oss-meta-a", "host"]),
            &|r| keys.presign_v2(r, seconds(at + 60), &[]),
            &|r| keys.sign_v4(r, seconds(at), REGION, &["x-oss-meta-a", "host"]),
            &|r| keys.presign_v4(r, seconds(at), 60, REGION, &[]),
        ];
        for sign in signers {
            let mut signed = base.clone();
            sign(&mut signed);
            // What arrives is the raw query, parsed again.
            signed.query = Query::parse(Some(&signed.query.to_raw())).unwrap();
            prop_assert!(verify(&signed, "sk", seconds(at + 30)).is_ok());
            let other = verify(&signed, "sk2", seconds(at + 30)).unwrap_err();
            prop_assert_eq!(other.code(), ErrorCode::SignatureDoesNotMatch);
            let mut changed = signed.clone();
            changed.bucket = Some("bucket2".to_owned());
            prop_assert!(verify(&changed, "sk", seconds(at + 30)).is_err());
        }
    }

    #[test]
    fn arbitrary_authorizations_never_panic(value in "[ -~]{0,80}", query in "[ -$&-~]{0,80}") {
        let request = request("GET", Some("k"), &query, &[("authorization", &value)]);
        if let Ok(Some(presented)) = parse_authorization(&request.as_signed()) {
            let _ = presented.verify(&SigningSecret::new("sk"), seconds(0), REGION, &request.as_signed());
        }
    }
}
