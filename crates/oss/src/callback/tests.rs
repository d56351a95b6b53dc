//! What clients ask for, as the SDKs write it, and what they must not ask for.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

use super::*;

fn encoded(json: &str) -> String {
    STANDARD.encode(json)
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    pairs.iter().map(pair).collect()
}

fn in_headers(callback: &str, variables: &str) -> Result<Option<Callback>, OssError> {
    let mut pairs = vec![("x-oss-callback", callback)];
    if !variables.is_empty() {
        pairs.push(("x-oss-callback-var", variables));
    }
    Callback::of_request(&headers(&pairs), &Query::default())
}

fn parse(json: &str) -> Result<Callback, OssError> {
    in_headers(&encoded(json), "").map(Option::unwrap)
}

fn stored() -> Stored<'static> {
    Stored {
        bucket: "bkt",
        object: "a b/\"c\".txt",
        etag: "ABC",
        size: 5,
        mime_type: "text/plain",
        crc64: Some(7),
        content_md5: Some("1B2M2Y8AsgTpgAmY7PhCfg==".to_owned()),
        client_ip: IpAddr::from([10, 0, 0, 1]),
        request_id: "R1",
        operation: "PutObject",
    }
}

fn body(json: &str) -> String {
    String::from_utf8(parse(json).unwrap().body(&stored()).unwrap()).unwrap()
}

#[test]
fn forms_are_url_encoded() {
    assert_eq!(
        body(
            r#"{"callbackUrl":"h/p","callbackBody":"bucket=${bucket}&object=${object}&etag=${etag}&size=${size}&mimeType=${mimeType}&h=${imageInfo.height}&v=${vpcId}&crc=${crc64}&md5=${contentMd5}&ip=${clientIp}&id=${reqId}&op=${operation}&none=${x:none}&$(key)=$ {}"}"#
        ),
        "bucket=bkt&object=a%20b%2F%22c%22.txt&etag=ABC&size=5&mimeType=text%2Fplain&h=&v=&crc=7\
         &md5=1B2M2Y8AsgTpgAmY7PhCfg%3D%3D&ip=10.0.0.1&id=R1&op=PutObject&none=&$(key)=$ {}"
    );
}

#[test]
fn json_is_escaped() {
    assert_eq!(
        body(
            r#"{"callbackUrl":"h","callbackBodyType":"application/json","callbackBody":"{\"mimeType\":${mimeType},\"size\":${size},\"object\":${object},\"in\":\"<${object}>${size}\\\"\",\"w\":${imageInfo.width},\"crc\":${crc64}}"}"#
        ),
        r#"{"mimeType":"text/plain","size":5,"object":"a b/\"c\".txt","in":"<a b/\"c\".txt>5\"","w":"","crc":"7"}"#
    );
}

#[test]
fn variables_come_with_the_callback() {
    let callback = encoded(r#"{"callbackUrl":"h","callbackBody":"a=${x:a}&b=${x:b.c}"}"#);
    let variables = encoded(r#"{"x:a":"1 2","x:b.c":"&","object":"means nothing"}"#);
    let expected = "a=1%202&b=%26";
    let given = in_headers(&callback, &variables).unwrap().unwrap();
    assert_eq!(given.body(&stored()).unwrap(), expected.as_bytes());
    let raw = format!(
        "callback={}&callback-var={}",
        crate::escape::encode(callback.as_bytes()),
        crate::escape::encode(variables.as_bytes())
    );
    let query = Query::parse(Some(&raw)).unwrap();
    let given = Callback::of_request(&HeaderMap::new(), &query)
        .unwrap()
        .unwrap();
    assert_eq!(given.body(&stored()).unwrap(), expected.as_bytes());
    let mut form = Form::default();
    form.add("Callback", callback.clone());
    form.add("x:a", "1 2".to_owned());
    form.add("x:B.c", "&".to_owned());
    let given = Callback::of_form(&form, &HeaderMap::new(), &Query::default());
    let given = given.unwrap().unwrap();
    assert_eq!(given.body(&stored()).unwrap(), expected.as_bytes());
    // One way only.
    let header = headers(&[("x-oss-callback", &callback)]);
    for error in [
        Callback::of_request(&header, &query).unwrap_err(),
        Callback::of_form(&form, &header, &Query::default()).unwrap_err(),
        Callback::of_form(&form, &HeaderMap::new(), &query).unwrap_err(),
        Callback::of_request(&headers(&[("x-oss-callback-var", "x")]), &query).unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.message_text().ends_with("not both."), "{error}");
    }
    assert_eq!(
        Callback::of_request(&HeaderMap::new(), &Query::default()).unwrap(),
        None
    );
}

#[test]
fn urls_are_read() {
    let read = |url: &str| {
        let callback = parse(&format!(r#"{{"callbackUrl":"{url}","callbackBody":"x"}}"#)).unwrap();
        let read: Vec<_> = callback
            .urls
            .iter()
            .map(|url| (url.tls, url.host.clone(), url.port, url.target()))
            .collect();
        read
    };
    let url = |tls, host: &str, port, target: &str| (tls, host.to_owned(), port, target.to_owned());
    assert_eq!(
        read("121.101.166.30/test.php"),
        [url(false, "121.101.166.30", 80, "/test.php")]
    );
    assert_eq!(
        read("https://a.example"),
        [url(true, "a.example", 443, "/")]
    );
    assert_eq!(
        read("http://a:8080/%E4?x=1&y;http://[::1]:9/;"),
        [
            url(false, "a", 8080, "/%E4?x=1&y"),
            url(false, "::1", 9, "/")
        ]
    );
    let callback = parse(r#"{"callbackUrl":"h/a%20b?c=%20d","callbackBody":"x"}"#).unwrap();
    assert_eq!(
        callback.urls[0].string_to_sign(b"body"),
        b"/a b?c=%20d\nbody"
    );
}

#[test]
fn settings_are_read() {
    let callback = parse(
        r#"{"callbackUrl":"h","callbackHost":"oss.example:80","callbackBody":"x","callbackSNI":true,"unknown":1}"#,
    )
    .unwrap();
    assert_eq!(callback.host.as_deref(), Some("oss.example:80"));
    assert!(callback.sni);
    assert_eq!(
        callback.body_type.as_str(),
        "application/x-www-form-urlencoded"
    );
}

#[test]
fn what_is_wrong_is_told_as_oss_does() {
    let refused = |callback: &str, variables: &str, message: &str| {
        let error = in_headers(callback, variables).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{callback}");
        assert_eq!(error.message_text(), message, "{callback}");
    };
    refused(
        "error argument",
        "",
        "The callback configuration is not base64 encoded.",
    );
    refused(
        &encoded("error argument"),
        "",
        "The callback configuration is not json format.",
    );
    refused(
        &encoded("[]"),
        "",
        "The callback configuration is not json format.",
    );
    refused(
        &"A".repeat(5124),
        "",
        "The length of callback exceed max value.",
    );
    let url = "The callback url configuration is invalid.";
    let body = "The callback body is invalid.";
    for (json, message) in [
        (r#"{"callbackBody":"x"}"#, url),
        (r#"{"callbackUrl":"","callbackBody":"x"}"#, url),
        (r#"{"callbackUrl":5,"callbackBody":"x"}"#, url),
        (
            r#"{"callbackUrl":"10.101.166.30:test","callbackBody":"x"}"#,
            url,
        ),
        (r#"{"callbackUrl":"h:0","callbackBody":"x"}"#, url),
        (r#"{"callbackUrl":"http://a@h/","callbackBody":"x"}"#, url),
        (r#"{"callbackUrl":"ftp://h/","callbackBody":"x"}"#, url),
        (r#"{"callbackUrl":"http://h/a b","callbackBody":"x"}"#, url),
        (
            r#"{"callbackUrl":"a;b;c;d;e;f","callbackBody":"x"}"#,
            "The number of callback url exceed max value.",
        ),
        (r#"{"callbackUrl":"h"}"#, "The callback body is empty."),
        (
            r#"{"callbackUrl":"h","callbackBody":""}"#,
            "The callback body is empty.",
        ),
        (r#"{"callbackUrl":"h","callbackBody":{}}"#, body),
        (r#"{"callbackUrl":"h","callbackBody":"a=${bucket"}"#, body),
        (r#"{"callbackUrl":"h","callbackBody":"a=${nothing}"}"#, body),
        (
            r#"{"callbackUrl":"h","callbackBody":"x","callbackHost":"a b"}"#,
            "The callback host configuration is invalid.",
        ),
        (
            r#"{"callbackUrl":"h","callbackBody":"x","callbackBodyType":"text/xml"}"#,
            "The body type of callback is not supported.",
        ),
        (
            r#"{"callbackUrl":"h","callbackBody":"x","callbackBodyType":1}"#,
            "The callback body type configuration is invalid.",
        ),
    ] {
        refused(&encoded(json), "", message);
    }
    let good = encoded(r#"{"callbackUrl":"h","callbackBody":"x"}"#);
    let bad_variables = "The callback var is not expecten json.";
    for json in ["", "[]", r#"{"x:A":"b"}"#, r#"{"x:a":1}"#] {
        let given = if json.is_empty() {
            "%%".to_owned()
        } else {
            encoded(json)
        };
        refused(&good, &given, bad_variables);
    }
    refused(
        &good,
        &"A".repeat(5124),
        "The length of callback var exceed max value.",
    );
    for json in [
        r#"{"callbackPolicy":"p"}"#,
        r#"{"callbackUrl":"h","callbackBody":"x","additionalHeaders":{}}"#,
    ] {
        let error = parse(json).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotImplemented);
    }
    assert_eq!(
        parse(r#"{"callbackPolicy":"p"}"#)
            .unwrap_err()
            .extra_value("Header"),
        Some("callbackPolicy")
    );
}

#[test]
fn bodies_and_variables_are_bounded() {
    let callback = encoded(&format!(
        r#"{{"callbackUrl":"h","callbackBody":"{}"}}"#,
        "${x:a}".repeat(500)
    ));
    let given = |value: &str| {
        let mut form = Form::default();
        form.add("callback", callback.clone());
        form.add("x:a", value.to_owned());
        Callback::of_form(&form, &HeaderMap::new(), &Query::default())
    };
    let short = given("abc").unwrap().unwrap().body(&stored()).unwrap();
    assert_eq!(short, "abc".repeat(500).as_bytes());
    let long = given(&"a".repeat(4096)).unwrap().unwrap();
    assert_eq!(long.body(&stored()), None);
    let error = given(&"a".repeat(CALLBACK_BYTES_MAX)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}
