//! Whole runs against a store in memory that does what it should, or one thing wrong.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use granary_oss::query::Query;
use granary_runtime::{CancellationToken, Runtime};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::Interval;
use tokio_rustls::TlsAcceptor;

use crate::content::crc64;
use crate::{BenchArgs, BenchError, Console, Verdict, run};

const EVERYTHING: &str = "put-4k,get-4k,get-200k,head,delete,list-20,mixed-100k,put50+head50-300";

/// A slow store moves so much of a body at once; a socket takes no more than some of these without its reader.
const SLOW_BYTES: usize = 8 << 20;
const SLOW_PAUSE: Duration = Duration::from_millis(500);

/// What the store does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// Every tenth answer to a GET has another byte.
    WrongByte,
    /// And the store says so in its checksum.
    WrongCrc,
    /// Answers of GET are those of another key.
    OtherObject,
    /// Every tenth answer to a GET ends early.
    Short,
    /// Listings lack their last key.
    ShortListing,
    /// Every tenth PUT is refused.
    Busy,
    /// It closes the connection after each answer.
    Closes,
    /// The bucket has versions.
    Versioned,
    /// It refuses to say whether it has.
    VersionsUnsaid,
    /// It says that it knows no versions, and makes some.
    VersionsDenied,
    /// Every tenth GET gets no answer.
    Silent,
    /// It refuses all deletions.
    KeepsAll,
    /// It refuses to store what is read.
    ReadOnly,
    /// It reads and sends bodies with pauses.
    Slow,
    /// Its refusals are longer than any document should be.
    LongRefusal,
    /// It refuses to store again what is to be deleted.
    DeletesOnce,
    /// Keys are paths: PUTs make directories, which are keys with a slash at the end.
    Directories,
}

#[derive(Default)]
struct Memory {
    fault: Fault,
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// Bodies that were stored ever.
    bodies: Mutex<std::collections::HashSet<Bytes>>,
    requests: AtomicU64,
    has_deleted: AtomicBool,
    /// Ends the run after so many requests.
    stop_after: Option<(u64, CancellationToken)>,
}

impl Memory {
    async fn answer(&self, request: Request<Incoming>) -> Response<Bytes> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some((after, stop)) = &self.stop_after
            && number >= *after
        {
            stop.cancel();
        }
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query()).unwrap();
        let key = head.uri.path().strip_prefix("/bucket/").unwrap().to_owned();
        let tenth = number.is_multiple_of(10);
        match head.method {
            Method::GET if key.is_empty() => self.document(&query),
            Method::GET if tenth && self.fault == Fault::Silent => std::future::pending().await,
            Method::PUT => {
                let body = self.read(body).await;
                // What is stored before is tried again.
                if tenth && self.fault == Fault::Busy && !key.contains("/read-") {
                    return refusal(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy");
                }
                let again = self.has_deleted.load(Ordering::Relaxed) && key.contains("/deleted-");
                if self.fault == Fault::DeletesOnce && again
                    || self.fault == Fault::ReadOnly && key.contains("/read-")
                {
                    return refusal(StatusCode::FORBIDDEN, "AccessDenied");
                }
                let crc = crc64(&body);
                let mut answer = response(Bytes::new(), crc);
                if self.fault == Fault::VersionsDenied {
                    let id = http::HeaderValue::from_static("v1");
                    answer.headers_mut().insert("x-amz-version-id", id);
                }
                assert!(self.bodies.lock().insert(body.clone()), "a body came twice");
                let mut objects = self.objects.lock();
                if self.fault == Fault::Directories {
                    for (slash, _) in key.match_indices('/') {
                        objects.insert(key[..=slash].to_owned(), Bytes::new());
                    }
                }
                objects.insert(key, body);
                answer
            }
            Method::GET | Method::HEAD => {
                let objects = self.objects.lock();
                let Some(body) = objects.get(&key).cloned() else {
                    return refusal(StatusCode::NOT_FOUND, "NoSuchKey");
                };
                let is_get = head.method == Method::GET;
                match self.fault {
                    Fault::WrongByte | Fault::WrongCrc if is_get && tenth => {
                        let mut wrong = body.to_vec();
                        *wrong.last_mut().unwrap() ^= 1;
                        let told = if self.fault == Fault::WrongCrc {
                            &wrong
                        } else {
                            &body.to_vec()
                        };
                        response(wrong.clone().into(), crc64(told))
                    }
                    Fault::Short if is_get && tenth => {
                        response(body.slice(..body.len() - 1), crc64(&body))
                    }
                    Fault::OtherObject if is_get => {
                        let other = objects
                            .range(..key)
                            .next_back()
                            .map(|(_, other)| other.clone());
                        let other = other
                            .filter(|other| other.len() == body.len())
                            .unwrap_or(body);
                        let crc = crc64(&other);
                        response(other, crc)
                    }
                    _ => response(body.clone(), crc64(&body)),
                }
            }
            Method::DELETE if self.fault == Fault::LongRefusal && tenth => {
                let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "ServerBusy");
                *answer.body_mut() = vec![b' '; 1 << 20].into();
                answer
            }
            Method::DELETE if self.fault == Fault::KeepsAll => {
                refusal(StatusCode::FORBIDDEN, "AccessDenied")
            }
            Method::DELETE => {
                self.has_deleted.store(true, Ordering::Relaxed);
                let mut objects = self.objects.lock();
                if key.ends_with('/') && objects.keys().any(|k| k.starts_with(&key) && *k != key) {
                    return refusal(StatusCode::CONFLICT, "FileAlreadyExists");
                }
                objects.remove(&key);
                let mut answer = Response::new(Bytes::new());
                *answer.status_mut() = StatusCode::NO_CONTENT;
                answer
            }
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    async fn read(&self, mut body: Incoming) -> Bytes {
        let mut whole = Vec::new();
        let mut pause_at = SLOW_BYTES;
        while let Some(frame) = body.frame().await {
            whole.extend_from_slice(&frame.unwrap().into_data().unwrap());
            if self.fault == Fault::Slow && whole.len() >= pause_at {
                pause_at += SLOW_BYTES;
                tokio::time::sleep(SLOW_PAUSE).await;
            }
        }
        whole.into()
    }

    fn document(&self, query: &Query) -> Response<Bytes> {
        if query.contains("versioning") {
            match self.fault {
                Fault::VersionsUnsaid => return refusal(StatusCode::FORBIDDEN, "AccessDenied"),
                Fault::VersionsDenied | Fault::Directories => {
                    return refusal(StatusCode::NOT_IMPLEMENTED, "NotImplemented");
                }
                _ => {}
            }
            let status = match self.fault {
                Fault::Versioned => "<Status>Enabled</Status>",
                _ => "",
            };
            let text = format!("<VersioningConfiguration>{status}</VersioningConfiguration>");
            return Response::new(Bytes::from(text));
        }
        assert_eq!(query.get("list-type"), Some("2"));
        let mut most: usize = query.get("max-keys").unwrap().parse().unwrap();
        if self.fault == Fault::ShortListing && most > 1 {
            most -= 1;
        }
        let (prefix, after) = (
            query.get("prefix").unwrap(),
            query.get("start-after").unwrap_or_default(),
        );
        let objects = self.objects.lock();
        let keys = objects
            .keys()
            .filter(|key| key.starts_with(prefix) && key.as_str() > after);
        let keys: String = keys
            .take(most)
            .map(|key| format!("<Contents><Key>{key}</Key></Contents>"))
            .collect();
        Response::new(Bytes::from(format!(
            "<ListBucketResult>{keys}</ListBucketResult>"
        )))
    }
}

/// The body of an answer, with pauses when it is to have some.
struct Paced {
    left: Bytes,
    pause: Option<Interval>,
}

impl Paced {
    fn new(left: Bytes, pause: Option<Duration>) -> Self {
        Self {
            left,
            pause: pause.map(tokio::time::interval),
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let mut piece = self.left.len();
        if let Some(pause) = &mut self.pause {
            if pause.poll_tick(cx).is_pending() {
                return Poll::Pending;
            }
            piece = piece.min(SLOW_BYTES);
        }
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

fn response(body: Bytes, crc: u64) -> Response<Bytes> {
    Response::builder()
        .header("x-oss-hash-crc64ecma", crc.to_string())
        .body(body)
        .unwrap()
}

fn refusal(status: StatusCode, code: &str) -> Response<Bytes> {
    let document = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    Response::builder()
        .status(status)
        .body(Bytes::from(document))
        .unwrap()
}

/// Serves until the runtime ends; over TLS with this acceptor.
async fn serve(runtime: &Runtime, memory: &Arc<Memory>, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (runtime, memory) = (runtime.clone(), Arc::clone(memory));
    runtime.clone().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (memory, tls) = (Arc::clone(&memory), tls.clone());
            runtime.spawn(async move {
                let keeps = memory.fault != Fault::Closes;
                let service = service_fn(|request| {
                    let memory = Arc::clone(&memory);
                    async move {
                        let answer = memory.answer(request).await;
                        let pause = (memory.fault == Fault::Slow).then_some(SLOW_PAUSE);
                        Ok::<_, Infallible>(answer.map(|body| Paced::new(body, pause)))
                    }
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                http.keep_alive(keeps);
                // A client that goes away is the end of its connection only.
                match tls {
                    None => http
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok(),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => http
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                            .ok(),
                        Err(_) => None,
                    },
                };
            });
        }
    });
    address
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

/// What a run printed, and how it ended.
struct Ran {
    verdict: Result<Verdict, BenchError>,
    out: String,
    err: String,
}

impl Ran {
    /// The JSON, which goes to the standard output.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

async fn bench(line: &str, endpoint: &str, stop: &CancellationToken) -> Ran {
    let warm_up = if line.contains("--warm-up") {
        ""
    } else {
        "--warm-up 0"
    };
    let given = format!(
        "bench --endpoint {endpoint} --bucket bucket --json - --connections 4 {warm_up} {line}"
    );
    let line = Line::try_parse_from(given.split_whitespace()).unwrap_or_else(|e| panic!("{e}"));
    let variable = |name: &str| name.starts_with("OSS_ACCESS").then(|| "key".to_owned());
    let (out, err) = (RefCell::new(String::new()), RefCell::new(String::new()));
    let print = |to: &RefCell<String>, text: &str| {
        to.borrow_mut().push_str(text);
        to.borrow_mut().push('\n');
    };
    let console = Console {
        out: &|text| print(&out, text),
        err: &|text| print(&err, text),
    };
    let verdict = run(line.bench, &variable, &console, &Runtime::system(), stop).await;
    Ran {
        verdict,
        out: out.take(),
        err: err.take(),
    }
}

/// A run against a store with this fault.
async fn bench_with(fault: Fault, line: &str) -> (Ran, Arc<Memory>) {
    let memory = Arc::new(Memory {
        fault,
        ..Memory::default()
    });
    let runtime = Runtime::system();
    let address = serve(&runtime, &memory, None).await;
    let ran = bench(
        line,
        &format!("http://{address}"),
        &CancellationToken::new(),
    )
    .await;
    (ran, memory)
}

/// The failures of the first workload: code to count.
fn failures(json: &Value) -> BTreeMap<String, u64> {
    let failures = json["workloads"][0]["failures"].as_array().unwrap();
    let one = |f: &Value| {
        (
            f["code"].as_str().unwrap().to_owned(),
            f["count"].as_u64().unwrap(),
        )
    };
    failures.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_workload_is_measured_and_nothing_is_left() {
    for fault in [Fault::None, Fault::Closes, Fault::Directories] {
        let line = format!("--requests 60 --keys 30 --rounds 2 {EVERYTHING}");
        let (ran, memory) = bench_with(fault, &line).await;
        let json = ran.json();
        assert_eq!(
            ran.verdict.unwrap(),
            Verdict::Good,
            "{fault:?}: {}",
            ran.err
        );
        // What the prefix names may have been there before.
        let mut left: Vec<String> = memory.objects.lock().keys().cloned().collect();
        left.retain(|key| fault != Fault::Directories || key != "granary-bench/");
        assert!(left.is_empty(), "{fault:?}: {left:?}");
        let workloads = json["workloads"].as_array().unwrap();
        let names: Vec<_> = workloads
            .iter()
            .map(|w| w["workload"].as_str().unwrap())
            .collect();
        assert_eq!(names.join(","), EVERYTHING);
        for workload in workloads {
            // As many as there are are deleted.
            let expected = if workload["workload"] == "delete" {
                60
            } else {
                120
            };
            assert_eq!(workload["requests"], expected, "{workload}");
            assert_eq!(workload["errors"], 0, "{workload}");
            assert_eq!(workload["rounds"].as_array().unwrap().len(), 2);
            let latency = &workload["latency_ms"];
            let order = ["p50", "p90", "p99", "p99_9", "max"].map(|q| latency[q].as_f64().unwrap());
            assert!(order.is_sorted() && order[0] > 0.0, "{latency}");
            assert!(workload["requests_per_second"].as_f64().unwrap() > 0.0);
        }
        assert!(workloads[1]["first_byte_ms"]["p50"].as_f64().unwrap() > 0.0);
        assert!(workloads[0]["first_byte_ms"].is_null());
        let mix = workloads[6]["operations"].as_array().unwrap();
        let parts: u64 = mix
            .iter()
            .map(|part| part["requests"].as_u64().unwrap())
            .sum();
        assert_eq!((mix.len(), parts), (3, 120));
        for row in ["put-4k ", "mixed-100k ", "  head "] {
            assert!(
                ran.err.lines().any(|line| line.starts_with(row)),
                "{}",
                ran.err
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_a_run_and_warm_up_does_not_count() {
    let (ran, memory) =
        bench_with(Fault::None, "--seconds 0.3 --warm-up 0.2 --keys 8 get-1k").await;
    let json = ran.json();
    assert_eq!(ran.verdict.unwrap(), Verdict::Good);
    let get = &json["workloads"][0];
    assert_eq!(
        (
            get["seconds"].as_f64(),
            json["settings"]["warm_up_seconds"].as_f64()
        ),
        (Some(0.3), Some(0.2))
    );
    let measured = get["requests"].as_u64().unwrap();
    // 8 PUTs, 8 DELETEs, 3 looks, and the warm-up.
    let sent = memory.requests.load(Ordering::Relaxed);
    assert!(measured > 0 && measured + 19 < sent, "{measured} of {sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_are_errors() {
    for (fault, workload, code) in [
        (Fault::WrongByte, "get-70k", "WrongBody"),
        (Fault::WrongCrc, "get-70k", "WrongCrc64"),
        (Fault::OtherObject, "get-70k", "WrongCrc64"),
        (Fault::Short, "get-70k", "WrongLength"),
        (Fault::ShortListing, "list-20", "WrongListing"),
        (Fault::Busy, "put-4k", "ServerBusy"),
        (Fault::Silent, "--timeout 0.2 get-4k", "Timeout"),
    ] {
        let (ran, memory) =
            bench_with(fault, &format!("--requests 200 --keys 20 {workload}")).await;
        let json = ran.json();
        assert_eq!(ran.verdict.unwrap(), Verdict::Failed, "{fault:?}");
        let failures = failures(&json);
        assert_eq!(failures.keys().collect::<Vec<_>>(), [code], "{fault:?}");
        assert_eq!(json["workloads"][0]["errors"], failures[code], "{fault:?}");
        assert_eq!(json["workloads"][0]["requests"], 200, "{fault:?}");
        assert!(ran.err.contains(code), "{}", ran.err);
        assert!(memory.objects.lock().is_empty(), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_slow_is_waited_for_as_long_as_it_moves() {
    // Three seconds and a half of pauses each.
    let line = "--timeout 2 --requests 1 --keys 1 get-64m";
    let (ran, _) = bench_with(Fault::Slow, line).await;
    let json = ran.json();
    assert_eq!(ran.verdict.unwrap(), Verdict::Good, "{}", ran.err);
    let latency = json["workloads"][0]["latency_ms"]["max"].as_f64().unwrap();
    assert!(latency > 2000.0, "{latency} ms: it was not slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_are_no_documents_are_not_read_to_their_end() {
    let line = "--requests 60 --keys 60 delete";
    let (ran, memory) = bench_with(Fault::LongRefusal, line).await;
    let json = ran.json();
    assert_eq!(ran.verdict.unwrap(), Verdict::Failed, "{}", ran.err);
    let failures = failures(&json);
    assert_eq!(failures.keys().collect::<Vec<_>>(), ["DocumentTooLong"]);
    assert!(memory.objects.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_tells_what_it_has_and_cleans_up() {
    let stop = CancellationToken::new();
    let memory = Arc::new(Memory {
        stop_after: Some((300, stop.clone())),
        ..Memory::default()
    });
    let address = serve(&Runtime::system(), &memory, None).await;
    let line = "--keys 20 --seconds 600 get-4k,put-4k";
    let ran = bench(line, &format!("http://{address}"), &stop).await;
    let json = ran.json();
    assert_eq!(ran.verdict.unwrap(), Verdict::Interrupted);
    assert_eq!(json["interrupted"], true);
    let workloads = json["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), 1);
    assert!(workloads[0]["requests"].as_u64().unwrap() > 200);
    assert!(workloads[0]["seconds"].as_f64().unwrap() < 600.0);
    assert!(memory.objects.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_before_it_had_to_end_is_told() {
    let line = "--requests 10 --keys 5 put-4k get-4k";
    let (ran, memory) = bench_with(Fault::ReadOnly, line).await;
    let json = ran.json();
    let said = ran.verdict.unwrap_err().to_string();
    assert!(
        said.contains("get-4k") && said.contains("403 AccessDenied"),
        "{said}"
    );
    assert_eq!(json["error"], said);
    let workloads = json["workloads"].as_array().unwrap();
    assert_eq!(
        (workloads.len(), &workloads[0]["requests"]),
        (1, &10.into())
    );
    assert!(memory.objects.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_that_were_over_before_it_had_to_end_are_told() {
    let line = "--requests 10 --keys 5 --rounds 3 delete put-4k";
    let (ran, memory) = bench_with(Fault::DeletesOnce, line).await;
    let json = ran.json();
    let said = ran.verdict.unwrap_err().to_string();
    assert!(said.contains("objects of delete"), "{said}");
    let told: Vec<_> = json["workloads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| (told["workload"].as_str().unwrap(), &told["requests"]))
        .collect();
    assert_eq!(told, [("delete", &5.into()), ("put-4k", &10.into())]);
    assert!(memory.objects.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_stay_when_they_are_to_and_when_they_cannot_be_deleted() {
    let (kept, memory) = bench_with(
        Fault::None,
        "--keep --prefix mine/ --requests 5 --keys 7 get-4k",
    )
    .await;
    let json = kept.json();
    assert_eq!(kept.verdict.unwrap(), Verdict::Good);
    let under = json["objects_left_under"].as_str().unwrap().to_owned();
    let keys: Vec<String> = memory.objects.lock().keys().cloned().collect();
    assert_eq!(keys.len(), 7);
    assert!(
        keys.iter()
            .all(|key| key.starts_with(&under) && key.starts_with("mine/"))
    );
    let (stuck, memory) = bench_with(Fault::KeepsAll, "--requests 5 --keys 7 get-4k").await;
    assert_eq!(stuck.verdict.unwrap(), Verdict::Failed);
    assert!(stuck.err.contains("403 AccessDenied"), "{}", stuck.err);
    assert_eq!(memory.objects.lock().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_would_stay_are_not_made() {
    let (unsaid, memory) = bench_with(Fault::VersionsUnsaid, "put-4k").await;
    let said = unsaid.verdict.unwrap_err().to_string();
    assert!(
        said.contains("403 AccessDenied") && said.contains("--keep"),
        "{said}"
    );
    assert_eq!(memory.requests.load(Ordering::Relaxed), 2);
    for (line, connections) in [("--seconds 600 put-4k,get-4k", 4), ("--keys 500 get-4k", 4)] {
        let (denied, memory) = bench_with(Fault::VersionsDenied, line).await;
        let json = denied.json();
        let said = denied.verdict.unwrap_err().to_string();
        assert!(said.contains("keeps versions"), "{said}");
        assert_eq!(json["error"], said);
        assert_eq!(json["interrupted"], false);
        // What was under way, no more; and all of it is named.
        let left: Vec<String> = memory.objects.lock().keys().cloned().collect();
        assert!((1..=2 * connections).contains(&left.len()), "{left:?}");
        let under = json["objects_left_under"].as_str().unwrap();
        assert!(left.iter().all(|key| key.starts_with(under)), "{left:?}");
    }
    for fault in [Fault::VersionsUnsaid, Fault::VersionsDenied] {
        let (kept, _) = bench_with(fault, "--keep --requests 3 --keys 3 put-4k,get-4k").await;
        assert_eq!(kept.verdict.unwrap(), Verdict::Good, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_said_in_a_sentence() {
    let (versioned, memory) = bench_with(Fault::Versioned, "put-4k").await;
    let said = versioned.verdict.unwrap_err().to_string();
    assert!(said.contains("versioning"), "{said}");
    assert_eq!(memory.requests.load(Ordering::Relaxed), 2);
    let (kept, _) = bench_with(Fault::Versioned, "--keep --requests 3 --keys 3 put-4k").await;
    assert_eq!(kept.verdict.unwrap(), Verdict::Good);
    // Nobody listens there: the port is let go of at once.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let ran = bench("head", &format!("http://{gone}"), &CancellationToken::new()).await;
    let said = ran.verdict.unwrap_err().to_string();
    assert!(
        said.contains("Unreachable") && said.contains(&gone.to_string()),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_a_certificate_that_is_vouched_for() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let place = tempfile::tempdir().unwrap();
    let ca_file = place.path().join("ca.pem");
    std::fs::write(&ca_file, made.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let memory = Arc::new(Memory::default());
    let port = serve(&Runtime::system(), &memory, Some(tls)).await.port();
    let endpoint = format!("https://localhost:{port}");
    let ran = bench("head", &endpoint, &CancellationToken::new()).await;
    let said = ran.verdict.unwrap_err().to_string();
    assert!(said.contains("certificate"), "{said}");
    let line = format!(
        "--ca-file {} --requests 20 --keys 5 get-100k",
        ca_file.display()
    );
    let ran = bench(&line, &endpoint, &CancellationToken::new()).await;
    assert_eq!(ran.verdict.unwrap(), Verdict::Good, "{}", ran.err);
    assert!(memory.objects.lock().is_empty());
}
