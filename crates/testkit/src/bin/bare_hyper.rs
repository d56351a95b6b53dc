//! The ceiling for the benchmark: an HTTP server that answers from memory and checks nothing.
//!
//! `bare_hyper ADDRESS`: `GET` or `HEAD` of any path with `?bytes=N` answers N random bytes, always the
//! same ones for the same path; without it the answer is 404. `PUT` reads the body and throws it away.
//! What it answers per second is what hyper, the kernel and the load generator can do on this
//! machine; the distance to Granary is what durability, metadata, signatures and digests cost.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring tool outside the simulated world"
)]

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What answers are cut from: more than a processor caches, so that it is memory that answers.
const POOL_BYTES: usize = 128 << 20;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:9100".to_owned());
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut pool = vec![0; POOL_BYTES];
    granary_testkit::fill_random(&mut pool, 1);
    let pool = Bytes::from(pool);
    let listener = TcpListener::bind(address).await?;
    println!("bare hyper on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(pool.clone(), request));
            // A client that goes away is the end of its connection and of nothing else.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

async fn answer(
    pool: Bytes,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match *request.method() {
        Method::PUT => match throw_away(request.into_body()).await {
            Ok(()) => Response::new(Full::default()),
            Err(_) => status(StatusCode::BAD_REQUEST),
        },
        Method::GET | Method::HEAD => {
            let uri = request.uri();
            let length = uri.query().and_then(|query| query.strip_prefix("bytes="));
            let length = length.and_then(|digits| digits.parse().ok());
            length
                .and_then(|length| body(&pool, uri.path(), length))
                .map_or_else(
                    || status(StatusCode::NOT_FOUND),
                    |body| Response::new(Full::new(body)),
                )
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    })
}

/// The part of the pool that a path stands for; `None`: longer than the pool.
fn body(pool: &Bytes, path: &str, length: usize) -> Option<Bytes> {
    let places = u64::try_from(pool.len().checked_sub(length)? + 1).ok()?;
    let mut hash = DefaultHasher::new();
    path.hash(&mut hash);
    let start = usize::try_from(hash.finish() % places).ok()?;
    Some(pool.slice(start..start + length))
}

async fn throw_away(mut body: Incoming) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_always_has_the_same_bytes_and_never_more_than_there_are() {
        let pool = Bytes::from_iter(0..=255u8);
        let first = body(&pool, "/bench/4k/r/000001", 16).unwrap();
        assert_eq!(first.len(), 16);
        assert_eq!(body(&pool, "/bench/4k/r/000001", 16).unwrap(), first);
        assert_eq!(body(&pool, "/any", 256).unwrap(), pool);
        assert_eq!(body(&pool, "/any", 257), None);
    }
}
