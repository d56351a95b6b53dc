//! Forms of browsers and their policies: the events of a form do not depend on how its bytes were cut,
//! what is kept is bounded, and a policy is kept to if and only if every condition holds.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_oss::callback::Callback;
use granary_oss::form::{Form, FormError, FormEvent, FormParser};
use granary_oss::query::Query;
use granary_oss::sign::post_policy::{PostPolicy, PostSignature};
use granary_types::Timestamp;
use granary_types::limits::{
    FORM_FIELD_NAME_BYTES_MAX, FORM_FIELD_VALUE_BYTES_MAX, FORM_FIELDS_MAX,
};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

/// The boundary of every form here.
const CONTENT_TYPE: &[u8] = b"multipart/form-data; boundary=XyZ";
const BUCKET: &str = "bucket";
/// A time in 2026.
const NOW: Timestamp = Timestamp(1_767_323_045_000);
const SECRET: &str = "a secret that no corpus has";

fuzz_target!(|data: &[u8]| {
    // The first byte says how the rest is cut.
    let Some((&cut, body)) = data.split_first() else {
        return;
    };
    let _ = FormParser::new(body);
    let whole = events(body.chunks(body.len().max(1)));
    assert_eq!(events(body.chunks(usize::from(cut) + 1)), whole);
    assert_eq!(events(body.chunks(1)), whole);
    let Ok(events) = whole else { return };
    let mut form = Form::default();
    let mut fields = 0;
    for event in &events {
        match event {
            FormEvent::Field { name, value } => {
                assert!((1..=FORM_FIELD_NAME_BYTES_MAX).contains(&name.len()));
                assert!(value.len() <= FORM_FIELD_VALUE_BYTES_MAX);
                fields += 1;
                form.add(name, value.clone());
            }
            FormEvent::File(file) => form.set_file(file.clone()),
            _ => {}
        }
    }
    assert!(fields <= FORM_FIELDS_MAX);
    let (_, _) = (form.headers(), form.success());
    if let Ok(key) = form.key() {
        assert!((1..=1023).contains(&key.as_bytes().len()));
    }
    let _ = Callback::of_form(&form, &HeaderMap::new(), &Query::default());
    check_signature(&form);
    if let Some(policy) = form.field("policy") {
        check_policy(&form, policy);
    }
});

/// The events of a body, with the file's bytes as one.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<FormEvent>, FormError> {
    let mut parser = FormParser::new(CONTENT_TYPE).expect("a legal boundary");
    let mut events: Vec<FormEvent> = Vec::new();
    for piece in pieces {
        parser.feed(piece);
        while let Some(event) = parser.next_event()? {
            match (events.last_mut(), event) {
                (Some(FormEvent::Data(file)), FormEvent::Data(more)) => {
                    *file = [&file[..], &more[..]].concat().into();
                }
                (_, event) => events.push(event),
            }
        }
    }
    Ok(events)
}

/// Nobody can sign without the secret.
fn check_signature(form: &Form) {
    if let Ok(Some(signature)) = PostSignature::of(form) {
        assert!(signature.verify(SECRET, NOW, "cn-granary-1").is_err());
        let _ = signature.policy();
    }
}

/// A policy holds if and only if the policies that have one of its conditions each do.
fn check_policy(form: &Form, text: &str) {
    let Ok(policy) = PostPolicy::parse(text) else {
        return;
    };
    let compact: String = text.split_ascii_whitespace().collect();
    let decoded = STANDARD.decode(compact).expect("it was read");
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(&decoded) else {
        // It has an escape that JSON does not know.
        return;
    };
    let conditions = document["conditions"].as_array().expect("it was read");
    let mut all_hold = true;
    for condition in conditions {
        let mut single = document.clone();
        single["conditions"] = vec![condition.clone()].into();
        let single = PostPolicy::parse(&STANDARD.encode(single.to_string())).expect("a part of it");
        all_hold &= single.check(form, BUCKET, NOW).is_ok();
        let (least, most) = single.length_range();
        assert!(policy.length_range().0 >= least && policy.length_range().1 <= most);
    }
    let holds = policy.check(form, BUCKET, NOW).is_ok();
    assert!(holds == all_hold || conditions.is_empty());
}
