//! Long work whose progress an operator follows: reports of progress, and the result as the last one.
//! It ends when nobody reads any more.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use granary_runtime::Runtime;
use granary_workers::WorkerError;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::pb::Report;

/// Reports of progress that may wait for a slow reader.
const QUEUE: usize = 16;

/// What the operator reads.
pub(super) type Reports = Pin<Box<dyn Stream<Item = Result<Report, Status>> + Send>>;
/// What the work tells its progress to.
pub(super) type Tell<P> = Box<dyn Fn(P) + Send + Sync>;

/// A report in JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Report, Status> {
    let json = serde_json::to_string(value).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Report { json })
}

/// Starts some work.
pub(super) fn follow<P, R, F>(runtime: &Runtime, work: impl FnOnce(Tell<P>) -> F) -> Reports
where
    P: Serialize + 'static,
    R: Serialize + Send,
    F: Future<Output = Result<R, WorkerError>> + Send + 'static,
{
    let (tell, reports) = mpsc::channel(QUEUE);
    let progress = {
        let tell = tell.clone();
        move |progress: P| {
            if let Ok(report) = json(&progress) {
                // A reader that is slow misses some.
                let _ = tell.try_send(Ok(report));
            }
        }
    };
    let work = work(Box::new(progress));
    runtime.spawn(async move {
        let ended = tokio::select! {
            ended = work => ended,
            () = tell.closed() => return,
        };
        let last = match ended {
            Ok(report) => json(&report),
            Err(error) => Err(Status::unavailable(error.to_string())),
        };
        let _ = tell.send(last).await;
    });
    ReceiverStream::new(reports).boxed()
}
