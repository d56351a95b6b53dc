//! Policies of forms: fields, an empty line, and the document. A policy is accepted, and holds, exactly
//! when a simple second reader says so; nobody signs one without the secret.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_fuzz::{NOW, REGION, SECRET, checked, signer};
use granary_oss::form::{FilePart, Form};
use granary_oss::sign::SigningSecret;
use granary_oss::sign::post_policy::{PostPolicy, PostSignature};
use granary_types::limits::POST_POLICY_CONDITIONS_MAX;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const BUCKET: &str = "bucket";
/// [`NOW`] as V4 writes it.
const DATE: &str = "20260102T030405Z";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (fields, document) = text.split_once("\n\n").unwrap_or(("", text));
    let mut form = Form::default();
    form.set_file(FilePart {
        filename: Some("a.png".to_owned()),
        content_type: Some("image/png".to_owned()),
    });
    for line in fields.lines() {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        form.add(name, value.to_owned());
    }
    let encoded = STANDARD.encode(document);
    let policy = checked(PostPolicy::parse(&encoded));
    if let Some(expected) = Expected::read(document, &form) {
        assert_eq!(policy.is_some(), expected.is_some());
        if let (Some(policy), Some(expected)) = (&policy, expected) {
            assert_eq!(policy.length_range(), expected.length);
            let holds = checked(policy.check(&form, BUCKET, NOW)).is_some();
            assert_eq!(holds, expected.holds);
        }
    }
    check_wrapping(&encoded, policy.as_ref());
    // Nobody can sign without the secret.
    if let Some(Some(signature)) = checked(PostSignature::of(&form)) {
        assert!(checked(signature.verify(&SigningSecret::new(SECRET), NOW, REGION)).is_none());
        let _ = checked(signature.policy());
    }
    check_v1(&form, &encoded, policy.is_some());
    check_v4(&form, &encoded, policy.is_some());
});

/// Clients may wrap long lines.
fn check_wrapping(encoded: &str, policy: Option<&PostPolicy>) {
    let lines = encoded.as_bytes().chunks(76);
    let lines: Vec<&str> = lines
        .map(|line| std::str::from_utf8(line).expect("base64"))
        .collect();
    assert_eq!(
        PostPolicy::parse(&lines.join("\r\n ")).ok().as_ref(),
        policy
    );
}

/// The same form with other fields, which come first.
fn with(form: &Form, fields: &[(&str, &str)]) -> Form {
    let mut signed = Form::default();
    for (name, value) in fields {
        signed.add(name, (*value).to_owned());
    }
    let parts = [
        "policy",
        "signature",
        "ossaccesskeyid",
        "x-oss-security-token",
    ];
    for (name, value) in form.fields() {
        let is_part = parts.contains(&name)
            || ["x-oss-signature", "x-oss-credential", "x-oss-date"]
                .iter()
                .any(|p| name.starts_with(p));
        if !is_part {
            signed.add(name, value.to_owned());
        }
    }
    signed
}

fn check_v1(form: &Form, policy: &str, is_policy: bool) {
    if policy.is_empty() {
        return;
    }
    let signature = signer::hmac_sha1(SECRET, policy.as_bytes());
    let fields = [
        ("OSSAccessKeyId", "owner"),
        ("policy", policy),
        ("Signature", &signature),
    ];
    let read = PostSignature::of(&with(form, &fields)).ok().flatten();
    let read = read.expect("it is signed");
    assert_eq!((read.access_key_id(), read.kind()), ("owner", "v1_form"));
    assert!(
        read.verify(&SigningSecret::new(SECRET), NOW, REGION)
            .is_ok()
    );
    assert!(checked(read.verify(&SigningSecret::new("another"), NOW, REGION)).is_none());
    assert_eq!(checked(read.policy()).is_some(), is_policy);
    let other = format!("{policy} ");
    let fields = [
        ("OSSAccessKeyId", "owner"),
        ("policy", &other),
        ("Signature", &signature),
    ];
    let read = PostSignature::of(&with(form, &fields)).ok().flatten();
    assert!(read.is_some_and(|read| {
        read.verify(&SigningSecret::new(SECRET), NOW, REGION)
            .is_err()
    }));
}

fn check_v4(form: &Form, policy: &str, is_policy: bool) {
    if policy.is_empty() {
        return;
    }
    let day = &DATE[..8];
    let signature = signer::v4_of_text(SECRET, day, REGION, policy.as_bytes());
    let credential = format!("owner/{day}/{REGION}/oss/aliyun_v4_request");
    let fields = |policy| {
        [
            ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
            ("x-oss-credential", credential.as_str()),
            ("x-oss-date", DATE),
            ("x-oss-signature", signature.as_str()),
            ("policy", policy),
        ]
    };
    let read = PostSignature::of(&with(form, &fields(policy)))
        .ok()
        .flatten();
    let read = read.expect("it is signed");
    assert_eq!((read.access_key_id(), read.kind()), ("owner", "v4_form"));
    assert!(
        read.verify(&SigningSecret::new(SECRET), NOW, REGION)
            .is_ok()
    );
    for (secret, region, now) in [
        ("another", REGION, NOW),
        (SECRET, "elsewhere", NOW),
        // Signed in a future that no clock's error explains.
        (
            SECRET,
            REGION,
            granary_types::Timestamp(NOW.as_millis() - 16 * 60 * 1000),
        ),
    ] {
        assert!(checked(read.verify(&SigningSecret::new(secret), now, region)).is_none());
    }
    // Its own fields must be named by it.
    assert!(checked(read.policy()).is_none() || is_policy);
    let other = format!("{policy} ");
    let read = PostSignature::of(&with(form, &fields(&other)))
        .ok()
        .flatten();
    assert!(read.is_some_and(|read| {
        read.verify(&SigningSecret::new(SECRET), NOW, REGION)
            .is_err()
    }));
}

/// What the API's documentation says of a document.
struct Expected {
    holds: bool,
    length: (u64, u64),
}

impl Expected {
    /// `None` when this does not know; `Some(None)` for a document that is no policy.
    fn read(document: &str, form: &Form) -> Option<Option<Self>> {
        // A literal `$` may be written `\$`; two backslashes are one.
        let halves = document
            .split("\\\\")
            .map(|half| half.replace("\\$", "\\u0024"));
        let plain = halves.collect::<Vec<_>>().join("\\\\");
        let Ok(document) = serde_json::from_str::<Value>(&plain) else {
            return Some(None);
        };
        let (Some(expiration), Some(conditions)) =
            (document.get("expiration"), document.get("conditions"))
        else {
            return Some(None);
        };
        let Some(expiration) = expiration.as_str() else {
            return Some(None);
        };
        let expires_at = millis_of(expiration)?;
        let Some(conditions) = conditions.as_array() else {
            return Some(None);
        };
        if !(1..=POST_POLICY_CONDITIONS_MAX).contains(&conditions.len()) {
            return Some(None);
        }
        let mut expected = Self {
            holds: NOW.as_millis() <= expires_at,
            length: (0, u64::MAX),
        };
        for condition in conditions {
            let Some(holds) = expected.condition(condition, form) else {
                return Some(None);
            };
            expected.holds &= holds;
        }
        Some(Some(expected))
    }

    fn condition(&mut self, condition: &Value, form: &Form) -> Option<bool> {
        if let Some(simple) = condition.as_object() {
            let (name, value) = simple.iter().next().filter(|_| simple.len() == 1)?;
            return Some(value_of(form, name) == value.as_str()?);
        }
        let parts = condition.as_array().filter(|parts| parts.len() == 3)?;
        let operator = parts[0].as_str()?.to_ascii_lowercase();
        if operator == "content-length-range" {
            let number = |value: &Value| match value {
                Value::String(text) => text.parse().ok(),
                value => value.as_u64(),
            };
            let (least, most) = (number(&parts[1])?, number(&parts[2])?);
            self.length = (self.length.0.max(least), self.length.1.min(most));
            return (least <= most).then_some(true);
        }
        let value = value_of(form, parts[1].as_str()?);
        let text = || parts[2].as_str();
        let listed = || -> Option<bool> {
            let texts = parts[2].as_array()?.iter().map(Value::as_str);
            let texts: Option<Vec<&str>> = texts.collect();
            Some(texts?.contains(&value))
        };
        match operator.as_str() {
            "eq" => Some(value == text()?),
            "starts-with" => Some(value.get(..text()?.len()) == Some(text()?)),
            "in" => listed(),
            "not-in" => Some(!listed()?),
            _ => None,
        }
    }
}

fn value_of<'a>(form: &'a Form, name: &str) -> &'a str {
    let name = name.strip_prefix('$').unwrap_or(name).to_ascii_lowercase();
    match name.as_str() {
        "bucket" => BUCKET,
        "content-type" => form.content_type().unwrap_or_default(),
        name => form.field(name).unwrap_or_default(),
    }
}

/// `2014-12-01T12:00:00.000Z`; `None` for what may be a time in another spelling, or none.
fn millis_of(text: &str) -> Option<u64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str, digits: usize| -> Option<u64> {
        let fits = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| text.parse().ok())?
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "000"));
    let (mut date, mut clock) = (date.split('-'), clock.split(':'));
    let (year, month, day) = (
        number(date.next()?, 4)?,
        number(date.next()?, 2)?,
        number(date.next()?, 2)?,
    );
    let (hour, minute, second) = (
        number(clock.next()?, 2)?,
        number(clock.next()?, 2)?,
        number(clock.next()?, 2)?,
    );
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=28).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && date.next().is_none()
        && clock.next().is_none();
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let months = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before_year: u64 = (1970..year.min(10_000))
        .map(|year| 365 + u64::from(is_leap(year)))
        .sum();
    let before_month: u64 = months
        .iter()
        .take(usize::try_from(month.max(1) - 1).ok()?)
        .sum();
    let leap_day = u64::from(month > 2 && is_leap(year));
    let days = before_year + before_month + leap_day + day.max(1) - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    fits.then_some(())?;
    Some(seconds * 1000 + number(fraction, 3)?)
}
