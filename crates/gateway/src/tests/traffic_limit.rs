//! `x-oss-traffic-limit`: requests that ask to be slow.

use std::time::Duration;

use granary_runtime::Runtime;

use super::client::{Answer, Client, Sign};
use super::fixture::Served;

/// 100 KiB per second.
const LIMIT: &str = "819200";
/// More than a second of it.
const BYTES: usize = 150_000;
/// What it takes at least: a little is let through at once, and the last step is not waited for.
const LEAST: Duration = Duration::from_millis(1_000);

async fn bucket() -> (Served, Client) {
    // Less than the pause after a large piece: the client is not to blame for it.
    let served = Served::real_with(|c| {
        c.body_stall_timeout_ms = 300;
        c.write_stall_timeout_ms = 300;
    })
    .await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    (served, client)
}

fn body() -> Vec<u8> {
    (0..BYTES).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Sends a call with the limit in its header; the answer and the time it took.
async fn slow(
    client: &Client,
    method: &str,
    target: &str,
    copy_of: &str,
    body: &[u8],
) -> (Answer, Duration) {
    let mut call = client
        .call(method, target)
        .header("x-oss-traffic-limit", LIMIT);
    if !copy_of.is_empty() {
        call = call.header("x-oss-copy-source", copy_of);
    }
    let runtime = Runtime::system();
    let started = runtime.monotonic();
    let answer = call.body(body).send().await;
    (answer, runtime.monotonic() - started)
}

#[tokio::test]
async fn bodies_move_as_slowly_as_asked() {
    let (_served, client) = bucket().await;
    let body = body();
    let upload = client
        .post("bkt/parts?uploads", "")
        .await
        .element("UploadId");
    let part = |number: u32| format!("bkt/parts?partNumber={number}&uploadId={upload}");
    for (method, target, copy_of, sent) in [
        ("PUT", "bkt/key".to_owned(), "", &body[..]),
        ("GET", "bkt/key".to_owned(), "", &[][..]),
        ("PUT", part(1), "", &body[..]),
        ("PUT", "bkt/copy".to_owned(), "/bkt/key", &[][..]),
        ("PUT", part(2), "/bkt/key", &[][..]),
    ] {
        let (answer, took) = slow(&client, method, &target, copy_of, sent).await;
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.text());
        assert!(took >= LEAST, "{method} {target} took {took:?}");
        if method == "GET" {
            assert!(answer.body == body);
            assert_eq!(answer.header("content-length"), BYTES.to_string());
        }
    }
    let copy = client.get("bkt/copy").await;
    assert!(copy.body == body);
    assert_eq!(
        copy.header("etag"),
        client.head("bkt/key").await.header("etag")
    );
    let done = client
        .call("POST", &format!("bkt/parts?uploadId={upload}"))
        .header("x-oss-complete-all", "yes");
    assert_eq!(done.send().await.status, 200);
    assert!(client.get("bkt/parts").await.body == [body.clone(), body].concat());
}

#[tokio::test]
async fn signed_urls_carry_the_limit() {
    let (_served, client) = bucket().await;
    let body = body();
    assert_eq!(client.put("bkt/key", &body).await.status, 200);
    for sign in [Sign::PresignV1, Sign::PresignV4] {
        let client = client.signing(sign);
        let runtime = Runtime::system();
        let started = runtime.monotonic();
        let got = client
            .get(&format!("bkt/key?x-oss-traffic-limit={LIMIT}"))
            .await;
        assert_eq!(got.status, 200, "{}", got.text());
        assert!(got.body == body);
        let took = runtime.monotonic() - started;
        assert!(took >= LEAST, "{sign:?} took {took:?}");
    }
}

#[tokio::test]
async fn limits_out_of_range_are_refused() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "x").await;
    for limit in ["245759", "838860801", "fast"] {
        for (method, copy_of) in [("GET", ""), ("PUT", ""), ("PUT", "/bkt/key")] {
            let mut call = client
                .call(method, "bkt/key")
                .header("x-oss-traffic-limit", limit);
            if !copy_of.is_empty() {
                call = call.header("x-oss-copy-source", copy_of);
            }
            let refused = call.send().await;
            assert_eq!(
                refused.outcome(),
                (400, "InvalidArgument".to_owned()),
                "{method} {limit}"
            );
            assert_eq!(refused.element("ArgumentName"), "x-oss-traffic-limit");
        }
    }
    assert_eq!(client.get("bkt/key").await.text(), "x");
}
