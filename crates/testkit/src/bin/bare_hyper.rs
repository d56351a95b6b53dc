//! The ceiling for the benchmark: an HTTP server that keeps bodies in memory and checks nothing.
//!
//! `bare_hyper ADDRESS` serves GET, PUT and HEAD on any path and ignores the query, so the same
//! presigned requests work on it as on Granary. What it answers per second is what hyper, the kernel
//! and the load generator can do on this machine; the distance to Granary is what durability,
//! metadata, signatures and digests cost. It is not a store: nothing survives it and nothing bounds it.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measuring tool outside the simulated world"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

type Objects = Arc<RwLock<HashMap<String, Bytes>>>;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:9100".to_owned());
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let listener = TcpListener::bind(address).await?;
    println!("bare hyper on {}", listener.local_addr()?);
    let objects = Objects::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let objects = Arc::clone(&objects);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&objects), request));
            // A client that goes away is the end of its connection and of nothing else.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

async fn answer(
    objects: Objects,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let response = match *request.method() {
        Method::PUT => match store(&objects, path, request.into_body()).await {
            Ok(()) => Response::new(Full::default()),
            Err(_) => status(StatusCode::BAD_REQUEST),
        },
        Method::GET | Method::HEAD => {
            let found = objects
                .read()
                .ok()
                .and_then(|objects| objects.get(&path).cloned());
            found.map_or_else(
                || status(StatusCode::NOT_FOUND),
                |body| Response::new(Full::new(body)),
            )
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    };
    Ok(response)
}

async fn store(objects: &Objects, path: String, mut body: Incoming) -> Result<(), hyper::Error> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    if let Ok(mut objects) = objects.write() {
        objects.insert(path, whole.freeze());
    }
    Ok(())
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}
