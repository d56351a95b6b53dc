//! The admin listener: health and metrics. It must not serve the OSS API or change anything.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use granary_runtime::{CancellationToken, Runtime, within};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics::Sources;
use crate::readiness::Readiness;

const CONNECTIONS_MAX: usize = 64;
/// To the end of a request's head; also the longest rest between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection lives this long at most: who scrapes comes back.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
/// Pause after a failed accept: most often no descriptor is free, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin listener shows. It serves before there is anything to measure, so that a long
/// recovery looks alive.
pub(crate) struct Admin {
    readiness: Arc<Readiness>,
    page: OnceLock<Page>,
}

/// Where the metrics come from.
struct Page {
    registry: Registry,
    sources: Arc<Sources>,
}

impl Admin {
    /// A page without metrics.
    pub(crate) fn new(readiness: Arc<Readiness>) -> Arc<Self> {
        Arc::new(Self {
            readiness,
            page: OnceLock::new(),
        })
    }

    /// Shows these metrics from now on. Only the first call counts.
    pub(crate) fn publish(&self, registry: Registry, sources: Arc<Sources>) {
        let _ = self.page.set(Page { registry, sources });
    }

    /// Serves until `until`.
    pub(crate) fn serve(
        self: &Arc<Self>,
        runtime: &Runtime,
        listener: TcpListener,
        until: CancellationToken,
    ) {
        runtime.spawn(accept(runtime.clone(), Arc::clone(self), listener, until));
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match request.uri().path() {
            "/health/live" => text(StatusCode::OK, "live\n"),
            "/health/ready" => match self.readiness.check() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => match self.page.get() {
                Some(page) => page.answer().await,
                None => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "/health/live, /health/ready, /metrics\n",
            ),
        }
    }
}

impl Page {
    async fn answer(&self) -> Response<Full<Bytes>> {
        self.sources.refresh().await;
        let mut page = String::new();
        if prometheus_client::encoding::text::encode(&mut page, &self.registry).is_err() {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics cannot be written\n",
            );
        }
        let mut response = Response::new(Full::from(page));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ),
        );
        response
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

async fn accept(
    runtime: Runtime,
    admin: Arc<Admin>,
    listener: TcpListener,
    until: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until.cancelled() => return,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::debug!(%error, "admin connection not accepted");
                tokio::select! {
                    () = runtime.sleep(ACCEPT_PAUSE) => continue,
                    () = until.cancelled() => return,
                }
            }
        };
        // Too many: the connection is closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let (admin, until) = (Arc::clone(&admin), until.clone());
        runtime.spawn(async move {
            tokio::select! {
                _ = within(CONNECTION_LIMIT, serve(admin, socket)) => {}
                () = until.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn serve(admin: Arc<Admin>, socket: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "admin connection ended");
    }
}
