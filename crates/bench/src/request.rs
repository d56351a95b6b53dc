//! A request of each kind: what is sent, and what its answer has to be. Every answer is checked, none is sampled.

use std::time::Duration;

use granary_oss::query::Query;
use granary_runtime::Elapsed;
use http::header::{CONTENT_LENGTH, ETAG};
use http::{HeaderMap, Method, StatusCode};

use crate::connection::{Answer, Ask, Connection, DOCUMENT_BYTES_MAX, LISTING_BYTES_MAX};
use crate::content::Content;
use crate::failure::{Failure, element};
use crate::objects::{Known, ObjectSet};
use crate::workload::Operation;

/// The header that tells the CRC-64 of an object.
const CRC64: &str = "x-oss-hash-crc64ecma";
/// The headers that name the version which a PUT has made.
const VERSION_IDS: [&str; 2] = ["x-oss-version-id", "x-amz-version-id"];

/// A request of a run.
pub(crate) struct Call<'a> {
    pub(crate) operation: Operation,
    pub(crate) set: &'a ObjectSet,
    /// Which of the set; of a listing, the first.
    pub(crate) index: usize,
    /// The number of the body that a PUT sends.
    pub(crate) number: u64,
    /// Keys that a listing asks for.
    pub(crate) page: usize,
}

/// A good answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Good {
    /// Bytes of bodies, there or back.
    pub(crate) bytes: u64,
    pub(crate) sent_at: Duration,
    /// When the answer began.
    pub(crate) head_at: Duration,
    /// When its last byte was there.
    pub(crate) ended_at: Duration,
}

/// Sends a request and checks its answer, for as long as it does not stand still.
///
/// # Errors
/// What was wrong.
pub(crate) async fn perform(
    connection: &mut Connection,
    content: &Content,
    call: &Call<'_>,
) -> Result<Good, Failure> {
    let (pulse, limit) = (connection.pulse(), connection.store().timeout);
    let asked = async {
        match call.operation {
            Operation::Put => put(connection, content, call).await,
            Operation::Get => get(connection, content, call).await,
            Operation::Head => head(connection, call).await,
            Operation::Delete => delete(connection, call).await,
            Operation::List => list(connection, call).await,
        }
    };
    let outcome = pulse.watch(limit, asked).await;
    settle(connection, outcome)
}

/// The documents of the bucket that a run begins with: whether it can be read, and whether it has versions.
///
/// # Errors
/// What was wrong.
pub(crate) async fn look(connection: &mut Connection, query: Query) -> Result<String, Failure> {
    let (pulse, limit) = (connection.pulse(), connection.store().timeout);
    let asked = async {
        let mut ask = Ask::new(Method::GET, None);
        ask.query = query;
        let mut answer = connection.send(ask).await?;
        expect_ok(&mut answer).await?;
        answer.document(LISTING_BYTES_MAX).await
    };
    let outcome = pulse.watch(limit, asked).await;
    settle(connection, outcome)
}

/// Deletes a key that is none of a set's.
///
/// # Errors
/// What was wrong.
pub(crate) async fn remove(connection: &mut Connection, key: String) -> Result<(), Failure> {
    let (pulse, limit) = (connection.pulse(), connection.store().timeout);
    let outcome = pulse.watch(limit, send_delete(connection, key)).await;
    settle(connection, outcome).map(drop)
}

/// Closes a connection that an answer was not read from to its end.
fn settle<T>(
    connection: &mut Connection,
    outcome: Result<Result<T, Failure>, Elapsed>,
) -> Result<T, Failure> {
    let limit = connection.store().timeout;
    let outcome = outcome.unwrap_or_else(|_| Err(Failure::timeout(limit.as_secs_f64())));
    if outcome.as_ref().is_err_and(|failure| !failure.was_read()) {
        connection.close();
    }
    outcome
}

/// A page of keys.
pub(crate) fn page_query(folder: &str, keys: usize, after: Option<&str>) -> Query {
    let keys = keys.to_string();
    let mut query = Query::from_pairs([
        ("list-type", "2"),
        ("max-keys", keys.as_str()),
        ("prefix", folder),
    ]);
    if let Some(after) = after {
        query.push("start-after", after);
    }
    query
}

async fn put(
    connection: &mut Connection,
    content: &Content,
    call: &Call<'_>,
) -> Result<Good, Failure> {
    let (set, index) = (call.set, call.index);
    let mut ask = Ask::new(Method::PUT, Some(set.key(index)));
    ask.body = content.body(call.number, set.size_bytes);
    let crc64 = ask.body.crc64();
    set.note_begun(index);
    let mut answer = connection.send(ask).await?;
    expect_ok(&mut answer).await?;
    answer.document(DOCUMENT_BYTES_MAX).await?;
    if VERSION_IDS
        .iter()
        .any(|id| answer.headers.contains_key(*id))
    {
        connection.store().note_version();
    }
    let Some(crc64) = crc64.get().copied() else {
        let message = "it came before the body had been sent".to_owned();
        return Err(Failure::wrong(answer.status, "EarlyAnswer", message));
    };
    check_crc64(&answer, crc64)?;
    if call.number == set.number(index) {
        let etag = answer.headers.get(ETAG).map(|etag| etag.as_bytes());
        set.note_stored(index, etag.unwrap_or_default(), crc64);
    }
    Ok(good(connection, &answer, set.size_bytes))
}

async fn get(
    connection: &mut Connection,
    content: &Content,
    call: &Call<'_>,
) -> Result<Good, Failure> {
    let (set, index) = (call.set, call.index);
    let ask = Ask::new(Method::GET, Some(set.key(index)));
    let mut answer = connection.send(ask).await?;
    expect_ok(&mut answer).await?;
    check_headers(&answer, set.size_bytes, set.known(index))?;
    let mut length = 0;
    while let Some(bytes) = answer.next().await? {
        if !content.matches(set.number(index), length, &bytes) {
            let message = format!("{} differs from what was stored", set.key(index));
            return Err(Failure::wrong(answer.status, "WrongBody", message));
        }
        length += bytes.len() as u64;
    }
    check_length(&answer, length, set.size_bytes)?;
    Ok(good(connection, &answer, length))
}

async fn head(connection: &mut Connection, call: &Call<'_>) -> Result<Good, Failure> {
    let (set, index) = (call.set, call.index);
    let ask = Ask::new(Method::HEAD, Some(set.key(index)));
    let mut answer = connection.send(ask).await?;
    expect_ok(&mut answer).await?;
    answer.document(DOCUMENT_BYTES_MAX).await?;
    check_headers(&answer, set.size_bytes, set.known(index))?;
    Ok(good(connection, &answer, 0))
}

async fn delete(connection: &mut Connection, call: &Call<'_>) -> Result<Good, Failure> {
    let answer = send_delete(connection, call.set.key(call.index)).await?;
    call.set.note_deleted(call.index);
    Ok(good(connection, &answer, 0))
}

async fn send_delete(connection: &mut Connection, key: String) -> Result<Answer, Failure> {
    let ask = Ask::new(Method::DELETE, Some(key));
    let mut answer = connection.send(ask).await?;
    if answer.status != StatusCode::NO_CONTENT {
        expect_ok(&mut answer).await?;
    }
    answer.document(DOCUMENT_BYTES_MAX).await?;
    Ok(answer)
}

async fn list(connection: &mut Connection, call: &Call<'_>) -> Result<Good, Failure> {
    let (set, first) = (call.set, call.index);
    // Where keys are paths, the folder is a key of its own and comes before what is in it.
    let before = first.checked_sub(1);
    let after = before.map_or_else(|| set.folder().to_owned(), |before| set.key(before));
    let mut ask = Ask::new(Method::GET, None);
    ask.query = page_query(set.folder(), call.page, Some(&after));
    let mut answer = connection.send(ask).await?;
    expect_ok(&mut answer).await?;
    let document = answer.document(LISTING_BYTES_MAX).await?;
    let wrong = |message: String| Err(Failure::wrong(answer.status, "WrongListing", message));
    let count = document.matches("<Key>").count();
    if count != call.page {
        return wrong(format!("{count} keys instead of {}", call.page));
    }
    let last = document.rfind("<Key>").and_then(|at| document.get(at..));
    let ends = [
        (Some(document.as_str()), first),
        (last, first + call.page - 1),
    ];
    for (text, index) in ends {
        let found = text
            .and_then(|text| element(text, "Key"))
            .unwrap_or_default();
        if found != set.key(index) {
            return wrong(format!("{found} instead of {}", set.key(index)));
        }
    }
    Ok(good(connection, &answer, document.len() as u64))
}

fn good(connection: &Connection, answer: &Answer, bytes: u64) -> Good {
    Good {
        bytes,
        sent_at: answer.sent_at,
        head_at: answer.head_at,
        ended_at: connection.store().runtime.monotonic(),
    }
}

async fn expect_ok(answer: &mut Answer) -> Result<(), Failure> {
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    let document = answer.document(DOCUMENT_BYTES_MAX).await?;
    Err(Failure::refused(answer.status, &document))
}

/// What the headers say of an object.
fn check_headers(answer: &Answer, size_bytes: u64, known: Option<Known>) -> Result<(), Failure> {
    if let Some(length) = number(&answer.headers, CONTENT_LENGTH.as_str()) {
        check_length(answer, length, size_bytes)?;
    }
    let Some(known) = known else {
        return Ok(());
    };
    if let Some(etag) = answer.headers.get(ETAG)
        && !known.has_etag(etag.as_bytes())
    {
        let message = format!(
            "{} is not what the PUT was answered with",
            etag.as_bytes().escape_ascii()
        );
        return Err(Failure::wrong(answer.status, "WrongETag", message));
    }
    check_crc64(answer, known.crc64)
}

fn check_length(answer: &Answer, length: u64, size_bytes: u64) -> Result<(), Failure> {
    match length == size_bytes {
        true => Ok(()),
        false => Err(Failure::wrong(
            answer.status,
            "WrongLength",
            format!("{length} bytes instead of {size_bytes}"),
        )),
    }
}

fn check_crc64(answer: &Answer, expected: u64) -> Result<(), Failure> {
    let found = answer.headers.get(CRC64);
    match found.is_none() || number(&answer.headers, CRC64) == Some(expected) {
        true => Ok(()),
        false => Err(Failure::wrong(
            answer.status,
            "WrongCrc64",
            format!("{CRC64} is not {expected}"),
        )),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
