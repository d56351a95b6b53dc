//! The way of every request. [`run`] is the only control flow between a head and an operation:
//!
//! address → row of the table → a place in flight → bucket → caller → parsed input → permission →
//! memory for a document → operation
//!
//! (an operation whose input is a form reads its fields between bucket and caller: they say who asks)
//!
//! and [`serve`] the only place where answers, errors, logs and metrics are written. NoSuchBucket
//! comes before InvalidAccessKeyId, as clients check; errors of an operation's input come after the
//! signature, so that strangers learn nothing. What comes before everything is a head that names no
//! operation (a path or query that cannot be read, a method or sub-resource that nothing has): the
//! answer says nothing about what is stored, costs no look-up, and takes no place in flight; the
//! limit on connections bounds it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_oss::header::check_readable;
use granary_oss::{ErrorCode, OssError};
use granary_policy::Action;
use granary_runtime::within;
use granary_types::{AccountId, BucketName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use tracing::{Instrument as _, Span};

use crate::access_log::{Completion, Seen};
use crate::admission::Permit;
use crate::authn::Identity;
use crate::body::{RequestBody, ResponseBody};
use crate::buckets::Bucket;
use crate::ctx::{Ctx, Origin, Shared, Subject, no_such_bucket};
use crate::form::{self, FormBody};
use crate::head::Head;
use crate::ops::table::Row;
use crate::ops::{Body, BodyKind, BucketUse, Operation};
use crate::render::{self, Common, Output};
use crate::server::phase::Phase;
use crate::{authz, conditions, cors, hierarchy, route};

/// Longest path, host or agent that a log line quotes, in bytes.
const LOGGED_BYTES_MAX: usize = 1024;

/// An operation's code.
pub(crate) type Handler = for<'a> fn(Call<'a>) -> Answer<'a>;
/// What becomes of a call.
pub(crate) type Answer<'a> = Pin<Box<dyn Future<Output = Result<Output, OssError>> + Send + 'a>>;

/// One request on its way to its operation.
pub(crate) struct Call<'a> {
    shared: Arc<Shared>,
    origin: Origin,
    head: Head,
    operation: &'static str,
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
    /// The object, where the head does not name it.
    key: Option<String>,
    /// What the answer says to a browser of another site.
    cors: HeaderMap,
}

/// Answers one request.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    phase: Arc<Phase>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (parts, incoming) = request.into_parts();
    let method = parts.method.clone();
    let seen = seen(&shared, peer, &parts);
    let mut completion = Completion::new(Arc::clone(&shared), phase, seen);
    let mut body = RequestBody::new(incoming, shared.runtime.clone(), shared.settings.timeouts);
    let mut waits_for_continue = false;
    let last = is_last(&parts);
    let in_chunks = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let mut cors = HeaderMap::new();
    let found = find_operation(&shared, parts);
    if let Ok((head, row)) = &found {
        completion.operation = row.name;
        note_address(&mut completion.seen, head);
    }
    let span = tracing::info_span!(
        "request",
        request_id = %completion.seen.request_id,
        operation = completion.operation,
        bucket = completion.seen.bucket.as_str(),
    );
    let outcome = match found {
        Err(error) => Err(error),
        Ok((head, row)) => {
            waits_for_continue = head.expects_continue();
            let mut notes = Notes::default();
            let call = Call {
                shared: Arc::clone(&shared),
                origin: Origin {
                    request_id: completion.seen.request_id.clone(),
                    client_ip: peer.ip().to_canonical(),
                },
                head,
                operation: row.name,
                action: row.action,
                body: &mut body,
                notes: &mut notes,
            };
            let outcome = (row.handler)(call).instrument(span.clone()).await;
            completion.account = notes.account;
            completion.signature = notes.signature;
            completion.permit = notes.permit;
            if let Some(key) = notes.key {
                completion.seen.key = shortened(&key);
            }
            cors = notes.cors;
            outcome
        }
    };
    if let Err(error) = &outcome {
        log_server_error(&shared, &span, error);
    }
    let close = !body.settle(waits_for_continue).await;
    completion.bytes_in = body.received();
    let mut response = render(outcome, completion, &method, close);
    cors::add(response.headers_mut(), &cors);
    if last {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    } else if in_chunks && says_keep_alive(response.headers()) {
        // Behind a body with a length as well the connection ends (RFC 9112, section 6.1). Whether there
        // was one only hyper knows, who says so where nothing is said.
        response.headers_mut().remove(header::CONNECTION);
    }
    response
}

/// Whether the client wants no further answer on this connection (RFC 9112, section 9.3).
fn is_last(parts: &Parts) -> bool {
    let named = |option: &str| {
        let values = parts.headers.get_all(header::CONNECTION).iter();
        let mut options = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        options.any(|found| found.trim().eq_ignore_ascii_case(option))
    };
    named("close") || (parts.version == Version::HTTP_10 && !named("keep-alive"))
}

fn says_keep_alive(headers: &HeaderMap) -> bool {
    let said = headers.get(header::CONNECTION);
    said.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
}

/// The head and the row of the table that it asks for.
fn find_operation(shared: &Shared, parts: Parts) -> Result<(Head, &'static Row), OssError> {
    let head = Head::read(&shared.settings.domains, parts)?;
    let row = route::route(&head)?;
    Ok((head, row))
}

/// The one place where answers and errors become responses.
fn render(
    outcome: Result<Output, OssError>,
    mut completion: Completion,
    method: &Method,
    close: bool,
) -> Response<ResponseBody> {
    if close {
        completion.phase.linger();
    }
    let runtime = &completion.shared.runtime;
    let took = runtime.monotonic().saturating_sub(completion.started);
    let now = runtime.now();
    let (request_id, host_id) = (
        completion.seen.request_id.clone(),
        completion.seen.host.clone(),
    );
    let common = Common {
        request_id: &request_id,
        host_id: &host_id,
        method,
        now,
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
        let operation = call.operation;
        let in_form = Op::BODY == BodyKind::Form;
        let signature = match (Op::SIGNED, in_form) {
            (_, true) => SignatureIn::Form,
            (true, false) => SignatureIn::Head,
            (false, false) => SignatureIn::None,
        };
        let (mut cx, body, notes) = admit_caller(call, Op::BUCKET, signature).await?;
        let mut body = Body::Stream(body);
        if in_form {
            body = read_form(&mut cx, notes, body).await?;
        }
        check_readable(&cx.head.headers)?;
        conditions::refuse(&cx.head, Op::IGNORED_CONDITIONS)?;
        let op = Op::parse(&cx.head)?;
        cx.subject = op.subject();
        if let (true, Subject::Object(key, _)) = (in_form, &cx.subject) {
            notes.key = Some(key.as_str().to_owned());
        }
        if Op::SIGNED {
            authz::authorise(&mut cx).await?;
        }
        hierarchy::check(cx.bucket.as_deref(), operation)?;
        if let BodyKind::Buffered { max_bytes } = Op::BODY {
            reserve(&cx, notes, max_bytes)?;
        }
        let body = match (Op::BODY, body) {
            (BodyKind::None, _) => Body::None,
            (BodyKind::Buffered { max_bytes }, Body::Stream(body)) => {
                Body::Whole(body.read_whole(&cx.head, max_bytes).await?)
            }
            (_, body) => body,
        };
        op.handle(&mut cx, body).await
    })
}

/// Time the fields of a form may take: they come before anybody knows who sends them.
const FORM_FIELDS_TIME: Duration = Duration::from_secs(60);

/// Reads the fields of a form, and with them who asks.
async fn read_form<'a>(
    cx: &mut Ctx,
    notes: &mut Notes,
    body: Body<'a>,
) -> Result<Body<'a>, OssError> {
    let Body::Stream(body) = body else {
        return Ok(body);
    };
    let mut body = FormBody::new(&cx.head, body)?;
    let fields = body.read_fields(|bytes| match &mut notes.permit {
        Some(permit) => {
            let (admission, metrics) = (&cx.shared.admission, &cx.shared.metrics);
            admission.reserve_fields(metrics, permit, bytes)
        }
        None => Ok(()),
    });
    let form = within(FORM_FIELDS_TIME, fields).await;
    let form = form.map_err(|_| OssError::new(ErrorCode::RequestTimeout))??;
    let (identity, form) = form::authenticate(cx, form).await?;
    if let Some(permit) = &mut notes.permit {
        permit.is_known();
    }
    notes.account = identity.caller.account();
    notes.signature = identity.signature;
    cx.caller = identity.caller;
    cx.head.form = Some(form);
    Ok(Body::Form(Box::new(body)))
}

/// Memory for a body that is read whole: what it declares, or the most it may have.
fn reserve(cx: &Ctx, notes: &mut Notes, max_bytes: usize) -> Result<(), OssError> {
    let declared = granary_oss::header::content_length(&cx.head.headers)?;
    let bytes = declared.map_or(max_bytes, |declared| {
        usize::try_from(declared)
            .unwrap_or(max_bytes)
            .min(max_bytes)
    });
    match &mut notes.permit {
        Some(permit) => cx
            .shared
            .admission
            .reserve(&cx.shared.metrics, permit, bytes),
        None => Ok(()),
    }
}

/// The way of a request for an operation that is not built yet: whoever may not know that the
/// bucket exists does not learn it here either.
pub(crate) fn later(call: Call<'_>) -> Answer<'_> {
    Box::pin(async move {
        let operation = call.operation;
        admit_caller(call, BucketUse::IfNamed, SignatureIn::Head).await?;
        Err(OssError::new(ErrorCode::NotImplemented)
            .message(format!("The operation {operation} is not implemented.")))
    })
}

/// Where a request says who sends it.
#[derive(Clone, Copy)]
enum SignatureIn {
    Head,
    Form,
    None,
}

/// A place among the requests in flight, then the bucket, then the caller.
async fn admit_caller<'a>(
    call: Call<'a>,
    bucket_use: BucketUse,
    signature: SignatureIn,
) -> Result<(Ctx, &'a mut RequestBody, &'a mut Notes), OssError> {
    let Call {
        shared,
        origin,
        head,
        action,
        body,
        notes,
        ..
    } = call;
    notes.permit = Some(match signature {
        SignatureIn::Form => shared.admission.enter_form(&shared.metrics)?,
        SignatureIn::Head | SignatureIn::None => shared.admission.enter(&shared.metrics)?,
    });
    // A name that no bucket can have is told after the signature, like every error of the input.
    let name = head.address.bucket_name();
    let bucket = match (&name, bucket_use) {
        (Ok(Some(name)), BucketUse::Required | BucketUse::IfNamed) => {
            Some(find_bucket(&shared, name).await?)
        }
        _ => None,
    };
    if let Some(bucket) = &bucket {
        notes.cors = cors::headers(bucket, &head);
    }
    let identity = match signature {
        SignatureIn::Head => shared.authenticator.authenticate(&head).await?,
        SignatureIn::Form | SignatureIn::None => Identity::ANONYMOUS,
    };
    notes.account = identity.caller.account();
    notes.signature = identity.signature;
    name?;
    let caller = identity.caller;
    let cx = Ctx {
        shared,
        origin,
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
fn log_server_error(shared: &Shared, span: &Span, error: &OssError) {
    let (refusals, now) = (&shared.refusals, shared.runtime.monotonic());
    let _entered = span.enter();
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    match error.status().as_u16() {
        500 => tracing::error!(%error, cause, "request failed"),
        // A state and not an event, and whoever is in it says so: a line per request would only
        // add to it. The access log and the counters have every answer.
        502.. if !cause.is_empty() => match refusals.note(now) {
            Some(others) => {
                tracing::warn!(%error, cause, others_since_last_line = others, "request refused");
            }
            None => tracing::debug!(%error, cause, "request refused"),
        },
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
        Body::None | Body::Stream(_) | Body::Form(_) => Bytes::new(),
    }
}
