//! Connections: accepts them, limits them, gives every stage a deadline and drains them at the end.
//!
//! Knows HTTP/1.1 and sockets; must not know operations, signatures or storage: every request goes
//! to [`pipeline::serve`] and its answer comes back.
//!
//! | hole | closed by |
//! |---|---|
//! | too many connections | one semaphore; the rest get a short 503 |
//! | no first byte, half a head, idle | [`socket::Socket`] over [`phase::Phase`] |
//! | stalled or trickling body | `body.rs` |
//! | answer not read, or in sips | [`socket::Socket`] |
//! | refused upload still being sent | the answer first, then a bounded lingering close |
//!
//! What hyper itself refuses before our code has an empty body: 431 for too many or too large
//! headers, 400 for a request that is not HTTP/1.1 (`<`, `>`, raw spaces in the target; 64 KiB of
//! URI). The service sends XML there. A `Content-Length` next to `Transfer-Encoding: chunked` never
//! reaches us: hyper takes it away and lets the chunks count.

pub(crate) mod phase;
pub(crate) mod socket;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use granary_oss::render_error;
use granary_runtime::{CancellationToken, Runtime, within};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::ctx::Shared;
use crate::throttle::Throttle;
use crate::{failure, pipeline};
use phase::Phase;
use socket::Socket;

// Numbers of Linux, the only system that Granary runs on.
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;
/// Connections over the limit that get a 503 at once; the rest are closed without a word.
const REFUSALS_AT_ONCE: usize = 64;
/// Time such a connection may take.
const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// Time a refused upload may go on after its answer.
const LINGER_TIME: Duration = Duration::from_secs(10);
/// Bytes a refused upload may still send after its answer.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After this many failures without a connection between them it is the listener that fails.
const FAILURES_IN_A_ROW: u32 = 16;

/// Accepts connections until `until`, then lets requests in flight finish within the configured
/// time. Returns when every connection is closed.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener, until: CancellationToken) {
    let places = Arc::new(Semaphore::new(shared.settings.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
    let shortages = Throttle::default();
    let connections = shared.runtime.child();
    // Connections end when we do, whichever of the two reasons it was.
    let until = until.child_token();
    let mut failed_in_a_row: u32 = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until.cancelled() => break,
            () = shared.runtime.shutdown().cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => {
                failed_in_a_row = 0;
                accepted
            }
            Err(error) => {
                failed_in_a_row = failed_in_a_row.saturating_add(1);
                if !is_shortage(&error) && failed_in_a_row < FAILURES_IN_A_ROW {
                    // This client's connection failed before we took it: the next one is not to wait.
                    tracing::debug!(%error, "connection lost before it was accepted");
                    continue;
                }
                if let Some(others) = shortages.note(shared.runtime.monotonic()) {
                    tracing::warn!(%error, others_since_last_line = others, "connection not accepted");
                }
                tokio::select! {
                    () = shared.runtime.sleep(ACCEPT_PAUSE) => continue,
                    () = until.cancelled() => break,
                    () = shared.runtime.shutdown().cancelled() => break,
                }
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let (shared, until) = (Arc::clone(&shared), until.clone());
            connections.spawn(async move {
                serve_connection(shared, stream, peer, until).await;
                drop(place);
            });
        } else {
            shared.metrics.connections_refused.inc();
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    // A client too slow for its refusal goes without.
                    let _ = within(REFUSAL_TIME, refuse(&shared, stream)).await;
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    until.cancel();
    connections.stop().await;
}

/// Whether `accept` failed for want of something that this process or the system has too little of:
/// it goes on failing until some of it is given back.
fn is_shortage(error: &std::io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        return false;
    };
    [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(&number)
}

/// One connection, from its first byte to its last.
async fn serve_connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    until: CancellationToken,
) {
    let _open = shared.metrics.connections.track();
    let runtime = shared.runtime.clone();
    let phase = Arc::new(Phase::new(runtime.monotonic()));
    let settings = &shared.settings;
    let socket = Socket::new(
        stream,
        runtime.clone(),
        Arc::clone(&phase),
        settings.timeouts,
    );
    let mut http = http1::Builder::new();
    http.max_headers(settings.headers_max)
        .max_buf_size(settings.header_bytes_max)
        .auto_date_header(false)
        // Deadlines are the socket's.
        .header_read_timeout(None);
    let (drain, service_phase) = (settings.timeouts.drain, Arc::clone(&phase));
    let service = service_fn(move |request| {
        service_phase.busy(shared.runtime.monotonic());
        let (shared, phase) = (Arc::clone(&shared), Arc::clone(&service_phase));
        let answer: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            Ok::<_, std::convert::Infallible>(pipeline::serve(shared, phase, peer, request).await)
        });
        answer
    });
    let mut connection = http.serve_connection(socket, service);
    let outcome = {
        let mut work = std::pin::pin!(poll_fn(|cx| {
            if until.is_cancelled() {
                Pin::new(&mut connection).graceful_shutdown();
            }
            connection.poll_without_shutdown(cx)
        }));
        tokio::select! {
            outcome = work.as_mut() => Some(outcome),
            () = until.cancelled() => within(drain, work).await.ok(),
        }
    };
    match outcome {
        Some(Ok(())) => close(&runtime, connection.into_parts().io.into_inner(), &phase).await,
        // The client went away or broke the protocol: its doing, not news.
        Some(Err(error)) => tracing::debug!(%error, %peer, "connection failed"),
        None => tracing::warn!(%peer, "connection cut: its request did not finish in time"),
    }
}

/// Ends our side, then reads what the client is still sending, so that it sees the answer and not
/// a reset.
async fn close(runtime: &Runtime, mut stream: TcpStream, phase: &Phase) {
    if stream.shutdown().await.is_err() || !phase.lingers() {
        return;
    }
    let rest = async {
        let mut scratch = vec![0; 16 * 1024];
        let mut discarded = 0;
        while discarded < LINGER_BYTES_MAX {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(bytes) => discarded += bytes,
            }
        }
    };
    tokio::select! {
        _ = within(LINGER_TIME, rest) => {}
        () = runtime.shutdown().cancelled() => {}
    }
}

/// Answers 503 without reading a request.
async fn refuse(shared: &Shared, mut stream: TcpStream) {
    let request_id = shared.new_request_id();
    let error = failure::overloaded();
    let body = render_error(&error, &request_id, "");
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nServer: {}\r\nx-oss-request-id: {request_id}\r\n\
         x-oss-ec: {}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        crate::render::SERVER,
        error.ec_text(),
        body.len(),
    );
    // Whoever does not wait for the answer does not need it.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
    let mut scratch = [0; 4096];
    while matches!(stream.read(&mut scratch).await, Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shortage_stops_accepting_for_a_moment() {
        let shortage = |number| is_shortage(&std::io::Error::from_raw_os_error(number));
        assert!([ENOMEM, ENFILE, EMFILE, ENOBUFS].into_iter().all(shortage));
        let (aborted, perm, protocol) = (103, 1, 71);
        assert!(![aborted, perm, protocol].into_iter().any(shortage));
    }
}
