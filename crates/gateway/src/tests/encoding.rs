//! Answers that are compressed on their way, and those that are not.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::client::Client;
use super::fixture::Served;

async fn bucket() -> (Served, Client) {
    let served = Served::real().await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    (served, client)
}

/// Text that compresses, but not to nothing.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|i| b'a' + (i * i / 7 % 23) as u8).collect()
}

async fn put(client: &Client, key: &str, kind: &str, body: &[u8]) {
    let put = client
        .call("PUT", key)
        .header("content-type", kind)
        .body(body);
    assert_eq!(put.send().await.status, 200, "{key}");
}

#[tokio::test]
async fn text_is_compressed_for_clients_that_name_gzip() {
    let (_served, client) = bucket().await;
    // Inline, one chunk, several chunks.
    for length in [1024, 300_000, 5 * 1024 * 1024 + 3] {
        let body = text(length);
        put(&client, "bkt/text", "text/plain; charset=utf-8", &body).await;
        let get = client
            .call("GET", "bkt/text")
            .header("accept-encoding", "deflate, gzip");
        let got = get.send().await;
        assert_eq!(got.status, 200);
        for (name, value) in [
            ("content-encoding", "gzip"),
            ("transfer-encoding", "chunked"),
            ("vary", "Accept-Encoding"),
            ("content-type", "text/plain; charset=utf-8"),
            // These are of other bytes.
            ("content-length", ""),
            ("etag", ""),
            ("content-md5", ""),
        ] {
            assert_eq!(got.header(name), value, "{name}");
        }
        assert!(got.body.len() < length, "{} of {length}", got.body.len());
        let mut plain = Vec::new();
        GzDecoder::new(&got.body[..])
            .read_to_end(&mut plain)
            .unwrap();
        assert!(plain == body, "{length} bytes come back");
    }
}

#[tokio::test]
async fn a_cache_is_told_all_that_an_answer_varies_by() {
    let (_served, client) = bucket().await;
    put(&client, "bkt/text", "text/plain", &text(2000)).await;
    let rules = "<CORSConfiguration><CORSRule><AllowedOrigin>http://a.example</AllowedOrigin>\
                 <AllowedMethod>GET</AllowedMethod></CORSRule><ResponseVary>true</ResponseVary>\
                 </CORSConfiguration>";
    assert_eq!(client.put("bkt?cors", rules).await.status, 200);
    let packed = client
        .call("GET", "bkt/text")
        .header("accept-encoding", "gzip")
        .header("origin", "http://a.example");
    let packed = packed.send().await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert_eq!(packed.header("vary"), "Accept-Encoding, Origin");
    let allowed = packed.header("access-control-allow-origin");
    assert_eq!(allowed, "http://a.example");
}

#[tokio::test]
async fn everything_else_is_sent_as_it_is() {
    let (_served, client) = bucket().await;
    let body = text(20_000);
    put(&client, "bkt/text", "text/plain", &body).await;
    put(&client, "bkt/small", "text/plain", &body[..1023]).await;
    put(&client, "bkt/image", "image/png", &body).await;
    let packed = client
        .call("PUT", "bkt/packed")
        .header("content-type", "text/plain")
        .header("content-encoding", "gzip")
        .body(&body);
    assert_eq!(packed.send().await.status, 200);
    for (method, target, header, value, status, length) in [
        ("GET", "bkt/text", "accept-encoding", "*", 200, 20_000),
        (
            "GET",
            "bkt/text",
            "accept-encoding",
            "gzip;q=0",
            200,
            20_000,
        ),
        ("GET", "bkt/text", "x-other", "gzip", 200, 20_000),
        ("GET", "bkt/text", "range", "bytes=0-9999", 206, 10_000),
        ("HEAD", "bkt/text", "x-other", "x", 200, 20_000),
        ("GET", "bkt/small", "x-other", "x", 200, 1023),
        ("GET", "bkt/image", "x-other", "x", 200, 20_000),
        ("GET", "bkt/packed", "x-other", "x", 200, 20_000),
    ] {
        let mut call = client.call(method, target).header(header, value);
        if header != "accept-encoding" && value != "gzip" {
            call = call.header("accept-encoding", "gzip");
        }
        let got = call.send().await;
        assert_eq!(got.status, status, "{method} {target} {header}: {value}");
        assert_eq!(
            got.header("content-length"),
            length.to_string(),
            "{method} {target} {value}"
        );
        assert!(!got.header("etag").is_empty());
        let encoding = if target == "bkt/packed" { "gzip" } else { "" };
        assert_eq!(
            got.header("content-encoding"),
            encoding,
            "{method} {target} {value}"
        );
        if method == "GET" {
            assert!(got.body == body[..length], "{target} {value}");
        }
    }
}
