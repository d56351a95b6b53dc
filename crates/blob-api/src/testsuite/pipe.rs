//! A node behind real gRPC on an in-memory pipe.

use std::sync::Arc;
use std::time::Duration;

use granary_runtime::Runtime;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio_stream::StreamExt;
use tonic::transport::{Endpoint, Server};

use crate::{BlobNode, BlobService, GrpcBlobNode, ServerLimits};

/// Bytes the pipe holds in each direction.
const PIPE_BYTES: usize = 1024 * 1024;

/// Serves `node` over gRPC on a pipe until the runtime stops, and returns the client's side.
///
/// # Panics
/// When the connection cannot be made, which has no cause outside this function.
pub async fn over_pipe(
    runtime: &Runtime,
    node: Arc<dyn BlobNode>,
    deadline: Duration,
) -> Arc<dyn BlobNode> {
    over_pipe_within(runtime, node, deadline, ServerLimits::default()).await
}

/// The same, with other limits of the server.
///
/// # Panics
/// As [`over_pipe`].
pub async fn over_pipe_within(
    runtime: &Runtime,
    node: Arc<dyn BlobNode>,
    deadline: Duration,
    limits: ServerLimits,
) -> Arc<dyn BlobNode> {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let shutdown = runtime.shutdown().clone();
    runtime.spawn(async move {
        // One connection, and never an end of them: the server would take that for its own.
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
        let incoming = incoming.chain(tokio_stream::pending());
        // The pipe ends with the test; there is nobody left to tell about it.
        let _ = Server::builder()
            .add_service(BlobService::new(node, limits))
            .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
            .await;
    });
    let near = Arc::new(Mutex::new(Some(near)));
    let connector = tower::service_fn(move |_| {
        let near = near.lock().take();
        async move {
            near.map(TokioIo::new)
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))
        }
    });
    let channel = Endpoint::from_static("http://pipe.invalid")
        .connect_with_connector(connector)
        .await
        .expect("a pipe always connects");
    Arc::new(GrpcBlobNode::new(channel, deadline))
}
