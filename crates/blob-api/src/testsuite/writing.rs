//! Putting and copying.

use futures_util::future::join_all;
use granary_types::PgId;
use granary_types::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};

use super::{EPOCH, Fixture, pattern};
use crate::{BlobError, Block, CopyChunk};

pub(super) async fn bytes_come_back_whole_and_in_ranges(f: Fixture) {
    f.open().await;
    let block = BLOCK_BYTES;
    for (n, length) in [
        1,
        100,
        block - 1,
        block,
        block + 1,
        3 * block + 7,
        CHUNK_BYTES_MAX,
    ]
    .into_iter()
    .enumerate()
    {
        let (id, bytes) = (f.id(n as u128), pattern(n as u64, length));
        f.put(id, &bytes).await.expect("the chunk is stored");
        let last = length - 1;
        for (offset, wanted) in [
            (0, length),
            (0, 1),
            (last, 1),
            (length / 2, length - length / 2),
            (block.min(last), 1),
            ((block - 1).min(last), 2.min(length - (block - 1).min(last))),
        ] {
            let read = f.get(id, offset as u32, wanted as u32).await;
            let read = read.expect("the range is read");
            assert!(
                read == bytes.slice(offset..offset + wanted),
                "bytes {offset}+{wanted} of {length}"
            );
        }
    }
}

pub(super) async fn putting_again_is_harmless_and_other_bytes_are_refused(f: Fixture) {
    f.open().await;
    let (id, bytes) = (f.id(1), pattern(1, 200_000));
    for _ in 0..3 {
        f.put(id, &bytes).await.expect("a repeat is harmless");
    }
    let listed = f.list().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].owner, f.owner(1));
    assert_eq!(listed[0].length, 200_000);
    for other in [pattern(2, 200_000), pattern(1, 199_999)] {
        assert_eq!(f.put(id, &other).await, Err(BlobError::ChunkExists(id)));
    }
    assert_eq!(f.get(id, 0, 200_000).await.expect("still there"), bytes);
}

pub(super) async fn malformed_chunks_are_refused(f: Fixture) {
    f.open().await;
    let good = f.chunk(f.id(1), &pattern(1, 3 * BLOCK_BYTES));
    let short = Block::new(pattern(1, BLOCK_BYTES - 1));
    let long = Block::new(pattern(1, BLOCK_BYTES + 1));
    let full = good.blocks[0].clone();
    let mut damaged = good.blocks.clone();
    damaged[1].crc32c ^= 1;
    let empty = Block::new(pattern(1, 0));
    for (why, blocks) in [
        ("no blocks", vec![]),
        ("a damaged block", damaged),
        ("a short block inside", vec![short, full.clone()]),
        ("a block too long", vec![long]),
        ("an empty block", vec![full.clone(), empty]),
        (
            "too many blocks",
            vec![full; CHUNK_BYTES_MAX / BLOCK_BYTES + 1],
        ),
    ] {
        let mut chunk = good.clone();
        chunk.blocks = blocks;
        let outcome = f.node.put(f.disk, chunk).await;
        assert!(
            matches!(outcome, Err(BlobError::Invalid(_))),
            "{why}: {outcome:?}"
        );
    }
    assert_eq!(f.list().await, [], "nothing was stored");
}

pub(super) async fn groups_are_opened_and_epochs_only_rise(f: Fixture) {
    let (pg, bytes) = (f.pg, pattern(1, 10));
    let never = PgId(pg.0 + 1_000_000);
    let mut unopened = f.chunk(granary_types::ChunkId::new(never, 1), &bytes);
    unopened.pg_epoch = 1;
    let stale = BlobError::StaleEpoch {
        pg: never,
        current: 0,
    };
    assert_eq!(f.node.put(f.disk, unopened).await, Err(stale));
    let opened = |epoch| f.node.open_pg(f.disk, pg, epoch);
    let at = |epoch| {
        let mut chunk = f.chunk(f.id(u128::from(epoch)), &bytes);
        chunk.pg_epoch = epoch;
        f.node.put(f.disk, chunk)
    };
    opened(EPOCH).await.expect("opens");
    opened(EPOCH).await.expect("opening again is harmless");
    at(EPOCH).await.expect("the current epoch may write");
    opened(EPOCH + 2).await.expect("rises");
    let stale = BlobError::StaleEpoch {
        pg,
        current: EPOCH + 2,
    };
    assert_eq!(opened(EPOCH + 1).await, Err(stale.clone()));
    assert_eq!(at(EPOCH + 1).await, Err(stale.clone()));
    at(EPOCH + 2).await.expect("the current epoch may write");
    let copy = CopyChunk {
        source: f.id(u128::from(EPOCH)),
        target: f.id(99),
        owner: f.owner(1),
        pg_epoch: EPOCH,
    };
    assert_eq!(f.node.copy(f.disk, copy).await, Err(stale));
    assert_eq!(
        f.get(f.id(u128::from(EPOCH)), 0, 10)
            .await
            .expect("reads need no epoch"),
        bytes
    );
}

pub(super) async fn concurrent_writers_all_succeed(f: Fixture) {
    f.open().await;
    let writers = (0..64u64).map(|n| {
        let f = f.clone();
        async move {
            let length = 1000 + 3001 * (n as usize);
            // Every id is written by two writers at once.
            let id = f.id(u128::from(n / 2));
            let bytes = pattern(n / 2, length - 3001 * (n as usize % 2));
            f.put(id, &bytes).await.expect("stored");
            let read = f
                .get(id, 0, bytes.len() as u32)
                .await
                .expect("read at once");
            assert!(read == bytes, "what was written is read");
        }
    });
    join_all(writers).await;
    assert_eq!(f.list().await.len(), 32);
}

pub(super) async fn a_copy_is_a_chunk_of_its_own(f: Fixture) {
    f.open().await;
    let (source, target, bytes) = (f.id(1), f.id(2), pattern(1, 150_000));
    f.put(source, &bytes).await.expect("stored");
    let copy = CopyChunk {
        source,
        target,
        owner: f.owner(2),
        pg_epoch: EPOCH,
    };
    f.node.copy(f.disk, copy).await.expect("copied");
    f.node
        .copy(f.disk, copy)
        .await
        .expect("a repeat is harmless");
    let listed = f.list().await;
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1].owner, f.owner(2));
    assert_eq!(
        listed[1].digest, listed[0].digest,
        "equal chunks, equal digests"
    );
    f.node
        .delete(f.disk, f.pg, EPOCH, vec![source])
        .await
        .expect("deleted");
    assert_eq!(
        f.get(target, 0, 150_000).await.expect("the copy stays"),
        bytes
    );
}

pub(super) async fn copies_are_refused_like_reads_and_writes(f: Fixture) {
    f.open().await;
    let (here, other, gone, taken) = (f.id(1), f.id(2), f.id(3), f.id(4));
    f.put(here, &pattern(1, 1000)).await.expect("stored");
    f.put(taken, &pattern(2, 1000)).await.expect("stored");
    f.node
        .delete(f.disk, f.pg, EPOCH, vec![gone])
        .await
        .expect("deleted");
    let elsewhere = granary_types::ChunkId::new(PgId(f.pg.0 + 1), 1);
    for (source, target, error) in [
        (other, f.id(9), Some(BlobError::ChunkNotFound(other))),
        (gone, f.id(9), Some(BlobError::ChunkDeleted(gone))),
        (here, gone, Some(BlobError::ChunkDeleted(gone))),
        (here, taken, Some(BlobError::ChunkExists(taken))),
        (here, elsewhere, None),
    ] {
        let copy = CopyChunk {
            source,
            target,
            owner: f.owner(1),
            pg_epoch: EPOCH,
        };
        let outcome = f.node.copy(f.disk, copy).await;
        match error {
            Some(error) => assert_eq!(outcome, Err(error)),
            None => assert!(matches!(outcome, Err(BlobError::Invalid(_))), "{outcome:?}"),
        }
    }
}
