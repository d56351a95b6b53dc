//! The calls that move chunks: the same gRPC as all others, without a copy of the chunk.
//!
//! tonic writes a message into one buffer, which grows until it fits, and reads one into another.
//! Here a message is sent as pieces, of which the bytes of blocks are some, and read as the frames
//! in which it comes: a block that came in one frame is a part of that frame. What is on the wire is
//! what proto/blob.proto says, so either end may be tonic's.
//!
//! Sources: gRPC over HTTP/2 (doc/PROTOCOL-HTTP2.md of grpc/grpc), Protocol Buffers Encoding.

use std::convert::Infallible;
use std::future::{Future, poll_fn};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use prost::{EncodeError, Message, encode_length_delimiter, length_delimiter_len};
use tonic::body::Body;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use tonic::codegen::http::{
    Method, Request as HttpRequest, Response as HttpResponse, Uri, Version,
};
use tonic::codegen::{Service, StdError};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::MESSAGE_BYTES_MAX;
use crate::pb;

/// Stores a chunk.
pub(super) const PUT: &str = "/granary.blob.Blob/Put";
/// Reads one.
pub(super) const GET: &str = "/granary.blob.Blob/Get";

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Before every message: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 1 + 4;
/// Frames of a message, of which each is an entry in memory: one for each KiB of the longest one.
const FRAMES_MAX: usize = 8192;
/// Frames of a message that is read as it came; one of more is copied into one piece, because reading a block looks at
/// all that are left. In frames of 16 KiB, the least that a peer may ask for, the longest message has as many.
const FRAMES_APART_MAX: usize = 520;
/// The type of a field that says how long it is.
const WITH_LENGTH: u8 = 2;
/// The field `Block.data`.
const BLOCK_DATA: u8 = 2;
/// Most that stands before the data of a block: two tags with lengths, and the checksum.
const BLOCK_HEAD_BYTES: usize = 2 * (1 + 5) + 5;

/// A message that may have blocks in it.
pub(super) trait Bulk: Message + Default {
    /// The blocks, and the number of their field, below 16; they are in it no more.
    fn take_blocks(&mut self) -> (u8, Vec<pb::Block>);
}

impl Bulk for pb::PutRequest {
    fn take_blocks(&mut self) -> (u8, Vec<pb::Block>) {
        (5, std::mem::take(&mut self.blocks))
    }
}

impl Bulk for pb::GetReply {
    fn take_blocks(&mut self) -> (u8, Vec<pb::Block>) {
        (2, std::mem::take(&mut self.blocks))
    }
}

impl Bulk for pb::PutReply {
    fn take_blocks(&mut self) -> (u8, Vec<pb::Block>) {
        (1, Vec::new())
    }
}

impl Bulk for pb::GetRequest {
    fn take_blocks(&mut self) -> (u8, Vec<pb::Block>) {
        (1, Vec::new())
    }
}

/// A message as it is sent: what it says of each block, then the bytes of that block.
fn pieces(mut message: impl Bulk) -> Result<Vec<Bytes>, EncodeError> {
    let (field, blocks) = message.take_blocks();
    let room = PREFIX_BYTES + message.encoded_len() + blocks.len() * BLOCK_HEAD_BYTES;
    let mut heads = BytesMut::with_capacity(room);
    let mut ends = Vec::with_capacity(blocks.len());
    heads.put_bytes(0, PREFIX_BYTES);
    message.encode(&mut heads)?;
    let mut length = heads.len() - PREFIX_BYTES;
    for block in &blocks {
        let checksum = pb::Block {
            crc32c: block.crc32c,
            data: Bytes::new(),
        };
        let data = block.data.len();
        let of_data = 1 + length_delimiter_len(data) + data;
        let of_block = checksum.encoded_len() + of_data;
        heads.put_u8(field << 3 | WITH_LENGTH);
        encode_length_delimiter(of_block, &mut heads)?;
        checksum.encode(&mut heads)?;
        heads.put_u8(BLOCK_DATA << 3 | WITH_LENGTH);
        encode_length_delimiter(data, &mut heads)?;
        ends.push(heads.len());
        length += 1 + length_delimiter_len(of_block) + of_block;
    }
    // Longer than the reader takes, were it cut short here.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    heads[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    let mut heads = heads.freeze();
    let mut pieces = Vec::with_capacity(1 + 2 * blocks.len());
    let mut start = 0;
    for (block, end) in blocks.into_iter().zip(ends) {
        pieces.push(heads.split_to(end - start));
        pieces.push(block.data);
        start = end;
    }
    if !heads.is_empty() {
        pieces.push(heads);
    }
    Ok(pieces)
}

/// Reads a message, if there is one, and what follows it.
async fn read<M: Bulk>(body: Body) -> Result<(Option<M>, Option<HeaderMap>), Status> {
    let mut limited = Limited::new(body, PREFIX_BYTES + MESSAGE_BYTES_MAX);
    let mut frames = Vec::new();
    while let Some(frame) = limited.frame().await {
        if frames.len() == FRAMES_MAX {
            return Err(Status::internal("a message in too many frames"));
        }
        frames.push(Ok::<_, Infallible>(frame.map_err(Status::from_error)?));
    }
    let apart = frames.len() <= FRAMES_APART_MAX;
    let Ok(collected) = StreamBody::new(stream::iter(frames)).collect().await;
    let trailers = collected.trailers().cloned();
    let message = match apart {
        true => decoded(collected.aggregate())?,
        false => decoded(collected.to_bytes())?,
    };
    Ok((message, trailers))
}

fn decoded<M: Bulk>(mut bytes: impl Buf) -> Result<Option<M>, Status> {
    if bytes.remaining() == 0 {
        return Ok(None);
    }
    if bytes.remaining() < PREFIX_BYTES {
        return Err(Status::internal("a message that is cut off"));
    }
    if bytes.get_u8() != 0 {
        return Err(Status::unimplemented("a compressed message"));
    }
    if bytes.get_u32() as usize != bytes.remaining() {
        return Err(Status::internal("a message of another length than it says"));
    }
    let message = M::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Some(message))
}

/// What [`read`] reads.
fn written(message: impl Bulk, trailers: Option<HeaderMap>) -> Result<Body, Status> {
    let pieces = pieces(message).map_err(|error| Status::internal(error.to_string()))?;
    let data = pieces.into_iter().map(Frame::data);
    let frames = data.chain(trailers.map(Frame::trailers));
    let frames = stream::iter(frames.map(Ok::<_, Infallible>));
    Ok(Body::new(StreamBody::new(frames)))
}

/// Asks. A deadline in the metadata is the server's; beyond the head of the answer this call does not end with it.
pub(super) async fn call<M: Bulk, R: Bulk, S>(
    mut channel: S,
    path: &'static str,
    message: Request<M>,
) -> Result<R, Status>
where
    S: Service<HttpRequest<Body>, Response = HttpResponse<Body>>,
    S::Error: Into<StdError>,
{
    let (metadata, extensions, message) = message.into_parts();
    let mut request = HttpRequest::new(written(message, None)?);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from_static(path);
    *request.headers_mut() = metadata.into_headers();
    *request.extensions_mut() = extensions;
    request.headers_mut().insert(CONTENT_TYPE, GRPC);
    request
        .headers_mut()
        .insert(TE, HeaderValue::from_static("trailers"));
    let failed = |error: S::Error| Status::from_error(error.into());
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(failed)?;
    let response = channel.call(request).await.map_err(failed)?;
    let (parts, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers)
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let (message, trailers) = read(body).await?;
    let status = trailers.as_ref().and_then(Status::from_header_map);
    match (status, message) {
        (Some(status), Some(message)) if status.code() == Code::Ok => Ok(message),
        (Some(status), _) if status.code() != Code::Ok => Err(status),
        _ => Err(Status::internal(format!(
            "no answer to a call, but HTTP status {}",
            parts.status
        ))),
    }
}

/// Answers a call.
pub(super) async fn answer<M: Bulk, R: Bulk, F>(
    request: HttpRequest<Body>,
    call: impl FnOnce(Request<M>) -> F,
) -> HttpResponse<Body>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    answered(request, call)
        .await
        .unwrap_or_else(Status::into_http)
}

async fn answered<M: Bulk, R: Bulk, F>(
    request: HttpRequest<Body>,
    call: impl FnOnce(Request<M>) -> F,
) -> Result<HttpResponse<Body>, Status>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let (parts, body) = request.into_parts();
    let (message, _) = read(body).await?;
    let message = message.ok_or_else(|| Status::internal("a call without a message"))?;
    let headers = MetadataMap::from_headers(parts.headers);
    let reply = call(Request::from_parts(headers, parts.extensions, message)).await?;
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let mut response = HttpResponse::new(written(reply.into_inner(), Some(trailers))?);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    Ok(response)
}

#[cfg(test)]
mod tests;
