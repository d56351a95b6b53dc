//! Connections, deadlines, and what comes before an operation.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_oss::sign::client::Credentials;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Client, Sign, read_answer};
use super::fixture::Served;

const PATIENCE: Duration = Duration::from_secs(10);

/// Reads until the other side closes; panics when it does not.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // A reset ends a connection as well as a close does.
    let _ = tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the server closes");
    bytes
}

fn unknown(client: &Client) -> Client {
    Client {
        credentials: Credentials::new("nobody", "x"),
        ..client.clone()
    }
}

fn wrong(client: &Client) -> Client {
    Client {
        credentials: Credentials::new("first", "wrong"),
        ..client.clone()
    }
}

#[tokio::test]
async fn errors_come_in_the_services_order() {
    let served = Served::fixed(|_| ()).await;
    let (first, anonymous) = (served.client(), served.client().signing(Sign::Anonymous));
    let (unknown, wrong, second) = (unknown(&first), wrong(&first), served.other());
    for (client, method, target, status, code) in [
        // A bucket that is not there beats a key that is not known.
        (&unknown, "GET", "nobucket", 404, "NoSuchBucket"),
        (&unknown, "GET", "mine", 403, "InvalidAccessKeyId"),
        (&wrong, "GET", "nobucket", 404, "NoSuchBucket"),
        (&wrong, "GET", "mine", 403, "SignatureDoesNotMatch"),
        // Errors of the input come after the signature.
        (
            &wrong,
            "GET",
            "mine?max-keys=x",
            403,
            "SignatureDoesNotMatch",
        ),
        (&first, "GET", "mine?max-keys=x", 400, "InvalidArgument"),
        (&wrong, "PUT", "Bad_Name", 403, "SignatureDoesNotMatch"),
        (&first, "PUT", "Bad_Name", 400, "InvalidBucketName"),
        (&first, "GET", "Bad_Name/k", 400, "InvalidBucketName"),
        (&first, "GET", "mine//k", 400, "InvalidObjectName"),
        // They come before permission.
        (&first, "GET", "theirs?max-keys=x", 400, "InvalidArgument"),
        (&first, "GET", "theirs", 403, "AccessDenied"),
        (&first, "GET", "theirs/k", 403, "AccessDenied"),
        (&second, "GET", "mine", 403, "AccessDenied"),
        (&second, "GET", "mine?uploads", 403, "AccessDenied"),
        (&second, "PUT", "mine/k", 403, "AccessDenied"),
        (&second, "GET", "mine/k?acl", 403, "AccessDenied"),
        (&second, "GET", "theirs/k", 404, "NoSuchKey"),
        (&second, "GET", "open/k", 404, "NoSuchKey"),
        (&second, "DELETE", "open", 403, "AccessDenied"),
        (&anonymous, "GET", "mine/k", 403, "AccessDenied"),
        (&anonymous, "GET", "open", 403, "AccessDenied"),
        (&anonymous, "GET", "open/k", 404, "NoSuchKey"),
        (&anonymous, "GET", "", 403, "AccessDenied"),
        // Routing comes before all of them.
        (&wrong, "PATCH", "mine", 405, "MethodNotAllowed"),
        (&wrong, "GET", "mine?acl&cors", 501, "NotImplemented"),
        // What is not built is still checked.
        (&unknown, "GET", "nobucket?lifecycle", 404, "NoSuchBucket"),
        (&unknown, "GET", "mine?lifecycle", 403, "InvalidAccessKeyId"),
        (&first, "GET", "mine?lifecycle", 501, "NotImplemented"),
    ] {
        let answer = client.call(method, target).send().await;
        assert_eq!(
            answer.outcome(),
            (status, code.to_owned()),
            "{method} {target}"
        );
        assert_eq!(
            answer.header("x-oss-ec"),
            answer.element("EC"),
            "{method} {target}"
        );
        assert_eq!(
            answer.header("x-oss-request-id"),
            answer.element("RequestId")
        );
        assert_eq!(answer.header("x-oss-request-id").len(), 24);
    }
}

#[tokio::test]
async fn every_kind_of_signature_is_accepted() {
    let served = Served::fixed(|_| ()).await;
    for sign in [
        Sign::V1,
        Sign::V2,
        Sign::V4,
        Sign::PresignV1,
        Sign::PresignV2,
        Sign::PresignV4,
    ] {
        let client = served.client().signing(sign);
        assert_eq!(
            client.get("mine/k").await.outcome(),
            (404, "NoSuchKey".to_owned()),
            "{sign:?}"
        );
        let wrong = wrong(&client).get("mine/k").await;
        assert_eq!(
            wrong.outcome(),
            (403, "SignatureDoesNotMatch".to_owned()),
            "{sign:?}"
        );
        assert!(!wrong.element("StringToSign").is_empty(), "{sign:?}");
    }
}

#[tokio::test]
async fn answers_say_who_and_when() {
    let served = Served::fixed(|_| ()).await;
    let answer = served.client().get("").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.elements("Name"), ["mine", "open"]);
    assert_eq!(answer.header("server"), "AliyunOSS");
    assert!(answer.header("date").ends_with(" GMT"));
    assert!(answer.header("x-oss-server-time").parse::<u64>().is_ok());
    assert_eq!(answer.header("content-type"), "application/xml");
    // The advertised endpoint is the one that was used.
    let endpoint = served.address.to_string();
    assert_eq!(
        answer.elements("ExtranetEndpoint"),
        [endpoint.clone(), endpoint]
    );
}

#[tokio::test]
async fn the_configured_endpoint_is_advertised_verbatim() {
    let served = Served::fixed(|c| c.public_endpoint = "https://oss.example.com:9443".to_owned());
    let answer = served.await.client().get("mine?bucketInfo").await;
    assert_eq!(
        answer.element("ExtranetEndpoint"),
        "https://oss.example.com:9443"
    );
    assert_eq!(answer.element("SSEAlgorithm"), "None");
}

#[tokio::test]
async fn head_errors_travel_in_headers() {
    let served = Served::fixed(|_| ()).await;
    for (target, status, code, ec) in [
        ("nobucket/k", 404, "NoSuchBucket", "0015-00000101"),
        ("mine/k", 404, "NoSuchKey", "0026-00000001"),
        ("theirs/k", 403, "AccessDenied", "0003-00000001"),
    ] {
        let answer = served.client().head(target).await;
        assert_eq!(
            (answer.status, answer.header("x-oss-ec")),
            (status, ec),
            "{target}"
        );
        let document = STANDARD.decode(answer.header("x-oss-err")).unwrap();
        let document = String::from_utf8(document).unwrap();
        assert!(
            document.contains(&format!("<Code>{code}</Code>")),
            "{document}"
        );
    }
}

#[tokio::test]
async fn virtual_hosts_address_buckets() {
    let served = Served::fixed(|c| c.domains = vec!["oss.example.com".to_owned()]).await;
    for host in ["mine.oss.example.com", "mine.localhost:9000"] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let request = format!("GET /k HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream, false).await;
        assert_eq!(answer.outcome(), (403, "AccessDenied".to_owned()), "{host}");
    }
}

#[tokio::test]
async fn a_refused_upload_is_not_asked_for_its_body() {
    let served = Served::fixed(|_| ()).await;
    for (client, target) in [
        (served.client(), "nobucket/k"),
        (wrong(&served.client()), "mine/k"),
        (served.client(), "theirs/k"),
    ] {
        let call = client.call("PUT", target);
        let head = call
            .header("expect", "100-continue")
            .header("content-length", "5")
            .wire_head();
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(&head).await.unwrap();
        let answer = read_answer(&mut stream, false).await;
        assert!(
            [403, 404].contains(&answer.status),
            "{target}: {}",
            answer.status
        );
        assert_eq!(answer.header("connection"), "close");
        assert!(rest(&mut stream).await.is_empty(), "{target}");
    }
}

#[tokio::test]
async fn an_accepted_upload_is_asked_for_its_body() {
    let served = Served::fixed(|_| ()).await;
    let client = served.client();
    let call = client.call("PUT", "mine/k");
    let head = call
        .header("expect", "100-continue")
        .header("content-length", "5")
        .wire_head();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    assert_eq!(read_answer(&mut stream, false).await.status, 100);
}

#[tokio::test]
async fn a_connection_survives_small_refused_bodies() {
    let served = Served::fixed(|_| ()).await;
    let client = served.client();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(&client.call("PUT", "nobucket/k").body("12345").wire_head())
            .await
            .unwrap();
        stream.write_all(b"12345").await.unwrap();
        let answer = read_answer(&mut stream, false).await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (404, "keep-alive")
        );
    }
}

#[tokio::test]
async fn a_body_that_is_framed_twice_ends_the_connection_and_the_answer_says_so() {
    let served = Served::fixed(|_| ()).await;
    let body = "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n";
    let get = "GET /mine?location HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    for (length, answers, told) in [("", 2, ""), ("Content-Length: 5\r\n", 1, "close")] {
        let put = format!("PUT /mine/k HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}{body}");
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all((put + get).as_bytes()).await.unwrap();
        let received = String::from_utf8(rest(&mut stream).await).unwrap();
        assert_eq!(received.matches("HTTP/1.1 ").count(), answers, "{received}");
        let first = received.split("\r\n\r\n").next().unwrap();
        let said = |line: &str| {
            line.to_ascii_lowercase()
                .strip_prefix("connection: ")
                .map(str::to_owned)
        };
        let said: Vec<String> = first.lines().filter_map(said).collect();
        assert_eq!(said.concat(), told, "{first}");
    }
}

#[tokio::test]
async fn a_large_refused_body_does_not_hide_the_answer() {
    let served = Served::fixed(|_| ()).await;
    let client = served.client();
    let body = vec![7; 8 * 1024 * 1024];
    // The client writes everything before it reads: the answer must not be lost to a reset.
    let answer = client.put("nobucket/k", &body).await;
    assert_eq!(answer.outcome(), (404, "NoSuchBucket".to_owned()));
    assert_eq!(answer.header("connection"), "close");
}

#[tokio::test]
async fn clients_that_do_not_move_are_closed() {
    let served = Served::fixed(|c| {
        c.first_byte_timeout_ms = 200;
        c.header_timeout_ms = 300;
        c.idle_timeout_ms = 250;
    })
    .await;
    for (sent, answers) in [
        (&b""[..], false),
        (&b"GET /mine HT"[..], false),
        (
            &b"GET /mine/k HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"[..],
            true,
        ),
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let received = rest(&mut stream).await;
        assert_eq!(
            !received.is_empty(),
            answers,
            "{:?}",
            String::from_utf8_lossy(sent)
        );
    }
}

#[tokio::test]
async fn a_trickling_head_is_closed_too() {
    let served = Served::fixed(|c| c.header_timeout_ms = 300).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let trickle = async {
        stream.write_all(b"GET / HTTP/1.1\r\n").await.ok();
        // Ends when the server has closed its side.
        while stream.write_all(b"x-a: b\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickle)
        .await
        .expect("the server closes");
}

#[tokio::test]
async fn a_stalled_body_gets_a_timeout() {
    let served = Served::fixed(|c| c.body_stall_timeout_ms = 200).await;
    let client = served.client();
    let call = client.call("POST", "mine?delete");
    let head = call
        .header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")
        .header("content-length", "100")
        .wire_head();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    stream.write_all(b"<Delete>").await.unwrap();
    let answer = read_answer(&mut stream, false).await;
    assert_eq!(answer.outcome(), (400, "RequestTimeout".to_owned()));
    assert_eq!(answer.header("connection"), "close");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let served = Served::real_with(|c| c.write_stall_timeout_ms = 300).await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    // More than the buffers of both sockets take.
    assert_eq!(
        client
            .put("bkt/large", vec![1; 32 * 1024 * 1024])
            .await
            .status,
        200
    );
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream
        .write_all(&client.call("GET", "bkt/large").wire_head())
        .await
        .unwrap();
    let given_up = async {
        // The answer has begun; then nobody reads on.
        stream.readable().await.unwrap();
        while !served.metrics().contains("granary_gateway_in_flight 0\n") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, given_up)
        .await
        .expect("the request ends");
    assert!(rest(&mut stream).await.len() < 32 * 1024 * 1024);
}

#[tokio::test]
async fn documents_are_limited_and_checked() {
    let served = Served::fixed(|_| ()).await;
    let client = served.client();
    let wrong_md5 = client
        .call("POST", "mine?delete")
        .header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    let answer = wrong_md5.body("<Delete/>").send().await;
    assert_eq!(answer.outcome(), (400, "InvalidDigest".to_owned()));
    let answer = client.put("new-bucket", vec![b' '; 65 * 1024]).await;
    assert_eq!(answer.outcome(), (400, "MalformedXML".to_owned()));
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so() {
    let served = Served::fixed(|c| c.connections_max = 1).await;
    let mut first = TcpStream::connect(served.address).await.unwrap();
    let request = b"GET /mine/k HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    first.write_all(request).await.unwrap();
    assert_eq!(read_answer(&mut first, false).await.status, 403);
    let mut second = TcpStream::connect(served.address).await.unwrap();
    let answer = read_answer(&mut second, false).await;
    assert_eq!(answer.outcome(), (503, "ServiceUnavailable".to_owned()));
    drop((first, second));
    // The place is free again once the server has seen the first one go.
    let client = served.client().signing(Sign::Anonymous);
    let free = async { while client.get("mine/k").await.status != 403 {} };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
}

#[tokio::test]
async fn requests_over_the_limit_are_told_to_come_back() {
    let served = Served::fixed(|c| c.requests_in_flight_max = 1).await;
    let client = served.client();
    let mut first = TcpStream::connect(served.address).await.unwrap();
    let call = client
        .call("POST", "mine?delete")
        .header("content-md5", "x");
    let head = call
        .header("expect", "100-continue")
        .header("content-length", "9")
        .wire_head();
    first.write_all(&head).await.unwrap();
    // An invalid digest would end it; so it waits for its body with a valid one.
    let _ = read_answer(&mut first, false).await;
    let mut first = TcpStream::connect(served.address).await.unwrap();
    let call = client
        .call("POST", "mine?delete")
        .header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    let head = call
        .header("expect", "100-continue")
        .header("content-length", "9")
        .wire_head();
    first.write_all(&head).await.unwrap();
    assert_eq!(read_answer(&mut first, false).await.status, 100);
    let refused = client.get("mine/k").await;
    assert_eq!(refused.outcome(), (503, "ServiceUnavailable".to_owned()));
    first.write_all(b"<Delete/>").await.unwrap();
    assert_eq!(read_answer(&mut first, false).await.status, 400);
    assert_eq!(client.get("mine/k").await.status, 404);
}

#[tokio::test]
async fn many_and_large_headers_have_a_limit() {
    let served = Served::fixed(|_| ()).await;
    let client = served.client();
    let mut call = client.call("HEAD", "mine/k");
    for index in 0..200 {
        call = call.header(&format!("x-oss-meta-{index}"), "0123456789012345678901234");
    }
    assert_eq!(
        call.send().await.status,
        404,
        "8 KB of metadata in 200 headers"
    );
    let large = client
        .call("GET", "mine/k")
        .header("x-large", &"x".repeat(128 * 1024));
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    // The server answers before it has taken everything.
    let _ = stream.write_all(&large.wire_head()).await;
    let received = rest(&mut stream).await;
    let received = String::from_utf8_lossy(&received);
    assert!(
        received.is_empty() || received.starts_with("HTTP/1.1 431"),
        "{received}"
    );
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let served = Served::fixed(|_| ()).await;
    let client = served.client();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    let mut busy = TcpStream::connect(served.address).await.unwrap();
    let call = client
        .call("POST", "mine?delete")
        .header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    let head = call
        .header("expect", "100-continue")
        .header("content-length", "9")
        .wire_head();
    busy.write_all(&head).await.unwrap();
    assert_eq!(read_answer(&mut busy, false).await.status, 100);
    served.stop.cancel();
    assert!(
        rest(&mut idle).await.is_empty(),
        "idle connections are closed at once"
    );
    busy.write_all(b"<Delete/>").await.unwrap();
    assert_eq!(
        read_answer(&mut busy, false).await.status,
        400,
        "the request in flight is answered"
    );
    tokio::time::timeout(PATIENCE, served.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let served = Served::fixed(|c| c.drain_timeout_ms = 200).await;
    let client = served.client();
    let mut busy = TcpStream::connect(served.address).await.unwrap();
    let call = client
        .call("POST", "mine?delete")
        .header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    let head = call
        .header("expect", "100-continue")
        .header("content-length", "9")
        .wire_head();
    busy.write_all(&head).await.unwrap();
    assert_eq!(read_answer(&mut busy, false).await.status, 100);
    served.stop.cancel();
    tokio::time::timeout(PATIENCE, served.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn requests_are_counted_by_operation_and_code() {
    let served = Served::fixed(|_| ()).await;
    let client = served.client();
    client.get("mine/secret-key").await;
    client.get("").await;
    client.get("mine?lifecycle").await;
    let counted = async {
        loop {
            let metrics = served.metrics();
            let has = |line: &str| metrics.lines().any(|l| l == line);
            if has("granary_gateway_requests_total{operation=\"GetObject\",code=\"NoSuchKey\"} 1")
                && has("granary_gateway_requests_total{operation=\"ListBuckets\",code=\"OK\"} 1")
                && has(
                    "granary_gateway_requests_total{operation=\"GetBucketLifecycle\",code=\"NotImplemented\"} 1",
                )
                && has("granary_gateway_in_flight 0")
            {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    };
    let metrics = tokio::time::timeout(PATIENCE, counted)
        .await
        .expect("counted");
    assert!(
        !metrics.contains("mine") && !metrics.contains("secret-key"),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_is_not_http_is_answered_shortly() {
    let served = Served::fixed(|_| ()).await;
    for (request, status) in [
        ("GET /mine/k HTTP/1.1\r\n\r\n", "400"),
        ("GET /mine/k HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET /mine/%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GARBAGE\r\n\r\n", "400"),
        ("GET /mine/k HTTP/1.0\r\n\r\n", "403"),
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream, false).await;
        assert_eq!(answer.status.to_string(), status, "{request}");
    }
}
