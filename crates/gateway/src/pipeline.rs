//! The way of every request. [`run`] is the only control flow between a head and an operation:
//!
//! address → row of the table → bucket → caller → parsed input → permission → admission → operation
//!
//! and [`serve`] the only place where answers, errors, logs and metrics are written. NoSuchBucket
//! comes before InvalidAccessKeyId, as clients check; errors of the input come after the signature,
//! so that strangers learn nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use granary_oss::{ErrorCode, OssError};
use granary_policy::Action;
use granary_types::{AccountId, BucketName};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tracing::{Instrument as _, Span, field};

use crate::access_log::{Completion, Seen};
use crate::admission::Permit;
use crate::body::{RequestBody, ResponseBody};
use crate::buckets::Bucket;
use crate::ctx::{Ctx, Shared, Subject, no_such_bucket};
use crate::head::Head;
use crate::ops::{Body, BodyKind, BucketUse, Operation};
use crate::render::{self, Common, Output};
use crate::server::phase::Phase;
use crate::{authz, route};

/// Longest path, host or agent that a log line quotes, in bytes.
const LOGGED_BYTES_MAX: usize = 1024;

/// An operation's code.
pub(crate) type Handler = for<'a> fn(Call<'a>) -> Answer<'a>;
/// What becomes of a call.
pub(crate) type Answer<'a> = Pin<Box<dyn Future<Output = Result<Output, OssError>> + Send + 'a>>;

/// One request on its way to its operation.
pub(crate) struct Call<'a> {
    shared: Arc<Shared>,
    head: Head,
    action: Action,
    body: &'a mut RequestBody,
    notes: &'a mut Notes,
}

/// What the log wants to know of a call, whatever becomes of it.
#[derive(Default)]
pub(crate) struct Notes {
    account: Option<AccountId>,
    signature: &'static str,
    permit: Option<Permit>,
}

/// Answers one request.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    phase: Arc<Phase>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = shared.runtime.monotonic();
    let (parts, incoming) = request.into_parts();
    let seen = seen(&shared, peer, &parts);
    let method = parts.method.clone();
    let runtime = shared.runtime.clone();
    let mut body = RequestBody::new(incoming, runtime, shared.settings.timeouts);
    let mut notes = Notes::default();
    let span = tracing::info_span!(
        "request",
        request_id = %seen.request_id,
        operation = field::Empty,
        bucket = field::Empty,
    );
    let mut completion = Completion {
        phase: Arc::clone(&phase),
        operation: "Unknown",
        account: None,
        signature: "",
        status: StatusCode::OK,
        code: "",
        started,
        bytes_in: 0,
        bytes_out: 0,
        cut: false,
        permit: None,
        seen,
        shared: Arc::clone(&shared),
    };
    let request_id = completion.seen.request_id.clone();
    let head = Head::read(&shared.settings.domains, parts);
    let mut waits_for_continue = false;
    let outcome = match head.and_then(|head| route::route(&head).map(|row| (head, row))) {
        Err(error) => Err(error),
        Ok((head, row)) => {
            completion.operation = row.name;
            note_address(&mut completion.seen, &head);
            span.record("operation", row.name);
            span.record("bucket", completion.seen.bucket.as_str());
            waits_for_continue = head.expects_continue();
            let call = Call {
                shared: Arc::clone(&shared),
                head,
                action: row.action,
                body: &mut body,
                notes: &mut notes,
            };
            (row.handler)(call).instrument(span.clone()).await
        }
    };
    if let Err(error) = &outcome {
        log_server_error(&span, error);
    }
    let close = !body.settle(waits_for_continue).await;
    if close {
        phase.linger();
    }
    completion.account = notes.account;
    completion.signature = notes.signature;
    completion.permit = notes.permit;
    completion.bytes_in = body.received();
    let host_id = completion.seen.host.clone();
    let took = shared.runtime.monotonic().saturating_sub(started);
    let common = Common {
        request_id: &request_id,
        host_id: &host_id,
        method: &method,
        now: shared.runtime.now(),
        server_time_ms: took.as_millis(),
        close,
    };
    match outcome {
        Ok(output) => {
            completion.status = output.status;
            render::output(output, &common, completion)
        }
        Err(error) => {
            completion.status = error.status();
            completion.code = error.code().as_str();
            render::error(&error, &common, completion)
        }
    }
}

/// One operation's whole way.
pub(crate) fn run<Op: Operation>(call: Call<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (mut cx, body, notes) = admit_caller(call, Op::BUCKET).await?;
        let op = Op::parse(&cx.head)?;
        cx.subject = op.subject();
        authz::authorise(&mut cx).await?;
        let buffered = match Op::BODY {
            BodyKind::Buffered { max_bytes } => max_bytes,
            BodyKind::None | BodyKind::Stream => 0,
        };
        // Whoever declares less takes less.
        let declared = granary_oss::header::content_length(&cx.head.headers)?;
        let buffered = declared.map_or(buffered, |declared| {
            usize::try_from(declared).unwrap_or(buffered).min(buffered)
        });
        notes.permit = Some(cx.shared.admission.enter(&cx.shared.metrics, buffered)?);
        let body = match Op::BODY {
            BodyKind::None => Body::None,
            BodyKind::Stream => Body::Stream(body),
            BodyKind::Buffered { max_bytes } => {
                Body::Whole(body.read_whole(&cx.head, max_bytes).await?)
            }
        };
        op.handle(&mut cx, body).await
    })
}

/// The way of a request for an operation that is not built yet: whoever may not know that the
/// bucket exists does not learn it here either.
pub(crate) fn later(call: Call<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (cx, ..) = admit_caller(call, BucketUse::IfNamed).await?;
        Err(OssError::new(ErrorCode::NotImplemented)
            .message(format!("The operation {} is not implemented.", cx.action)))
    })
}

/// Bucket, then caller.
async fn admit_caller<'a>(
    call: Call<'a>,
    bucket_use: BucketUse,
) -> Result<(Ctx, &'a mut RequestBody, &'a mut Notes), OssError> {
    let Call {
        shared,
        head,
        action,
        body,
        notes,
    } = call;
    // A name that no bucket can have is told after the signature, like every error of the input.
    let name = head.address.bucket_name();
    let bucket = match (&name, bucket_use) {
        (Ok(Some(name)), BucketUse::Required | BucketUse::IfNamed) => {
            Some(find_bucket(&shared, name).await?)
        }
        _ => None,
    };
    let identity = shared.authenticator.authenticate(&head).await?;
    notes.account = identity.caller.account();
    notes.signature = identity.signature;
    name?;
    let caller = identity.caller;
    let cx = Ctx {
        shared,
        head,
        caller,
        action,
        subject: Subject::Service,
        bucket,
        found: None,
    };
    Ok((cx, body, notes))
}

async fn find_bucket(shared: &Shared, name: &BucketName) -> Result<Arc<Bucket>, OssError> {
    shared
        .find_bucket(name)
        .await?
        .ok_or_else(|| no_such_bucket(name))
}

/// Logs what a human may have to look at, once, with what caused it.
fn log_server_error(span: &Span, error: &OssError) {
    let _entered = span.enter();
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    match error.status().as_u16() {
        500 => tracing::error!(%error, cause, "request failed"),
        502.. => tracing::warn!(%error, cause, "request refused"),
        _ if !cause.is_empty() => tracing::debug!(%error, cause, "request failed"),
        _ => {}
    }
}

fn seen(shared: &Shared, peer: SocketAddr, parts: &http::request::Parts) -> Seen {
    let header = |name: http::HeaderName| {
        let value = parts
            .headers
            .get(name)
            .map(|value| value.as_bytes())
            .unwrap_or_default();
        shortened(&String::from_utf8_lossy(value))
    };
    Seen {
        request_id: shared.new_request_id(),
        remote: peer.ip().to_string(),
        method: parts.method.as_str().to_owned(),
        target: shortened(parts.uri.path()),
        host: header(http::header::HOST),
        user_agent: header(http::header::USER_AGENT),
        bucket: String::new(),
        key: String::new(),
    }
}

fn note_address(seen: &mut Seen, head: &Head) {
    seen.bucket = shortened(head.address.bucket.as_deref().unwrap_or_default());
    let key = head.address.key.as_deref().unwrap_or_default();
    seen.key = shortened(&String::from_utf8_lossy(key));
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(LOGGED_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// The whole body of an operation that takes a document.
pub(crate) fn document(body: Body<'_>) -> Bytes {
    match body {
        Body::Whole(document) => document,
        Body::None | Body::Stream(_) => Bytes::new(),
    }
}
