//! Callbacks of uploads, to application servers of the test's own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_runtime::{Entropy as _, Runtime, SystemEntropy};
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::{Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::client::{Answer, Client, Sign};
use super::fixture::Served;

/// What a server got: the head of a request and its body.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// An application server that gives every request the same answer.
struct App {
    address: SocketAddr,
    seen: Seen,
}

impl App {
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::start(answer.into(), None).await
    }

    async fn start(answer: Vec<u8>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let (log, runtime) = (Arc::clone(&seen), Runtime::system());
        let connections = runtime.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log, tls) = (answer.clone(), Arc::clone(&log), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, &answer, &log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &answer, &log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    fn url(&self) -> String {
        format!("http://{}/app%20x?q=%20", self.address)
    }

    fn last(&self) -> (String, Vec<u8>) {
        self.seen.lock().last().expect("a callback came").clone()
    }

    fn count(&self) -> usize {
        self.seen.lock().len()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8], log: &Seen) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => bytes.extend_from_slice(&piece[..count]),
            _ => return,
        }
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if bytes.len() >= end + 4 + length {
                break (String::from_utf8_lossy(&bytes[..end]).into_owned(), end + 4);
            }
        }
    };
    log.lock().push((head, bytes[length..].to_vec()));
    // A server without an answer keeps its client waiting.
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const GOOD: &str = r#"{"Status": "OK"}"#;

fn callback(url: &str, more: &str) -> String {
    let body = "bucket=${bucket}&object=${object}&etag=${etag}&size=${size}&type=${mimeType}&op=${operation}&v=${x:v}";
    STANDARD.encode(format!(
        r#"{{"callbackUrl": "{url}", "callbackBody": "{body}"{more}}}"#
    ))
}

async fn served() -> (Served, Client) {
    served_with(|_| ()).await
}

async fn served_with(change: impl FnOnce(&mut crate::GatewayConfig)) -> (Served, Client) {
    let served = Served::real_with(|c| {
        c.callback_hosts = vec!["127.0.0.1".to_owned()];
        change(c);
    })
    .await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    (served, client)
}

async fn put(client: &Client, callback: &str) -> Answer {
    let call = client
        .call("PUT", "bkt/a b")
        .header("x-oss-callback", callback)
        .header("x-oss-callback-var", &STANDARD.encode(r#"{"x:v": "1&2"}"#))
        .header("content-type", "text/plain");
    call.body("hello").send().await
}

fn failed(answer: &Answer, message: &str) {
    assert_eq!(
        answer.outcome(),
        (203, "CallbackFailed".to_owned()),
        "{message}"
    );
    assert_eq!(answer.element("Message"), message);
    assert_eq!(answer.element("EC"), "0007-00000203");
    assert_eq!(answer.header("x-oss-ec"), "0007-00000203");
}

const TOLD: &str = "bucket=bkt&object=a%20b&etag=5D41402ABC4B2A76B9719D911017C592&size=5&type=text%2Fplain&op=PutObject&v=1%262";

#[tokio::test]
async fn the_servers_answer_is_the_clients() {
    let (served, client) = served().await;
    let app = App::answering(ok(GOOD)).await;
    let answer = put(
        &client,
        &callback(&app.url(), r#", "callbackHost": "app.example""#),
    )
    .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, GOOD));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(
        answer.header("etag"),
        "\"5D41402ABC4B2A76B9719D911017C592\""
    );
    assert!(!answer.header("x-oss-hash-crc64ecma").is_empty());
    let (head, body) = app.last();
    assert_eq!(String::from_utf8(body).unwrap(), TOLD);
    assert!(
        head.starts_with("POST /app%20x?q=%20 HTTP/1.1\r\n"),
        "{head}"
    );
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\nhost: app.example\r\n"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: application/x-www-form-urlencoded"),
        "{head}"
    );
    let id = answer.header("x-oss-request-id").to_ascii_lowercase();
    assert!(head.contains(&format!("x-oss-request-id: {id}")), "{head}");
    assert!(!head.contains("authorization"), "{head}");
    assert_eq!(client.get("bkt/a b").await.text(), "hello");
    assert!(
        served
            .metrics()
            .contains("granary_gateway_callbacks_total 1")
    );
}

#[tokio::test]
async fn parameters_forms_and_completions_call_too() {
    let (_served, client) = served().await;
    let app = App::answering(ok(GOOD)).await;
    let plain = callback(&app.url(), "");
    let encoded = granary_oss::escape::encode(plain.as_bytes());
    for sign in [Sign::V1, Sign::V4, Sign::PresignV1, Sign::PresignV4] {
        let signing = client.signing(sign);
        let answer = signing.put(&format!("bkt/k?callback={encoded}"), "x").await;
        assert_eq!(answer.text(), GOOD, "{sign:?}");
    }
    // A multipart upload calls when it is completed.
    let begin = client
        .call("POST", "bkt/parts?uploads")
        .header("x-oss-callback", &plain)
        .header("content-type", "a/b");
    let upload = begin.send().await.element("UploadId");
    let part = client
        .put(&format!("bkt/parts?partNumber=1&uploadId={upload}"), "part")
        .await;
    assert_eq!(part.status, 200);
    let before = app.count();
    let complete = client
        .call("POST", &format!("bkt/parts?uploadId={upload}"))
        .header("x-oss-complete-all", "yes")
        .header("x-oss-callback", &plain);
    let answer = complete.send().await;
    assert_eq!(answer.text(), GOOD);
    assert!(answer.header("etag").ends_with("-1\""));
    assert_eq!(app.count(), before + 1);
    let told = String::from_utf8(app.last().1).unwrap();
    assert!(
        told.contains("object=parts&") && told.contains("size=4&"),
        "{told}"
    );
    assert!(
        told.contains("type=a%2Fb&op=CompleteMultipartUpload"),
        "{told}"
    );
    // A form has its variables in fields, and its callback wins over the status it asks for.
    let acl = client
        .call("PUT", "open")
        .header("x-oss-acl", "public-read-write");
    assert_eq!(acl.send().await.status, 200);
    let part = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form = [
        part("key", "form"),
        part("callback", &plain),
        part("x:V", "7"),
        part("success_action_redirect", "http://h/"),
        part("file", "abc"),
        "--b--".to_owned(),
    ];
    let anonymous = client.signing(Sign::Anonymous);
    let post = |form: String| {
        let call = anonymous
            .call("POST", "open")
            .header("content-type", "multipart/form-data; boundary=b");
        call.body(form).send()
    };
    let answer = post(form.concat()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, GOOD));
    assert_eq!(answer.header("location"), "");
    let told = String::from_utf8(app.last().1).unwrap();
    assert!(told.ends_with("op=PostObject&v=7"), "{told}");
    assert_eq!(client.get("open/form").await.text(), "abc");
}

#[tokio::test]
async fn servers_are_tried_in_their_order() {
    let (_served, client) = served().await;
    let bad = App::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    let good = App::answering(ok(GOOD)).await;
    let never = App::answering(ok("{}")).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let urls = format!("{closed};{};{};{}", bad.url(), good.url(), never.url());
    assert_eq!(put(&client, &callback(&urls, "")).await.text(), GOOD);
    assert_eq!((bad.count(), good.count(), never.count()), (1, 1, 0));
}

#[tokio::test]
async fn a_callback_that_fails_keeps_the_object() {
    let (_served, client) = served().await;
    let elsewhere = App::answering(ok(GOOD)).await;
    let redirect = format!(
        "HTTP/1.1 301 Moved\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
        elsewhere.url()
    );
    let huge = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n\"",
        3 * 1024 * 1024 + 1
    ) + &"x".repeat(3 * 1024 * 1024);
    for (reply, message) in [
        (redirect.as_str(), "Error status : 301."),
        (
            "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
            "Error status : 404.",
        ),
        (&ok("not json"), "Response body is not valid json format."),
        (&ok(""), "Response body is not valid json format."),
        (
            &huge,
            "Error Status : 400.User server return too long content-length value.",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
            "Error status : -1.OSS can not connect to your callbackUrl, please check it.",
        ),
        (
            "nonsense\r\n\r\n",
            "Error status : -1.OSS can not connect to your callbackUrl, please check it.",
        ),
    ] {
        assert_eq!(client.delete("bkt/a b").await.status, 204);
        let app = App::answering(reply).await;
        let answer = put(&client, &callback(&app.url(), "")).await;
        failed(&answer, message);
        assert_eq!(
            answer.header("etag"),
            "\"5D41402ABC4B2A76B9719D911017C592\""
        );
        assert_eq!(client.get("bkt/a b").await.text(), "hello", "{message}");
    }
    assert_eq!(elsewhere.count(), 0, "redirects are not followed");
    let slow = App::answering("").await;
    let started = Runtime::system().monotonic();
    let answer = put(&client, &callback(&slow.url(), "")).await;
    failed(&answer, "Cost too long time.");
    assert!(Runtime::system().monotonic() - started >= Duration::from_secs(5));
}

#[tokio::test]
async fn what_is_wrong_is_told_before_the_body() {
    let (_served, client) = served_with(|c| c.callback_hosts = vec!["public".to_owned()]).await;
    let body = r#""callbackBody": "x""#;
    let encode = |json: String| STANDARD.encode(json);
    for (callback, status, message) in [
        (
            "error argument".to_owned(),
            400,
            "The callback configuration is not base64 encoded.",
        ),
        (
            encode("error".to_owned()),
            400,
            "The callback configuration is not json format.",
        ),
        (
            encode(format!(r#"{{"callbackUrl": "10.0.0.1/x", {body}}}"#)),
            400,
            "Private address is forbidden to callback.",
        ),
        (
            encode(format!(r#"{{"callbackUrl": "8.8.8.8;[::1]:80", {body}}}"#)),
            400,
            "Private address is forbidden to callback.",
        ),
        (
            encode(format!(
                r#"{{"callbackUrl": "http://169.254.169.254/", {body}}}"#
            )),
            400,
            "Private address is forbidden to callback.",
        ),
        (encode(r#"{"callbackPolicy": "p"}"#.to_owned()), 501, ""),
    ] {
        let call = client
            .call("PUT", "bkt/k")
            .header("x-oss-callback", &callback)
            .header("expect", "100-continue")
            .header("content-length", "5");
        // The body is not sent: it is not asked for.
        let answer = call.send().await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if !message.is_empty() {
            assert_eq!(answer.element("Message"), message);
        }
        assert_eq!(client.get("bkt/k").await.status, 404);
    }
    // A name that leads home is found out when it is resolved.
    let app = App::answering(ok(GOOD)).await;
    let url = format!("localhost:{}", app.address.port());
    failed(
        &put(&client, &callback(&url, "")).await,
        "Private address is forbidden to callback.",
    );
    assert_eq!(app.count(), 0);
    // Writes that OSS makes no callback for.
    let copy = client
        .call("PUT", "bkt/copy")
        .header("x-oss-copy-source", "/bkt/a%20b")
        .header("x-oss-callback", &callback(&app.url(), ""));
    assert_eq!(
        copy.send().await.outcome(),
        (501, "NotImplemented".to_owned())
    );
}

#[tokio::test]
async fn too_many_at_once_fail_at_once() {
    let (_served, client) = served_with(|c| c.callbacks_in_flight_max = 1).await;
    let slow = App::answering("").await;
    let (first, url) = (client.clone(), slow.url());
    let waiting = Runtime::system().spawn(async move { put(&first, &callback(&url, "")).await });
    while slow.count() == 0 {
        tokio::task::yield_now().await;
    }
    let answer = put(&client, &callback(&slow.url(), "")).await;
    failed(&answer, "Too many callback requests.");
    failed(&waiting.await.unwrap(), "Cost too long time.");
}

/// The system's randomness, as `rsa` wants it.
struct Chance;

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(SystemEntropy.next_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(SystemEntropy.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        SystemEntropy.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Chance {}

#[tokio::test]
async fn callbacks_are_signed_with_the_operators_key() {
    let key = RsaPrivateKey::new(&mut Chance, 2048).unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("callback.pem");
    std::fs::write(&file, key.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes()).unwrap();
    let (_served, client) = served_with(|c| {
        c.callback_key_file = file.to_str().unwrap().to_owned();
        c.callback_public_key_url = "https://keys.example/callback.pem".to_owned();
    })
    .await;
    let app = App::answering(ok(GOOD)).await;
    assert_eq!(put(&client, &callback(&app.url(), "")).await.text(), GOOD);
    let (head, body) = app.last();
    let header = |name: &str| {
        let line = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with(name));
        line.unwrap().split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(
        STANDARD.decode(header("x-oss-pub-key-url")).unwrap(),
        b"https://keys.example/callback.pem"
    );
    // As an application server does it: the decoded path, the query as it came, and the body.
    let signed = [b"/app x?q=%20\n", &body[..]].concat();
    let signature = STANDARD.decode(header("authorization")).unwrap();
    let scheme = || {
        let oid_of_md5 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x05];
        let prefix = [
            &[0x30, 0x20, 0x30, 0x0c],
            &oid_of_md5[..],
            &[0x05, 0x00, 0x04, 0x10],
        ]
        .concat();
        Pkcs1v15Sign {
            hash_len: Some(16),
            prefix: prefix.into(),
        }
    };
    let public = RsaPublicKey::from(&key);
    public
        .verify(scheme(), &Md5::digest(&signed), &signature)
        .unwrap();
    assert!(
        public
            .verify(scheme(), &Md5::digest(&body), &signature)
            .is_err()
    );
}

#[tokio::test]
async fn keys_that_are_none_stop_the_start() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("x.pem").to_str().unwrap().to_owned();
    std::fs::write(&file, "nothing").unwrap();
    type Change<'a> = Box<dyn Fn(&mut crate::GatewayConfig) + 'a>;
    let url = "https://keys.example/";
    let cases: [(&str, Change<'_>); 5] = [
        (
            "callback_public_key_url",
            Box::new(|c| c.callback_key_file.clone_from(&file)),
        ),
        (
            "callback_public_key_url",
            Box::new(|c| c.callback_public_key_url = url.to_owned()),
        ),
        (
            "callback_key_file",
            Box::new(|c| {
                c.callback_key_file.clone_from(&file);
                c.callback_public_key_url = url.to_owned();
            }),
        ),
        (
            "callback_key_file",
            Box::new(|c| {
                c.callback_key_file = "/nowhere/key.pem".to_owned();
                c.callback_public_key_url = url.to_owned();
            }),
        ),
        (
            "callback_ca_file",
            Box::new(|c| c.callback_ca_file.clone_from(&file)),
        ),
    ];
    for (setting, change) in cases {
        let mut config = crate::GatewayConfig::default();
        change(&mut config);
        let error = crate::callback::Callbacks::new(&config, &Runtime::system());
        assert_eq!(error.err().unwrap().setting, setting);
    }
}

#[tokio::test]
async fn secured_servers_show_a_certificate_that_is_believed() {
    let names = vec!["127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let place = tempfile::tempdir().unwrap();
    let ca = place.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let app = App::start(ok(GOOD).into_bytes(), Some(tls)).await;
        let url = format!("https://{}/", app.address);
        let (_served, client) =
            served_with(|c| c.callback_ca_file = ca.to_str().unwrap().to_owned()).await;
        for sni in ["", r#", "callbackSNI": true"#] {
            assert_eq!(put(&client, &callback(&url, sni)).await.text(), GOOD);
        }
        let (_served, stranger) = served().await;
        let refused = put(&stranger, &callback(&url, "")).await;
        failed(
            &refused,
            "Error status : -1.OSS can not connect to your callbackUrl, please check it.",
        );
    }
}
