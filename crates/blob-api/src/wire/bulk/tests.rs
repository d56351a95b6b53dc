//! Both ends against tonic's, and against what nobody should send.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use granary_types::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use parking_lot::Mutex;
use tonic::codegen::BoxFuture;

use super::*;
use crate::pb::blob_client::BlobClient;
use crate::pb::blob_server::{Blob, BlobServer};

/// Keeps the chunk that it was given last.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<pb::PutRequest>>);

macro_rules! refused {
    ($($call:ident: $request:ident -> $reply:ident),*) => {
        // As the attribute writes methods: it does not see those that a macro makes.
        $(fn $call<'a, 'b>(
            &'a self,
            _: Request<pb::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<pb::$reply>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($call))) })
        })*
    };
}

#[tonic::async_trait]
impl Blob for Store {
    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutReply>, Status> {
        *self.0.lock() = request.into_inner();
        Ok(Response::new(pb::PutReply {}))
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::GetReply>, Status> {
        let details = Bytes::from_static(b"\0details\xff");
        match request.get_ref().length {
            0 => Err(Status::with_details(
                Code::DataLoss,
                "damaged: \u{e4}",
                details,
            )),
            _ => Ok(Response::new(pb::GetReply {
                offset: request.get_ref().offset,
                blocks: self.0.lock().blocks.clone(),
            })),
        }
    }

    refused! {
        copy: CopyRequest -> CopyReply,
        delete: DeleteRequest -> DeleteReply,
        forget: ForgetRequest -> ForgetReply,
        evict: EvictRequest -> EvictReply,
        groups: GroupsRequest -> GroupsReply,
        list: ListRequest -> ListReply,
        verify: VerifyRequest -> VerifyReply,
        open_pg: OpenPgRequest -> OpenPgReply,
        disks: DisksRequest -> DisksReply
    }
}

/// The store behind this module's end.
#[derive(Clone)]
struct Ours(Store);

impl Service<HttpRequest<Body>> for Ours {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let store = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                PUT => answer(request, |put| async move { store.put(put).await }).await,
                _ => answer(request, |get| async move { store.get(get).await }).await,
            })
        })
    }
}

fn chunk(sizes: &[usize]) -> pb::PutRequest {
    let block = |(n, &bytes): (usize, &usize)| pb::Block {
        // One of them has the checksum that proto3 leaves out.
        crc32c: n as u32 * 0x0101_0101,
        data: vec![n as u8; bytes].into(),
    };
    pb::PutRequest {
        disk: u64::MAX,
        id: Bytes::from_static(&[7; 16]),
        owner: Some(pb::Owner {
            bucket: 1,
            object: Bytes::from_static(&[8; 16]),
        }),
        pg_epoch: 3,
        blocks: sizes.iter().enumerate().map(block).collect(),
        background: true,
    }
}

fn chunks() -> Vec<pb::PutRequest> {
    let sizes = [
        vec![],
        vec![0],
        vec![1],
        vec![127, 128, 0, 5],
        vec![BLOCK_BYTES],
        vec![BLOCK_BYTES, BLOCK_BYTES, 17],
        vec![BLOCK_BYTES; CHUNK_BYTES_MAX / BLOCK_BYTES],
    ];
    sizes.iter().map(|sizes| chunk(sizes)).collect()
}

fn get(length: u32) -> pb::GetRequest {
    pb::GetRequest {
        disk: 1,
        id: Bytes::from_static(&[7; 16]),
        offset: 9,
        length,
        background: false,
    }
}

#[tokio::test]
async fn either_end_may_be_tonics() {
    let store = Store::default();
    let limit = MESSAGE_BYTES_MAX;
    let theirs = BlobServer::new(store.clone()).max_decoding_message_size(limit);
    let mut client = BlobClient::new(Ours(store.clone())).max_decoding_message_size(limit);
    for chunk in chunks() {
        let blocks = chunk.blocks.clone();
        let stored: pb::PutReply = call(theirs.clone(), PUT, Request::new(chunk.clone()))
            .await
            .unwrap();
        assert_eq!(stored, pb::PutReply {});
        assert_eq!(*store.0.lock(), chunk);
        let read: pb::GetReply = call(theirs.clone(), GET, Request::new(get(1)))
            .await
            .unwrap();
        assert_eq!((read.offset, &read.blocks), (9, &blocks));

        *store.0.lock() = pb::PutRequest::default();
        let stored = client.put(chunk.clone()).await.unwrap();
        assert_eq!(stored.into_inner(), pb::PutReply {});
        assert_eq!(*store.0.lock(), chunk);
        let read = client.get(get(1)).await.unwrap().into_inner();
        assert_eq!((read.offset, read.blocks), (9, blocks));
    }
}

#[tokio::test]
async fn an_error_comes_through_with_its_details() {
    let store = Store::default();
    let theirs = BlobServer::new(store.clone());
    let to_theirs = call::<_, pb::GetReply, _>(theirs, GET, Request::new(get(0))).await;
    let ours = Ours(store);
    let to_ours = call::<_, pb::GetReply, _>(ours.clone(), GET, Request::new(get(0))).await;
    let from_theirs = BlobClient::new(ours).get(get(0)).await;
    for error in [
        to_theirs.unwrap_err(),
        to_ours.unwrap_err(),
        from_theirs.unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::DataLoss);
        assert_eq!(error.message(), "damaged: \u{e4}");
        assert_eq!(error.details(), b"\0details\xff");
    }
}

#[tokio::test]
async fn blocks_are_neither_copied_when_written_nor_when_read() {
    for chunk in chunks() {
        let sent: Vec<_> = chunk
            .blocks
            .iter()
            .map(|block| block.data.clone())
            .collect();
        let (read, _) = read::<pb::PutRequest>(written(chunk, None).unwrap())
            .await
            .unwrap();
        let read = read.unwrap().blocks;
        assert_eq!(read.len(), sent.len());
        for (block, sent) in read.iter().zip(&sent) {
            assert_eq!(block.data, sent);
            assert!(sent.is_empty() || block.data.as_ptr() == sent.as_ptr());
        }
    }
}

#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    for chunk in chunks() {
        let whole = pieces(chunk.clone()).unwrap().concat();
        for step in [1000, 16 * 1024, 64 * 1024 + 1] {
            let cut: Vec<_> = whole.chunks(step).map(Bytes::copy_from_slice).collect();
            assert_eq!(message_in(cut).await.unwrap(), Some(chunk.clone()));
        }
    }
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let whole = pieces(chunk(&[10, 20])).unwrap().concat();
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    let too_long = (1 + MESSAGE_BYTES_MAX as u32).to_be_bytes();
    for (bytes, why) in [
        (whole[..3].to_vec(), "cut off"),
        (whole[..whole.len() - 1].to_vec(), "another length"),
        ([&whole[..], b"x"].concat(), "another length"),
        (with(0, 1), "compressed"),
        (with(5, 0xff), "decode"),
        (
            [&[0], &too_long[..], &[0; 1 + MESSAGE_BYTES_MAX]].concat(),
            "limit",
        ),
    ] {
        let error = message_in(vec![bytes.into()]).await.unwrap_err();
        assert!(error.message().contains(why), "{why}: {error:?}");
    }
    assert_eq!(message_in(Vec::new()).await.unwrap(), None);
    let crumbs = whole.iter().map(|byte| Bytes::copy_from_slice(&[*byte]));
    assert!(message_in(crumbs.collect()).await.unwrap().is_some());
    let crumbs = vec![Bytes::from_static(&[0]); FRAMES_MAX + 1];
    let error = message_in(crumbs).await.unwrap_err();
    assert!(error.message().contains("too many frames"), "{error:?}");
}

async fn message_in(frames: Vec<Bytes>) -> Result<Option<pb::PutRequest>, Status> {
    let frames = frames
        .into_iter()
        .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let body = Body::new(StreamBody::new(stream::iter(frames)));
    Ok(read(body).await?.0)
}
