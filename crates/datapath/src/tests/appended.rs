//! Reading and folding what was appended.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use granary_meta_api::pb;
use granary_meta_api::pb::extent_piece::Piece;
use granary_meta_api::pb::state::body::Place;
use granary_types::ByteRange;

use super::fakes::{Cluster, Shape};
use super::{MIB, chunks, content, get, put, simulated, target};
use crate::{CopyDigests, ReadError, ReadSource, WriteError};

const GRACE_MS: u64 = 60_000;

/// An object of one large part, small ones and a tail.
struct Log {
    bytes: Bytes,
    large: Vec<Piece>,
    small: Vec<Piece>,
    tail: Vec<Piece>,
    source: ReadSource,
}

fn extents(payload: &pb::Payload) -> Vec<Piece> {
    payload.extents.iter().cloned().map(Piece::Extent).collect()
}

fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes)
}

impl Log {
    async fn write(cluster: &Cluster) -> Self {
        let bytes = content(4 * MIB + 20 * 100_000 + 30 * 5000, 7);
        let large = put(cluster, &bytes.slice(..4 * MIB)).await;
        let mut small = Vec::new();
        for start in (4 * MIB..).step_by(100_000).take(20) {
            let part = put(cluster, &bytes.slice(start..start + 100_000)).await;
            small.extend(extents(&part.payload));
        }
        let tail_from = 4 * MIB + 20 * 100_000;
        let tail = (tail_from..).step_by(5000).take(30);
        let tail = tail.map(|start| Piece::Inline(bytes.slice(start..start + 5000)));
        let body = pb::state::AppendedBody {
            pages: 1,
            parts: 21,
            part_bytes: tail_from as u64,
            run_parts: 20,
            run_bytes: 20 * 100_000,
            tail_rows: 30,
            part_crc64: crc64(&bytes[..tail_from]),
            run_from_crc64: crc64(&bytes[..4 * MIB]),
        };
        let log = Self {
            large: extents(&large.payload),
            small,
            tail: tail.collect(),
            source: ReadSource {
                at: target().at,
                version: pb::state::Version {
                    object_id: Bytes::from_static(&[9; 16]),
                    size: bytes.len() as u64,
                    crc64: crc64(&bytes),
                    body: Some(pb::state::Body {
                        place: Some(Place::Appended(body)),
                    }),
                    ..Default::default()
                },
                inline: Bytes::new(),
            },
            bytes,
        };
        let all = [&log.large[..], &log.small, &log.tail].concat();
        cluster
            .meta
            .set_appended(&log.source.version.object_id, all);
        log
    }

    fn body(&mut self) -> &mut pb::state::AppendedBody {
        match &mut self.source.version.body {
            Some(pb::state::Body {
                place: Some(Place::Appended(body)),
            }) => body,
            other => panic!("{other:?}"),
        }
    }
}

fn shape() -> Shape {
    Shape {
        grace_ms: GRACE_MS,
        ..Shape::default()
    }
}

#[test]
fn parts_and_tail_are_one_stream() {
    simulated(async {
        let cluster = Cluster::start(shape()).await;
        let log = Log::write(&cluster).await;
        let size = log.bytes.len() as u64;
        let tail_from = size - 30 * 5000;
        for (start, end) in [
            (0, size),
            (4 * MIB as u64 - 1, 4 * MIB as u64 + 250_001),
            (tail_from - 1, tail_from + 1),
            (tail_from + 4999, size - 1),
            (size - 1, size),
            (5, 5),
        ] {
            let read = get(&cluster, &log.source, ByteRange { start, end }).await;
            let expected = log.bytes.slice(start as usize..end as usize);
            assert!(read.unwrap() == expected, "{start}..{end}");
        }
        for digests in [CopyDigests::Keep, CopyDigests::Compute] {
            let whole = ByteRange::whole(size);
            let source = log.source.clone();
            let copied = cluster.path.copy(source, whole, target(), digests).await;
            let copy = super::source(&cluster, &copied.unwrap().payload);
            assert!(get(&cluster, &copy, whole).await.unwrap() == log.bytes);
        }
    });
}

/// A copy takes what the version had, though the object has grown and what it had is now part of a
/// larger piece.
#[test]
fn a_reader_ends_at_the_length_it_began_with() {
    simulated(async {
        let cluster = Cluster::start(shape()).await;
        let log = Log::write(&cluster).await;
        let more = content(3 * MIB, 8);
        let grown = [&log.bytes[4 * MIB..], &more].concat();
        let folded = put(&cluster, &grown.into()).await;
        let pieces = [log.large.clone(), extents(&folded.payload)].concat();
        cluster
            .meta
            .set_appended(&log.source.version.object_id, pieces);
        let whole = ByteRange::whole(log.bytes.len() as u64);
        assert!(get(&cluster, &log.source, whole).await.unwrap() == log.bytes);
        let copied = cluster
            .path
            .copy(log.source.clone(), whole, target(), CopyDigests::Keep)
            .await
            .unwrap();
        assert_eq!(copied.size, whole.end);
        let copy = super::source(&cluster, &copied.payload);
        assert!(get(&cluster, &copy, whole).await.unwrap() == log.bytes);
    });
}

/// What a fold replaces is deleted after the grace, whoever reads the object: a reader that has been
/// slow for longer finds the bytes where they are by then.
#[test]
fn a_slow_reader_goes_on_after_a_fold() {
    simulated(async {
        let cluster = Cluster::start(shape()).await;
        let log = Log::write(&cluster).await;
        let whole = ByteRange::whole(log.bytes.len() as u64);
        let mut stream = cluster.path.read(log.source.clone(), whole);
        let mut read = Vec::new();
        // Into the first of the small parts: references of the next ones are known by now.
        while read.len() <= 4 * MIB {
            read.extend_from_slice(&stream.next().await.unwrap().unwrap());
        }
        let folded = put(&cluster, &log.bytes.slice(4 * MIB..)).await;
        let pieces = [log.large.clone(), extents(&folded.payload)].concat();
        cluster
            .meta
            .set_appended(&log.source.version.object_id, pieces);
        tokio::time::sleep(Duration::from_millis(GRACE_MS + 1000)).await;
        let old = log.small.iter().map(|piece| match piece {
            Piece::Extent(extent) => extent.chunk.clone(),
            Piece::Inline(_) => panic!("a chunk"),
        });
        let old: Vec<Bytes> = old.collect();
        for disk in cluster.nodes.disks.lock().values_mut() {
            disk.chunks
                .retain(|id, _| !old.contains(&Bytes::copy_from_slice(&id.to_bytes())));
        }
        while let Some(bytes) = stream.next().await {
            read.extend_from_slice(&bytes.unwrap());
        }
        assert!(read == log.bytes);
    });
}

#[test]
fn a_fold_takes_the_tail_or_the_small_parts_too() {
    simulated(async {
        let cluster = Cluster::start(shape()).await;
        let mut log = Log::write(&cluster).await;
        let size = log.bytes.len() as u64;
        let tail_from = log.body().part_bytes;
        // Together they fill no chunk yet: the tail alone.
        for (run_parts, from) in [(20, tail_from), (63, 4 * MIB as u64)] {
            log.body().run_parts = run_parts;
            let folded = cluster.path.fold(log.source.clone(), target()).await;
            let folded = folded.unwrap().unwrap();
            assert_eq!(folded.from, from);
            let expected = log.bytes.slice(from as usize..);
            assert_eq!(folded.payload.size, size - from);
            let written = super::source(&cluster, &folded.payload);
            let bytes = get(&cluster, &written, ByteRange::whole(size - from)).await;
            assert!(bytes.unwrap() == expected);
            assert_eq!(folded.crc64, put(&cluster, &expected).await.crc64);
            assert_eq!(chunks(&folded.payload).len(), 1);
        }
        log.source.version.size = tail_from;
        log.body().run_parts = 1;
        let nothing = cluster.path.fold(log.source.clone(), target()).await;
        assert!(nothing.unwrap().is_none());
    });
}

/// The shard cannot notice when somebody appends meanwhile, and what a fold replaces is deleted.
#[test]
fn a_fold_that_read_other_bytes_than_were_appended_is_given_up() {
    simulated(async {
        let cluster = Cluster::start(shape()).await;
        let mut log = Log::write(&cluster).await;
        let Some(Piece::Inline(row)) = log.tail.last_mut() else {
            panic!("a row of the tail");
        };
        let mut damaged = row.to_vec();
        damaged[17] ^= 1;
        *row = damaged.into();
        let pieces = [&log.large[..], &log.small, &log.tail].concat();
        cluster
            .meta
            .set_appended(&log.source.version.object_id, pieces);
        for run_parts in [20, 63] {
            log.body().run_parts = run_parts;
            let folded = cluster.path.fold(log.source.clone(), target()).await;
            assert!(
                matches!(folded, Err(WriteError::Source(ReadError::Malformed(_)))),
                "{folded:?}"
            );
        }
    });
}
