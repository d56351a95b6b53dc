//! Golden signatures, every kind of condition, and what is refused. The signatures were computed apart
//! from this code, step by step as the SDKs' samples do it (go v2, `post_object`; python v1,
//! `object_post`).

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_701_605_600_000); // 2023-12-03T12:13:20Z
const REGION: &str = "cn-hangzhou";
const CREDENTIAL: &str = "ak/20231203/cn-hangzhou/oss/aliyun_v4_request";
const DATE: &str = "20231203T121212Z";
const GOLDEN_DOCUMENT: &str = concat!(
    r#"{"expiration":"2023-12-03T13:00:00.000Z","conditions":[{"bucket":"examplebucket"},"#,
    r#"{"x-oss-signature-version":"OSS4-HMAC-SHA256"},"#,
    r#"{"x-oss-credential":"ak/20231203/cn-hangzhou/oss/aliyun_v4_request"},"#,
    r#"{"x-oss-date":"20231203T121212Z"},["content-length-range",1,1024]]}"#
);
const GOLDEN_V1: &str = "Rtk/GklTKIojTTISAh6ORvi4rgA=";
const GOLDEN_V4: &str = "00a867c28c763ac3e14a0bd37dd675c9414ee3258e327b629c5ea9531f86c3b1";

fn form(fields: &[(&str, &str)]) -> Form {
    let mut form = Form::default();
    for (name, value) in fields {
        form.add(name, (*value).to_owned());
    }
    form
}

fn v1_form(policy: &str, signature: &str) -> Form {
    form(&[
        ("policy", policy),
        ("OSSAccessKeyId", "ak"),
        ("signature", signature),
    ])
}

fn v4_form(policy: &str, signature: &str) -> Form {
    form(&[
        ("policy", policy),
        ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
        ("x-oss-credential", CREDENTIAL),
        ("x-oss-date", DATE),
        ("x-oss-signature", signature),
    ])
}

fn signature(form: &Form) -> PostSignature {
    PostSignature::of(form)
        .unwrap()
        .expect("the form is signed")
}

fn document(conditions: &str) -> String {
    let expiration = "2023-12-03T13:00:00Z";
    STANDARD.encode(format!(
        r#"{{"expiration": "{expiration}", "conditions": {conditions}}}"#
    ))
}

#[test]
fn golden_signatures_are_good() {
    let policy = STANDARD.encode(GOLDEN_DOCUMENT);
    for (form, kind) in [
        (v1_form(&policy, GOLDEN_V1), "v1_form"),
        (v4_form(&policy, GOLDEN_V4), "v4_form"),
    ] {
        let presented = signature(&form);
        assert_eq!((presented.access_key_id(), presented.kind()), ("ak", kind));
        presented
            .verify(&SigningSecret::new("sk"), NOW, REGION)
            .unwrap();
        let read = presented.policy().unwrap();
        assert_eq!(read.length_range(), (1, 1024));
        if kind == "v4_form" {
            read.check(&form, "examplebucket", NOW).unwrap();
        }
        let error = presented
            .verify(&SigningSecret::new("other"), NOW, REGION)
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::SignatureDoesNotMatch);
        assert_eq!(error.extra_value("StringToSign"), Some(policy.as_str()));
    }
    // One letter of the policy more, and the signature is of something else.
    let changed = v1_form(&format!("{policy}A"), GOLDEN_V1);
    assert!(
        signature(&changed)
            .verify(&SigningSecret::new("sk"), NOW, REGION)
            .is_err()
    );
}

#[test]
fn all_of_a_signature_or_nothing() {
    assert!(PostSignature::of(&form(&[("key", "a")])).unwrap().is_none());
    let v1 = ["policy", "OSSAccessKeyId", "Signature"];
    let v4 = [
        "policy",
        "x-oss-signature-version",
        "x-oss-credential",
        "x-oss-date",
        "x-oss-signature",
    ];
    let value = |name: &str| match name {
        "x-oss-signature-version" => "OSS4-HMAC-SHA256",
        "x-oss-credential" => CREDENTIAL,
        _ => "x",
    };
    for names in [&v1[..], &v4[..]] {
        for missing in names {
            let rest = names.iter().filter(|name| *name != missing);
            let fields: Vec<(&str, &str)> = rest.map(|name| (*name, value(name))).collect();
            let error = match PostSignature::of(&form(&fields)) {
                // Without its version it is no V4, and no V1 either.
                Ok(_) => panic!("{missing} is not missed"),
                Err(error) => error,
            };
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{missing}");
            if names.len() == 3 {
                assert_eq!(error.extra_value("ArgumentName"), Some(*missing));
            }
        }
    }
    for (fields, ec) in [
        (
            &[
                ("policy", "x"),
                ("signature", "x"),
                ("x-oss-signature", "x"),
            ][..],
            ec::TWO_SIGNATURES,
        ),
        (
            &[("policy", "x"), ("x-oss-signature-version", "OSS2")][..],
            ec::UNKNOWN_SCHEME,
        ),
        (&[("signature", "x")][..], ec::POST_POLICY_MISSING),
    ] {
        let error = PostSignature::of(&form(fields)).err().unwrap();
        assert_eq!(
            (error.code(), error.ec_text()),
            (ErrorCode::InvalidArgument, ec)
        );
    }
}

#[test]
fn the_scope_of_v4_is_ours() {
    let policy = STANDARD.encode(GOLDEN_DOCUMENT);
    let presented = signature(&v4_form(&policy, GOLDEN_V4));
    let error = presented
        .verify(&SigningSecret::new("sk"), NOW, "cn-other")
        .unwrap_err();
    assert_eq!(error.ec_text(), ec::V4_REGION);
    let early = Timestamp(NOW.as_millis() - 3600 * 1000);
    let error = presented
        .verify(&SigningSecret::new("sk"), early, REGION)
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::RequestTimeTooSkewed);
    // Age is the policy's business.
    let late = NOW.plus_millis(30 * 24 * 3600 * 1000);
    presented
        .verify(&SigningSecret::new("sk"), late, REGION)
        .unwrap();
    let mut fields = v4_form(&policy, GOLDEN_V4);
    fields.set_file(Default::default());
    for (date, code) in [
        ("20231202T121212Z", ErrorCode::InvalidArgument),
        ("yesterday", ErrorCode::AccessDenied),
    ] {
        let form = form(&[
            ("policy", &policy),
            ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
            ("x-oss-credential", CREDENTIAL),
            ("x-oss-date", date),
            ("x-oss-signature", GOLDEN_V4),
        ]);
        let error = signature(&form)
            .verify(&SigningSecret::new("sk"), NOW, REGION)
            .unwrap_err();
        assert_eq!(error.code(), code, "{date}");
    }
}

#[test]
fn v4_policies_name_their_signature() {
    for missing in ["x-oss-signature-version", "x-oss-credential", "x-oss-date"] {
        let all = [
            ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
            ("x-oss-credential", CREDENTIAL),
            ("x-oss-date", DATE),
        ];
        let conditions: Vec<String> = all
            .iter()
            .filter(|(name, _)| *name != missing)
            .map(|(name, value)| format!(r#"["eq", "${name}", "{value}"]"#))
            .chain([format!(r#"["starts-with", "${missing}", ""]"#)])
            .collect();
        let policy = document(&format!("[{}]", conditions.join(",")));
        let error = signature(&v4_form(&policy, "x")).policy().unwrap_err();
        assert_eq!(error.code(), ErrorCode::AccessDenied);
        assert_eq!(error.ec_text(), "0006-00000228");
        let message = format!("Invalid according to Policy: Extra input fields: {missing}");
        assert_eq!(error.message_text(), message);
    }
}

#[test]
fn every_condition_decides() {
    let form = form(&[
        ("key", "user/${filename}"),
        ("Content-Type", "image/png"),
        ("x-oss-meta-a", "1"),
        ("price", "$5"),
    ]);
    for (condition, holds) in [
        (r#"{"bucket": "bkt"}"#, true),
        (r#"{"bucket": "other"}"#, false),
        (r#"{"key": "user/${filename}"}"#, true),
        (r#"["eq", "$key", "user/a.png"]"#, false),
        (r#"["eq", "$KEY", "user/${filename}"]"#, true),
        (r#"["starts-with", "$key", "user/"]"#, true),
        (r#"["starts-with", "$key", "User/"]"#, false),
        (r#"["starts-with", "key", "user/"]"#, true),
        (
            r#"["in", "$content-type", ["image/jpg", "image/png"]]"#,
            true,
        ),
        (r#"["in", "$content-type", ["image/jpg"]]"#, false),
        (r#"["in", "$content-type", []]"#, false),
        (r#"["not-in", "$content-type", ["image/jpg"]]"#, true),
        (r#"["not-in", "$content-type", ["image/png"]]"#, false),
        (r#"["not-in", "$cache-control", ["no-cache"]]"#, true),
        (r#"{"x-oss-meta-a": "1"}"#, true),
        (r#"{"x-oss-meta-b": "1"}"#, false),
        (r#"["starts-with", "$x-oss-meta-b", ""]"#, true),
        (r#"{"price": "\$5"}"#, true),
        (r#"{"price": "\\$5"}"#, false),
        (r#"["content-length-range", 1, 2]"#, true),
    ] {
        let policy = PostPolicy::parse(&document(&format!("[{condition}]"))).unwrap();
        let checked = policy.check(&form, "bkt", NOW);
        assert_eq!(checked.is_ok(), holds, "{condition}");
        if let Err(error) = checked {
            assert_eq!(error.code(), ErrorCode::AccessDenied);
            let said = error.message_text();
            assert!(
                said.starts_with("Invalid according to Policy: Policy Condition failed: [\""),
                "{said}"
            );
        }
    }
    let failed = |condition: &str| {
        let policy = PostPolicy::parse(&document(&format!("[{condition}]"))).unwrap();
        policy
            .check(&form, "bkt", NOW)
            .unwrap_err()
            .message_text()
            .to_owned()
    };
    assert_eq!(
        failed(r#"["starts-with", "$Key", "a\"b/"]"#),
        r#"Invalid according to Policy: Policy Condition failed: ["starts-with", "$Key", "a\"b/"]"#
    );
    assert_eq!(
        failed(r#"["in", "$content-type", ["a", "b"]]"#),
        r#"Invalid according to Policy: Policy Condition failed: ["in", "$content-type", ["a", "b"]]"#
    );
}

#[test]
fn policies_expire() {
    for (expiration, good) in [
        ("2023-12-03T12:13:20.000Z", true),
        ("2023-12-03T12:13:20Z", true),
        ("2023-12-03T12:13:20.123456Z", true),
        ("2023-12-03T12:13:19.999Z", false),
        ("2023-12-03T20:13:20+08:00", true),
    ] {
        let text = format!(
            r#"{{"expiration": "{expiration}", "conditions": [["starts-with", "$key", ""]]}}"#
        );
        let policy = PostPolicy::parse(&STANDARD.encode(text)).unwrap();
        let checked = policy.check(&Form::default(), "bkt", NOW);
        assert_eq!(checked.is_ok(), good, "{expiration}");
        if let Err(error) = checked {
            assert_eq!(
                error.message_text(),
                "Invalid according to Policy: Policy expired."
            );
            assert_eq!(error.code(), ErrorCode::AccessDenied);
        }
    }
}

#[test]
fn ranges_meet() {
    let range = |conditions: &str| {
        PostPolicy::parse(&document(conditions))
            .unwrap()
            .length_range()
    };
    assert_eq!(range(r#"[{"key": "k"}]"#), (0, u64::MAX));
    assert_eq!(range(r#"[["content-length-range", 0, 10]]"#), (0, 10));
    assert_eq!(
        range(r#"[["content-length-range", 5, 10], ["Content-Length-Range", "1", "8"]]"#),
        (5, 8)
    );
}

#[test]
fn documents_that_are_none_are_refused() {
    let encoded = |text: &str| STANDARD.encode(text);
    let many = format!(
        "[{}]",
        vec![r#"{"a":"b"}"#; POST_POLICY_CONDITIONS_MAX + 1].join(",")
    );
    for (text, ec) in [
        ("%%%".to_owned(), ""),
        (encoded("{"), ""),
        (STANDARD.encode(b"\xff"), ""),
        (encoded("[]"), ec::POST_POLICY_EXPIRATION),
        (encoded(r#"{"conditions": []}"#), ec::POST_POLICY_EXPIRATION),
        (
            encoded(r#"{"expiration": "2023-12-03T13:00:00Z"}"#),
            ec::POST_POLICY_CONDITIONS,
        ),
        (encoded(r#"{"expiration": 5, "conditions": []}"#), ""),
        (
            encoded(r#"{"expiration": "tomorrow", "conditions": []}"#),
            "",
        ),
        (document("{}"), ec::POST_POLICY_NO_LIST),
        (document("123"), ec::POST_POLICY_NO_LIST),
        (document("[]"), ec::POST_POLICY_EMPTY),
        (document("[[]]"), ec::POST_POLICY_MODE),
        (document(r#"[["$key"]]"#), ec::POST_POLICY_MODE),
        (document("[123]"), ec::POST_POLICY_CONDITION),
        (document("[{}]"), ""),
        (document(r#"[{"a": "b", "c": "d"}]"#), ""),
        (document(r#"[{"a": 1}]"#), ec::POST_POLICY_TYPE),
        (document(r#"[["eq", "$a"]]"#), ec::POST_POLICY_ELEMENTS),
        (
            document(r#"[["eq", "$a", "b", "c"]]"#),
            ec::POST_POLICY_ELEMENTS,
        ),
        (document(r#"[["like", "$a", "b"]]"#), ec::POST_POLICY_MODE),
        (document(r#"[["eq", 1, "b"]]"#), ec::POST_POLICY_TYPE),
        (
            document(r#"[["not-in", "cache-control", "no-cache"]]"#),
            ec::POST_POLICY_TYPE,
        ),
        (document(r#"[["in", "$a", [1]]]"#), ec::POST_POLICY_TYPE),
        (
            document(r#"[["content-length-range", -1, 2]]"#),
            ec::POST_POLICY_LEAST,
        ),
        (
            document(r#"[["content-length-range", 1, 2.5]]"#),
            ec::POST_POLICY_MOST,
        ),
        (
            document(r#"[["content-length-range", 20, 10]]"#),
            ec::POST_POLICY_RANGE,
        ),
        (document(&many), ""),
        (document(&"[".repeat(10_000)), ""),
    ] {
        let error = PostPolicy::parse(&text).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidPolicyDocument, "{text}");
        if !ec.is_empty() {
            assert_eq!(error.ec_text(), ec, "{text}");
        }
    }
    // Lines that a mail program would make.
    let wrapped = document(r#"[{"key": "k"}]"#).as_bytes().chunks(20).fold(
        String::new(),
        |mut text, line| {
            text.push_str(std::str::from_utf8(line).unwrap());
            text.push_str("\r\n");
            text
        },
    );
    assert!(PostPolicy::parse(&wrapped).is_ok());
}

proptest! {
    /// A policy holds if and only if each of its conditions does.
    #[test]
    fn a_policy_is_all_of_its_conditions(
        conditions in prop::collection::vec(("[ab]", "[ab]{0,2}", 0u8..4), 1..6),
        fields in prop::collection::vec(("[ab]", "[ab]{0,2}"), 0..4),
    ) {
        let mut form = Form::default();
        for (name, value) in &fields {
            form.add(name, value.clone());
        }
        let text = |(name, value, kind): &(String, String, u8)| match kind {
            0 => format!(r#"{{"{name}": "{value}"}}"#),
            1 => format!(r#"["starts-with", "${name}", "{value}"]"#),
            2 => format!(r#"["in", "${name}", ["{value}", "bb"]]"#),
            _ => format!(r#"["not-in", "${name}", ["{value}"]]"#),
        };
        let expected = conditions.iter().all(|(name, value, kind)| {
            let actual = form.field(name).unwrap_or_default();
            match kind {
                0 => actual == value,
                1 => actual.starts_with(value.as_str()),
                2 => actual == value || actual == "bb",
                _ => actual != value,
            }
        });
        let all: Vec<String> = conditions.iter().map(text).collect();
        let policy = PostPolicy::parse(&document(&format!("[{}]", all.join(",")))).unwrap();
        prop_assert_eq!(policy.check(&form, "bkt", NOW).is_ok(), expected);
    }
}
