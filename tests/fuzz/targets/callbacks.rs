//! Callbacks of uploads: a line of JSON with the variables, and the callback itself. Wherever it is asked
//! for, the same is read; whom to call is a URL that can be called; and no value of a variable changes
//! the form of the body that it stands in.

#![no_main]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_fuzz::checked;
use granary_fuzz::escapes::{decoded_path, encoded};
use granary_oss::OssError;
use granary_oss::callback::{BodyType, Callback, CallbackUrl, Stored};
use granary_oss::form::Form;
use granary_oss::query::Query;
use granary_types::limits::CALLBACK_URLS_MAX;
use http::{HeaderMap, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (variables, callback) = text.split_once('\n').unwrap_or(("{}", text));
    let read = given(callback, variables, Place::Header);
    let by_query = given(callback, variables, Place::Query);
    match (&read, &by_query) {
        (Ok(read), Ok(by_query)) => assert_eq!(read, by_query),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        _ => panic!("{read:?} in headers, {by_query:?} in parameters"),
    }
    // Two answers to one question are none.
    assert!(checked(given(callback, variables, Place::Both)).is_none());
    let Some(read) = checked(read) else { return };
    assert!((1..=CALLBACK_URLS_MAX).contains(&read.urls.len()));
    read.urls.iter().for_each(check_url);
    if let Some(host) = &read.host {
        HeaderValue::try_from(host.as_str()).expect("it is sent as a header");
    }
    let members: Map<String, Value> = serde_json::from_str(callback).expect("it was read");
    check_again(&read, &members);
    let variables: BTreeMap<String, String> =
        serde_json::from_str(variables).expect("they were read");
    check_form(callback, &variables, &read);
    let body = members["callbackBody"].as_str().expect("it was read");
    check_body(&read, body, &variables);
});

enum Place {
    Header,
    Query,
    Both,
}

fn given(callback: &str, variables: &str, place: Place) -> Result<Callback, OssError> {
    let (callback, variables) = (STANDARD.encode(callback), STANDARD.encode(variables));
    let mut headers = HeaderMap::new();
    let mut query = Query::default();
    if let Place::Header | Place::Both = place {
        for (name, value) in [
            ("x-oss-callback", &callback),
            ("x-oss-callback-var", &variables),
        ] {
            headers.insert(name, HeaderValue::try_from(value).expect("base64"));
        }
    }
    if let Place::Query | Place::Both = place {
        query.push("callback", &callback);
        query.push("callback-var", &variables);
    }
    Callback::of_request(&headers, &query).map(|read| read.expect("there is one"))
}

fn check_url(url: &CallbackUrl) {
    assert!(!url.host.is_empty() && url.port != 0);
    let target: Uri = url.target().parse().expect("it is a request's target");
    assert!(target.path().starts_with('/'));
    HeaderValue::try_from(url.authority.as_str()).expect("it is sent as Host");
    let named = url.authority.trim_start_matches('[').starts_with(&url.host);
    assert!(
        named && !url.authority.contains(['@', '/', '?', '#', '\\']),
        "{url:?}"
    );
    let path = decoded_path(&url.path).unwrap_or_else(|| url.path.clone().into_bytes());
    let expected = [path.as_slice(), url.query.as_bytes(), b"\nbody"].concat();
    assert_eq!(url.string_to_sign(b"body"), expected);
}

/// What was read, written as a callback, is read as the same.
fn check_again(read: &Callback, members: &Map<String, Value>) {
    let url = |url: &CallbackUrl| {
        let scheme = if url.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", url.authority, url.target())
    };
    let again = json!({
        "callbackUrl": read.urls.iter().map(url).collect::<Vec<_>>().join(";"),
        "callbackHost": read.host,
        "callbackBodyType": read.body_type.as_str(),
        "callbackBody": members["callbackBody"],
        "callbackSNI": read.sni,
    });
    // What is written may be longer than what was read.
    if let Ok(again) = given(&again.to_string(), "{}", Place::Header) {
        assert_eq!(again.urls, read.urls);
        assert_eq!((again.host, again.sni), (read.host.clone(), read.sni));
        assert_eq!(again.body_type, read.body_type);
    }
}

/// A form has the variables as fields.
fn check_form(callback: &str, variables: &BTreeMap<String, String>, read: &Callback) {
    let mut form = Form::default();
    form.add("callback", STANDARD.encode(callback));
    for (name, value) in variables {
        form.add(name, value.clone());
    }
    if variables.contains_key("callback") {
        return;
    }
    let by_form = Callback::of_form(&form, &HeaderMap::new(), &Query::default());
    let by_form = by_form.ok().flatten().expect("it was read");
    // Names of fields are the same in every case.
    if variables.keys().all(|name| name.starts_with("x:")) {
        assert_eq!(&by_form, read);
    }
}

/// What was stored, with every text the same.
fn stored(text: &str) -> Stored<'_> {
    Stored {
        bucket: text,
        object: text,
        etag: text,
        size: 1234,
        mime_type: text,
        crc64: Some(7),
        content_md5: Some(text.to_owned()),
        client_ip: [127, 0, 0, 1].into(),
        request_id: text,
        operation: text,
    }
}

const HOSTILE: &str = "\"},\u{1}\\\"&x=1{[\u{2028}\n中%00+";

fn check_body(read: &Callback, body: &str, variables: &BTreeMap<String, String>) {
    // Variables that make it too long have no body.
    let Some(written) = read.body(&stored(HOSTILE)) else {
        return;
    };
    let written = std::str::from_utf8(&written).expect("it is text");
    let value = |name: &str| match name {
        "size" => "1234",
        "crc64" => "7",
        "clientIp" => "127.0.0.1",
        "vpcId" | "imageInfo.height" | "imageInfo.width" | "imageInfo.format" => "",
        name if name.starts_with("x:") => variables.get(name).map_or("", String::as_str),
        _ => HOSTILE,
    };
    match read.body_type {
        BodyType::Form => {
            let expected = expanded(body, |name, _| encoded(value(name).as_bytes()));
            assert_eq!(written, expected);
        }
        BodyType::Json => {
            let plain = |_: &str, in_string| if in_string { "z" } else { "\"z\"" }.to_owned();
            if serde_json::from_str::<Value>(&expanded(body, plain)).is_err() {
                // It is none, whatever stands in it.
                return;
            }
            let expected = expanded(body, |name, in_string| {
                let quoted = Value::from(value(name)).to_string();
                match (in_string, name) {
                    (true, _) => quoted[1..quoted.len() - 1].to_owned(),
                    (false, "size") => value(name).to_owned(),
                    (false, _) => quoted,
                }
            });
            assert_eq!(written, expected);
            serde_json::from_str::<Value>(written).expect("a value does not change the form");
        }
    }
}

/// A body with what is written for each variable, by its name and whether it stands inside a string.
fn expanded(body: &str, write: impl Fn(&str, bool) -> String) -> String {
    let (mut text, mut rest) = (String::new(), body);
    let (mut in_string, mut escaped) = (false, false);
    while let Some(begin) = rest.find("${") {
        for c in rest[..begin].chars() {
            (in_string, escaped) = match (c, in_string, escaped) {
                (_, true, true) => (true, false),
                ('\\', true, false) => (true, true),
                ('"', _, false) => (!in_string, false),
                _ => (in_string, false),
            };
        }
        let end = begin + rest[begin..].find('}').expect("it was read");
        text.push_str(&rest[..begin]);
        text.push_str(&write(&rest[begin + 2..end], in_string));
        rest = &rest[end + 1..];
    }
    text + rest
}
