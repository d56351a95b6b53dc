//! Forms of browsers, over the wire: who may post them, what becomes of the file, what is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_oss::header::date::{format_basic_iso8601, format_iso8601};
use granary_runtime::Runtime;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha256;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::client::{Answer, Client, Sign, read_answer};
use super::fixture::Served;

const BOUNDARY: &str = "----WebKitFormBoundaryW0DET1iaBMeAOBg3";
const REGION: &str = "cn-granary-1";

/// Conditions that every form keeps to.
const ANY: &str = r#"[["starts-with", "$key", ""]]"#;

/// A form under construction.
#[derive(Clone, Default)]
struct Form {
    fields: Vec<(String, String)>,
    file: Vec<u8>,
    /// The headers of the file's part besides its name.
    file_header: String,
    /// What follows the file, instead of the end.
    rest: Option<String>,
}

fn form(fields: &[(&str, &str)], file: impl AsRef<[u8]>) -> Form {
    Form {
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        file: file.as_ref().to_vec(),
        file_header: "; filename=\"photo.png\"\r\nContent-Type: image/png".to_owned(),
        rest: None,
    }
}

impl Form {
    fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    fn rest(mut self, rest: &str) -> Self {
        self.rest = Some(rest.to_owned());
        self
    }

    /// Signs a policy with these conditions, good for a minute.
    fn signed_v1(self, conditions: &str) -> Self {
        self.signed_v1_by("first", "first-secret", conditions)
    }

    fn signed_v1_by(self, id: &str, secret: &str, conditions: &str) -> Self {
        let policy = policy(conditions, 60_000);
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(policy.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        self.field("OSSAccessKeyId", id)
            .field("policy", &policy)
            .field("Signature", &signature)
    }

    fn signed_v4(self, conditions: &str) -> Self {
        let date = format_basic_iso8601(Runtime::system().now());
        let credential = format!("first/{}/{REGION}/oss/aliyun_v4_request", &date[..8]);
        let own = format!(
            r#"{{"x-oss-signature-version": "OSS4-HMAC-SHA256"}}, {{"x-oss-credential": "{credential}"}}, {{"x-oss-date": "{date}"}}"#
        );
        let inner = conditions
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap();
        let joint = if inner.is_empty() { "" } else { ", " };
        let all = format!("[{own}{joint}{inner}]");
        let policy = policy(&all, 60_000);
        let mut key = b"aliyun_v4first-secret".to_vec();
        for part in [&date[..8], REGION, "oss", "aliyun_v4_request", &policy] {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(part.as_bytes());
            key = mac.finalize().into_bytes().to_vec();
        }
        let signature: String = key.iter().map(|b| format!("{b:02x}")).collect();
        self.field("x-oss-signature-version", "OSS4-HMAC-SHA256")
            .field("x-oss-credential", &credential)
            .field("x-oss-date", &date)
            .field("policy", &policy)
            .field("x-oss-signature", &signature)
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, value) in &self.fields {
            body.extend_from_slice(
                format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
                    .as_bytes(),
            );
        }
        let header = &self.file_header;
        body.extend_from_slice(
            format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"{header}\r\n\r\n"
            )
            .as_bytes(),
        );
        body.extend_from_slice(&self.file);
        match &self.rest {
            Some(rest) => body.extend_from_slice(rest.as_bytes()),
            None => body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes()),
        }
        body
    }

    async fn post(&self, client: &Client, bucket: &str) -> Answer {
        send(client, bucket, &self.body(), &[]).await
    }
}

fn policy(conditions: &str, good_for_ms: u64) -> String {
    let expiration = format_iso8601(Runtime::system().now().plus_millis(good_for_ms));
    STANDARD.encode(format!(
        r#"{{"expiration": "{expiration}", "conditions": {conditions}}}"#
    ))
}

async fn send(client: &Client, bucket: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
    let anonymous = client.signing(Sign::Anonymous);
    let mut call = anonymous.call("POST", bucket).header(
        "content-type",
        &format!("multipart/form-data; boundary={BOUNDARY}"),
    );
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.body(body).send().await
}

fn outcome(code: u16, name: &str) -> (u16, String) {
    (code, name.to_owned())
}

async fn served() -> (Served, Client) {
    let served = Served::real().await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    (served, client)
}

#[tokio::test]
async fn files_are_stored_with_what_the_fields_say() {
    let (_served, client) = served().await;
    let conditions = r#"[{"bucket": "bkt"}, ["starts-with", "$key", "dir/"], ["content-length-range", 0, 2000000]]"#;
    let bodies: [&[u8]; 4] = [
        b"",
        b"one\r\n--not the boundary\r\n----WebKitFormBoundary\r\n",
        &[7; 100_000],
        &[8; 1_500_000],
    ];
    for (n, body) in bodies.into_iter().enumerate() {
        let fields = [
            ("key", format!("dir/{n}/${{filename}}")),
            ("x-oss-meta-n", n.to_string()),
            ("Cache-Control", "max-age=7".to_owned()),
            ("x-oss-content-type", "a/b".to_owned()),
            ("Content-Type", "ignored/here".to_owned()),
        ];
        let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let plain = form(&fields, body);
        let signed = match n % 2 {
            0 => plain.signed_v1(conditions),
            _ => plain.signed_v4(conditions),
        };
        let answer = signed.post(&client, "bkt").await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        let got = client.get(&format!("bkt/dir/{n}/photo.png")).await;
        assert_eq!(got.status, 200);
        assert!(got.body == body, "body {n}");
        assert_eq!(got.header("etag"), answer.header("etag"));
        assert_eq!(
            got.header("x-oss-hash-crc64ecma"),
            answer.header("x-oss-hash-crc64ecma")
        );
        assert_eq!(got.header("x-oss-meta-n"), n.to_string());
        assert_eq!(got.header("cache-control"), "max-age=7");
        assert_eq!(got.header("content-type"), "a/b");
        assert_eq!(got.header("x-oss-object-type"), "Normal");
    }
}

#[tokio::test]
async fn forms_make_the_directories_of_a_path() {
    let (_served, client) = served().await;
    let bucket = client
        .call("PUT", "tree")
        .header("x-oss-hns-status", "enabled");
    assert_eq!(bucket.send().await.status, 200);
    for (key, file, expected) in [
        ("a/b/k", &b"file"[..], (204, "")),
        ("a/b/large", &[7; 100_000][..], (204, "")),
        ("c/", b"", (204, "")),
        ("d/", b"file", (400, "InvalidObjectName")),
        ("a//k", b"file", (400, "InvalidObjectName")),
        ("a/b", b"file", (409, "FileAlreadyExists")),
        ("a/b/k/x", b"file", (409, "FileAlreadyExists")),
    ] {
        let signed = form(&[("key", key)], file).signed_v1(ANY);
        let answer = signed.post(&client, "tree").await;
        let expected = (expected.0, expected.1.to_owned());
        assert_eq!(answer.outcome(), expected, "{key}: {}", answer.text());
    }
    assert_eq!(client.get("tree/a/b/k").await.text(), "file");
    assert_eq!(
        client.get("tree").await.elements("Key"),
        ["a/", "a/b/", "a/b/k", "a/b/large", "c/"]
    );
}

#[tokio::test]
async fn success_is_told_as_asked() {
    let (_served, client) = served().await;
    for (fields, status) in [
        (&[][..], 204),
        (&[("success_action_status", "200")][..], 200),
        (&[("success_action_status", "400")][..], 204),
        (&[("success_action_status", "201")][..], 201),
        (
            &[
                ("success_action_status", "201"),
                ("success_action_redirect", "http://h/p?a=b"),
            ][..],
            303,
        ),
    ] {
        let signed = form(&[("key", "a b")], "x").signed_v1(ANY);
        let signed = fields.iter().fold(signed, |form, (k, v)| form.field(k, v));
        let answer = signed.post(&client, "bkt").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let etag = "\"9DD4E461268C8034F5C8564E155C67A6\"";
        assert_eq!(answer.header("etag"), etag);
        match status {
            201 => {
                assert_eq!(answer.header("content-type"), "application/xml");
                assert_eq!(answer.element("Bucket"), "bkt");
                assert_eq!(answer.element("Key"), "a b");
                assert_eq!(answer.element("ETag").replace("&quot;", "\""), etag);
                let location = format!("http://{}/bkt/a%20b", client.host);
                assert_eq!(answer.element("Location"), location);
            }
            303 => assert_eq!(
                answer.header("location"),
                "http://h/p?a=b&bucket=bkt&key=a%20b&etag=%229DD4E461268C8034F5C8564E155C67A6%22"
            ),
            _ => assert!(answer.body.is_empty()),
        }
    }
}

#[tokio::test]
async fn nobody_posts_without_permission() {
    let (served, client) = served().await;
    let plain = form(&[("key", "k")], "x");
    let denied = plain.post(&client, "bkt").await;
    assert_eq!(denied.outcome(), outcome(403, "AccessDenied"));
    // A signature in the head or the query is not looked at: neither good nor bad.
    for sign in [Sign::V1, Sign::V4, Sign::PresignV1, Sign::PresignV4] {
        let signing = client.signing(sign);
        let call = signing.call("POST", "bkt").header(
            "content-type",
            &format!("multipart/form-data; boundary={BOUNDARY}"),
        );
        let answer = call.body(plain.body()).send().await;
        assert_eq!(answer.outcome(), outcome(403, "AccessDenied"), "{sign:?}");
    }
    let signed = plain.clone().signed_v1(ANY).body();
    let answer = send(
        &client,
        "bkt",
        &signed,
        &[("authorization", "OSS nonsense")],
    )
    .await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    // Another account's key, a key that nobody has, a wrong secret, a token that nobody issued.
    for (form, expected) in [
        (
            plain.clone().signed_v1_by("nobody", "x", ANY),
            outcome(403, "InvalidAccessKeyId"),
        ),
        (
            plain.clone().signed_v1_by("first", "wrong", ANY),
            outcome(403, "SignatureDoesNotMatch"),
        ),
        (
            plain
                .clone()
                .signed_v1(ANY)
                .field("x-oss-security-token", "t"),
            outcome(403, "InvalidSecurityToken"),
        ),
        (
            plain.clone().field("policy", "x"),
            outcome(400, "InvalidArgument"),
        ),
        (
            plain.clone().field("OSSAccessKeyId", "first"),
            outcome(400, "InvalidArgument"),
        ),
        (
            plain.clone().field("x-oss-signature", "x"),
            outcome(400, "InvalidArgument"),
        ),
    ] {
        assert_eq!(form.post(&client, "bkt").await.outcome(), expected);
    }
    let missing = plain.clone().signed_v1_by("nobody", "x", ANY);
    let answer = missing.post(&client, "no-such-bucket").await;
    assert_eq!(answer.outcome(), outcome(404, "NoSuchBucket"));
    // Anybody may write where everybody may; the object is the bucket owner's.
    let acl = client
        .call("PUT", "open")
        .header("x-oss-acl", "public-read-write");
    assert_eq!(acl.send().await.status, 200);
    let answer = plain.post(&client, "open").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    let listed = client.get("open?list-type=2&fetch-owner=true").await;
    assert_eq!(listed.element("Key"), "k");
    assert_eq!(
        listed.element("ID"),
        client.get("open?acl").await.element("ID")
    );
    assert!(
        served
            .metrics()
            .contains("operation=\"PostObject\",code=\"NoSuchBucket\"")
    );
}

#[tokio::test]
async fn policies_decide() {
    let (_served, client) = served().await;
    let fields = [("key", "user/x"), ("x-oss-meta-a", "1")];
    for (conditions, said) in [
        (r#"[{"bucket": "other"}]"#, r#"["eq", "$bucket", "other"]"#),
        (
            r#"[["starts-with", "$key", "admin/"]]"#,
            r#"["starts-with", "$key", "admin/"]"#,
        ),
        (
            r#"[["in", "$content-type", ["image/gif"]]]"#,
            r#"["in", "$content-type", ["image/gif"]]"#,
        ),
        (
            r#"[["not-in", "$x-oss-meta-a", ["1"]]]"#,
            r#"["not-in", "$x-oss-meta-a", ["1"]]"#,
        ),
    ] {
        for signed in [
            form(&fields, "x").signed_v1(conditions),
            form(&fields, "x").signed_v4(conditions),
        ] {
            let answer = signed.post(&client, "bkt").await;
            assert_eq!(
                answer.outcome(),
                outcome(403, "AccessDenied"),
                "{conditions}"
            );
            let message = answer.element("Message").replace("&quot;", "\"");
            assert_eq!(
                message,
                format!("Invalid according to Policy: Policy Condition failed: {said}")
            );
        }
    }
    // The request's own header is under the policy too.
    let held =
        form(&fields, "x").signed_v1(r#"[["not-in", "$x-oss-object-acl", ["public-read"]]]"#);
    let public = [("x-oss-object-acl", "public-read")];
    let answer = send(&client, "bkt", &held.body(), &public).await;
    assert_eq!(answer.outcome(), outcome(403, "AccessDenied"));
    let malformed = form(&fields, "x")
        .signed_v1("[123]")
        .post(&client, "bkt")
        .await;
    assert_eq!(malformed.outcome(), outcome(400, "InvalidPolicyDocument"));
    assert_eq!(malformed.header("x-oss-ec"), "0006-00000222");
    assert_eq!(client.get("bkt/user/x").await.status, 404);
}

#[tokio::test]
async fn the_size_is_the_policys() {
    let (_served, client) = served().await;
    let ranged = |file: Vec<u8>| {
        form(&[("key", "k")], file).signed_v1(r#"[["content-length-range", 10, 200000]]"#)
    };
    for (bytes, code) in [
        (9, "EntityTooSmall"),
        (200_001, "EntityTooLarge"),
        (900_000, "EntityTooLarge"),
    ] {
        let answer = ranged(vec![1; bytes]).post(&client, "bkt").await;
        assert_eq!(answer.outcome(), outcome(400, code), "{bytes}");
        assert_eq!(client.get("bkt/k").await.status, 404);
    }
    for bytes in [10, 200_000] {
        assert_eq!(
            ranged(vec![1; bytes]).post(&client, "bkt").await.status,
            204
        );
        assert_eq!(client.get("bkt/k").await.body.len(), bytes);
    }
    let huge = [("content-length", "5368709121")];
    let answer = send(&client, "bkt", b"", &huge).await;
    assert_eq!(answer.outcome(), outcome(400, "EntityTooLarge"));
}

#[tokio::test]
async fn what_is_no_form_is_refused() {
    let (_served, client) = served().await;
    let signed = form(&[("key", "k")], "x").signed_v1(ANY);
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let part = |name: &str| {
        format!("\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\ny")
    };
    let no_file = {
        let whole = signed.body();
        let text = String::from_utf8(whole).unwrap();
        let cut = text.find("name=\"file\"").unwrap();
        let start = text[..cut].rfind("\r\n--").unwrap();
        text[..start].to_owned() + &end
    };
    for (body, code) in [
        (Vec::new(), "MalformedPOSTRequest"),
        (b"hello".to_vec(), "MalformedPOSTRequest"),
        (signed.clone().rest("").body(), "MalformedPOSTRequest"),
        (
            signed.clone().rest(&format!("\r\n--{BOUNDARY}")).body(),
            "MalformedPOSTRequest",
        ),
        (
            signed.clone().rest(&(part("file") + &end)).body(),
            "IncorrectNumberOfFilesInPOSTRequest",
        ),
        (no_file.into_bytes(), "IncorrectNumberOfFilesInPOSTRequest"),
        (
            form(&[], "x").signed_v1(ANY).body(),
            "IncorrectNumberOfFilesInPOSTRequest",
        ),
        (
            signed.clone().field(&"n".repeat(9000), "").body(),
            "FieldItemTooLong",
        ),
        (
            signed.clone().field("v", &"v".repeat(2_100_000)).body(),
            "FieldItemTooLong",
        ),
    ] {
        let answer = send(&client, "bkt", &body, &[]).await;
        assert_eq!(answer.outcome(), outcome(400, code));
        assert_eq!(client.get("bkt/k").await.status, 404, "{code}");
    }
    let mut nameless = signed.clone();
    nameless.file_header = "\r\nContent-Disposition: form-data".to_owned();
    let answer = nameless.post(&client, "bkt").await;
    assert_eq!(answer.outcome(), outcome(400, "MalformedPOSTRequest"));
    let (malformed, other) = ("MalformedPOSTRequest", "RequestIsNotMultiPartContent");
    for (content_type, code) in [
        ("", other),
        ("text/plain", other),
        ("application/x-www-form-urlencoded", other),
        ("multipart/mixed; boundary=b", other),
        ("multipart/form-data", malformed),
    ] {
        let anonymous = client.signing(Sign::Anonymous);
        let call = anonymous
            .call("POST", "bkt")
            .header("content-type", content_type);
        let answer = call.body(signed.body()).send().await;
        assert_eq!(answer.outcome(), outcome(400, code), "{content_type}");
    }
    // The file is the last field that means anything: such a one is neither read behind it nor passed
    // over, a button to submit with is.
    for name in ["key", "x-oss-object-acl", "OSSAccessKeyId", "callback"] {
        let more = part("submit") + &part(name) + &end;
        let answer = signed.clone().rest(&more).post(&client, "bkt").await;
        assert_eq!(answer.outcome(), outcome(400, malformed), "{name}");
        assert_eq!(answer.header("x-oss-ec"), "0006-00000103");
        assert_eq!(client.get("bkt/k").await.status, 404);
    }
    let more = part("submit") + &end;
    let answer = signed.rest(&more).post(&client, "bkt").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(client.get("bkt/k").await.text(), "x");
}

#[tokio::test]
async fn bodies_come_in_any_framing() {
    let (_served, client) = served().await;
    let body = form(&[("key", "k")], vec![b'\r'; 50_000])
        .signed_v4("[]")
        .body();
    // In chunks that cut the boundaries.
    let anonymous = client.signing(Sign::Anonymous);
    let content_type = format!("multipart/form-data; boundary=\"{BOUNDARY}\"");
    let head = anonymous
        .call("POST", "bkt")
        .header("content-type", &content_type)
        .header("transfer-encoding", "chunked")
        .header("expect", "100-continue")
        .wire_head();
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    assert_eq!(read_answer(&mut stream, false).await.status, 100);
    for piece in body.chunks(997) {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        stream.write_all(&chunk).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = read_answer(&mut stream, false).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(client.get("bkt/k").await.body, vec![b'\r'; 50_000]);
    // A length that promises more than comes.
    let head = anonymous
        .call("POST", "bkt")
        .header("content-type", &content_type)
        .header("content-length", &(body.len() + 10).to_string())
        .wire_head();
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    stream.write_all(&body[..body.len() - 100]).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_answer(&mut stream, false).await;
    assert_eq!(answer.outcome(), outcome(400, "RequestTimeout"));
    // One that promises less cuts the form.
    let short = (body.len() - 60).to_string();
    let answer = send(&client, "bkt", &body, &[("content-length", &short)]).await;
    assert_eq!(answer.outcome(), outcome(400, "MalformedPOSTRequest"));
    // The digest is of the whole body.
    let good = STANDARD.encode(Md5::digest(&body));
    let bad = STANDARD.encode(Md5::digest(b"x"));
    for (md5, status) in [(good, 204), (bad, 400)] {
        let answer = send(&client, "bkt", &body, &[("content-md5", &md5)]).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

#[tokio::test]
async fn settings_of_the_bucket_hold() {
    let (served, client) = served().await;
    let rules = "<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin>\
        <AllowedMethod>POST</AllowedMethod></CORSRule></CORSConfiguration>";
    assert_eq!(client.put("bkt?cors", rules).await.status, 200);
    // Another gateway has no older view of the bucket.
    let beside = served.beside().await.client();
    let origin = [("origin", "http://site.example")];
    let kept = form(&[("key", "k"), ("x-oss-forbid-overwrite", "true")], "1").signed_v1(ANY);
    for (status, code) in [(204, ""), (409, "FileAlreadyExists")] {
        let answer = send(&beside, "bkt", &kept.body(), &origin).await;
        assert_eq!(answer.outcome(), outcome(status, code));
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    let enabled = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(client.put("bkt?versioning", enabled).await.status, 200);
    let versioned = served.beside().await.client();
    let answer = kept.post(&versioned, "bkt").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert!(!answer.header("x-oss-version-id").is_empty());
}

#[tokio::test]
async fn fields_take_memory_from_the_budget() {
    let served = Served::real_with(|c| c.buffered_body_bytes_max = 64 * 1024).await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    let signed = form(&[("key", "k")], "x").signed_v1(ANY);
    let large = signed.clone().field("v", &"v".repeat(100_000));
    let answer = large.post(&client, "bkt").await;
    assert_eq!(answer.outcome(), outcome(503, "ServiceUnavailable"));
    assert_eq!(signed.post(&client, "bkt").await.status, 204);
}
