//! What a user notices: the same bytes back, whatever happens to disks, clients and memory.

mod appended;
mod fakes;
mod former_members;
mod hedging;
mod narrow_zones;
mod repair;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use granary_meta_api::pb;
use granary_types::limits::BLOCK_BYTES;
use granary_types::{ByteRange, ChunkId, DiskId, PgId, Redundancy, StorageClass};
use md5::{Digest as _, Md5};
use proptest::prelude::*;

use crate::{
    BodyError, BodyLimits, CopyCheck, CopyDigests, DataPathConfig, ReadError, ReadSource,
    RestoreError, WriteError, WriteTarget, Written,
};
use fakes::{Cluster, Fault, Shape};

const MIB: usize = 1024 * 1024;

fn target() -> WriteTarget {
    WriteTarget {
        at: pb::Position {
            bucket_id: 7,
            key: Bytes::from_static(b"key"),
            generation: 1,
        },
        redundancy: Redundancy::Lrs,
        storage_class: StorageClass::Standard,
        continues: None,
    }
}

fn limits(declared_length: Option<u64>) -> BodyLimits {
    BodyLimits {
        declared_length,
        max_bytes: 1 << 40,
    }
}

/// Bytes in which no two places look alike.
fn content(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.collect();
    bytes.truncate(length);
    bytes.into()
}

/// A body in frames of `frame` bytes.
fn frames(
    bytes: &Bytes,
    frame: usize,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Unpin + use<> {
    let bytes = bytes.clone();
    let starts = (0..bytes.len()).step_by(frame.max(1));
    stream::iter(starts.map(move |at| Ok(bytes.slice(at..(at + frame).min(bytes.len())))))
}

async fn put(cluster: &Cluster, bytes: &Bytes) -> Written {
    let declared = limits(Some(bytes.len() as u64));
    let body = frames(bytes, 100_000);
    cluster.path.write(target(), body, declared).await.unwrap()
}

fn source(cluster: &Cluster, payload: &pb::Payload) -> ReadSource {
    ReadSource {
        at: target().at,
        version: cluster.meta.commit(payload),
        inline: payload.inline.clone(),
    }
}

async fn get(cluster: &Cluster, source: &ReadSource, range: ByteRange) -> Result<Bytes, ReadError> {
    let mut stream = cluster.path.read(source.clone(), range);
    stream.begin().await?;
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all.into())
}

fn chunks(payload: &pb::Payload) -> Vec<ChunkId> {
    let ids = payload.extents.iter();
    ids.map(|extent| ChunkId::from_slice(&extent.chunk).unwrap())
        .collect()
}

/// Runs a test body under simulated time.
fn simulated<F: Future>(body: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(body)
}

#[test]
fn what_is_read_was_written() {
    let sizes = [
        0,
        1,
        16 * 1024,
        16 * 1024 + 1,
        32 * 1024 + 1,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        MIB,
        4 * MIB,
        4 * MIB + 1,
        9 * MIB + 12_345,
    ];
    for size in sizes {
        simulated(async {
            let cluster = Cluster::start(Shape::default()).await;
            let bytes = content(size, size as u64);
            let written = put(&cluster, &bytes).await;
            let md5: [u8; 16] = Md5::digest(&bytes).into();
            assert_eq!((written.size, written.md5), (size as u64, md5));
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &bytes);
            assert_eq!(written.crc64, crc);
            assert_eq!(written.payload.write_id.is_empty(), size <= 16 * 1024);
            assert_eq!(
                chunks(&written.payload).len(),
                if size <= 16 * 1024 {
                    0
                } else {
                    size.div_ceil(4 * MIB)
                }
            );
            for chunk in chunks(&written.payload) {
                assert_eq!(cluster.holders(chunk).len(), 3);
            }
            let source = source(&cluster, &written.payload);
            let whole = ByteRange::whole(size as u64);
            assert!(get(&cluster, &source, whole).await.unwrap() == bytes);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_range_of_any_body_comes_back(
        size in 0usize..10 * MIB,
        frame in 1000usize..700_000,
        declared: bool,
        ranges in prop::collection::vec((0.0f64..1.0, 0.0f64..1.0), 4),
    ) {
        simulated(async {
            let cluster = Cluster::start(Shape::default()).await;
            let bytes = content(size, 99);
            let declared = limits(declared.then_some(size as u64));
            let written = cluster.path.write(target(), frames(&bytes, frame), declared).await.unwrap();
            let md5: [u8; 16] = Md5::digest(&bytes).into();
            prop_assert_eq!(written.md5, md5);
            let source = source(&cluster, &written.payload);
            for (a, b) in ranges {
                let (a, b) = ((a * size as f64) as usize, (b * size as f64) as usize);
                let (start, end) = (a.min(b), a.max(b));
                let range = ByteRange { start: start as u64, end: end as u64 };
                let read = get(&cluster, &source, range).await.unwrap();
                prop_assert!(read == bytes.slice(start..end), "range {start}..{end}");
            }
            Ok(())
        })?;
    }
}

#[test]
fn references_beyond_the_bound_are_staged_and_memory_stays_in_the_budget() {
    simulated(async {
        // A budget of one block cuts the body into chunks of one block: very many references.
        let config = DataPathConfig {
            write_buffer_bytes: BLOCK_BYTES as u64,
            ..Default::default()
        };
        let shape = Shape {
            disks: 1,
            copies: 1,
            config,
            ..Default::default()
        };
        let cluster = Cluster::start(shape).await;
        let bytes = content(2500 * BLOCK_BYTES + 77, 3);
        let written = put(&cluster, &bytes).await;
        assert_eq!(written.payload.staged_extents, 2048);
        assert!(cluster.path.shared.write_budget.peak_bytes() <= BLOCK_BYTES as u64);
        let source = source(&cluster, &written.payload);
        let range = ByteRange {
            start: 5,
            end: bytes.len() as u64 - 3,
        };
        assert!(get(&cluster, &source, range).await.unwrap() == bytes.slice(5..bytes.len() - 3));
        // Paging starts anywhere.
        let late = ByteRange {
            start: 2049 * BLOCK_BYTES as u64 + 9,
            end: bytes.len() as u64,
        };
        assert!(get(&cluster, &source, late).await.unwrap() == bytes.slice(late.start as usize..));
    });
}

#[test]
fn a_disk_that_fails_midway_costs_nothing_but_a_rewrite() {
    for fault in [
        Fault::FailsAfterPuts(2),
        Fault::Failed,
        Fault::Full,
        Fault::Hangs,
    ] {
        simulated(async {
            let cluster = Cluster::start(Shape::default()).await;
            cluster.set_fault(2, fault);
            let bytes = content(30 * MIB, 5);
            let written = put(&cluster, &bytes).await;
            for chunk in chunks(&written.payload) {
                assert_eq!(cluster.holders(chunk).len(), 3, "{fault:?}");
            }
            let source = source(&cluster, &written.payload);
            let whole = ByteRange::whole(written.size);
            assert!(get(&cluster, &source, whole).await.unwrap() == bytes);
        });
    }
}

#[test]
fn without_a_whole_group_the_quorum_is_enough_and_less_is_refused() {
    simulated(async {
        let cluster = Cluster::start(Shape {
            disks: 3,
            ..Default::default()
        })
        .await;
        cluster.set_fault(1, Fault::Failed);
        let bytes = content(5 * MIB, 6);
        let written = put(&cluster, &bytes).await;
        for chunk in chunks(&written.payload) {
            assert_eq!(cluster.holders(chunk).len(), 2);
        }
        let source = source(&cluster, &written.payload);
        let whole = ByteRange::whole(written.size);
        assert!(get(&cluster, &source, whole).await.unwrap() == bytes);

        cluster.set_fault(2, Fault::Failed);
        let before = cluster.runtime.monotonic();
        let refused = cluster
            .path
            .write(target(), frames(&bytes, MIB), limits(None))
            .await;
        assert!(
            matches!(refused, Err(WriteError::Unavailable(_))),
            "{refused:?}"
        );
        let waited = cluster.runtime.monotonic() - before;
        assert!(
            waited < Duration::from_secs(5),
            "503 must come early, came after {waited:?}"
        );
        // Reads go on with the last copy.
        assert!(get(&cluster, &source, whole).await.unwrap() == bytes);
    });
}

#[test]
fn an_old_map_is_read_again() {
    simulated(async {
        let cluster = Cluster::start(Shape {
            disks: 3,
            ..Default::default()
        })
        .await;
        for disk in cluster.nodes.disks.lock().values_mut() {
            disk.epochs.insert(PgId(0b111), 2);
        }
        {
            let mut map = cluster.meta.map.lock();
            map.epoch = 2;
            map.groups[0].epoch = 2;
        }
        let bytes = content(MIB, 8);
        let written = put(&cluster, &bytes).await;
        assert_eq!(cluster.holders(chunks(&written.payload)[0]).len(), 3);
    });
}

#[test]
fn a_bad_copy_is_replaced_within_the_response_and_reported() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let bytes = content(9 * MIB, 11);
        let written = put(&cluster, &bytes).await;
        let source = source(&cluster, &written.payload);
        // Of every chunk two copies are bad: one is damaged, one is gone.
        let mut bad = std::collections::HashSet::new();
        for chunk in chunks(&written.payload) {
            let mut holders: Vec<_> = cluster.holders(chunk).into_iter().collect();
            holders.sort_unstable();
            let mut disks = cluster.nodes.disks.lock();
            let damaged = disks.get_mut(&holders[0]).unwrap();
            let (_, blocks) = damaged.chunks.get_mut(&chunk).unwrap();
            for block in blocks {
                let mut flipped = block.data.to_vec();
                flipped[17] ^= 4;
                block.data = flipped.into();
            }
            disks.get_mut(&holders[1]).unwrap().chunks.remove(&chunk);
            bad.extend([(chunk, holders[0]), (chunk, holders[1])]);
        }
        for _ in 0..3 {
            let whole = ByteRange::whole(written.size);
            assert!(get(&cluster, &source, whole).await.unwrap() == bytes);
        }
        let hints = cluster.path.repair_hints().take(100);
        assert!(!hints.is_empty());
        assert!(
            hints
                .iter()
                .all(|hint| bad.contains(&(hint.chunk, hint.disk))),
            "{hints:?}"
        );
    });
}

#[test]
fn a_slow_disk_is_not_waited_for() {
    for fault in [Fault::Slow, Fault::Hangs] {
        simulated(async {
            let cluster = Cluster::start(Shape::default()).await;
            let bytes = content(8 * MIB, 12);
            let written = put(&cluster, &bytes).await;
            let source = source(&cluster, &written.payload);
            cluster.set_fault(3, fault);
            let before = cluster.runtime.monotonic();
            let whole = ByteRange::whole(written.size);
            assert!(get(&cluster, &source, whole).await.unwrap() == bytes);
            let took = cluster.runtime.monotonic() - before;
            assert!(took < Duration::from_millis(900), "{fault:?}: {took:?}");
        });
    }
}

#[test]
fn a_second_copy_is_asked_after_what_reads_usually_take() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let written = put(&cluster, &content(40 * MIB, 12)).await;
        let source = source(&cluster, &written.payload);
        let whole = ByteRange::whole(written.size);
        let read = async || {
            let hedged = &cluster.path.shared.metrics.reads_hedged;
            let (began, before) = (cluster.runtime.monotonic(), hedged.get());
            get(&cluster, &source, whole).await.unwrap();
            (cluster.runtime.monotonic() - began, hedged.get() - before)
        };
        let (usual, hedged) = read().await;
        assert_eq!(hedged, 0, "nobody was slow");
        cluster.set_fault(3, Fault::Slow);
        let (took, hedged) = read().await;
        assert!(hedged > 0);
        let limit = usual + Duration::from_millis(60) * hedged as u32;
        assert!(
            took <= limit,
            "{took:?} with {hedged} hedges, else {usual:?}"
        );
        // When every disk has become slow, a second copy helps nobody.
        for disk in 1..=4 {
            cluster.set_fault(disk, Fault::Slow);
        }
        for _ in 0..5 {
            read().await;
        }
        assert_eq!(read().await.1, 0, "hedged although that is usual");
    });
}

#[test]
fn a_member_that_is_about_to_leave_is_read_and_takes_no_new_chunks() {
    simulated(async {
        let cluster = Cluster::start(Shape {
            disks: 4,
            copies: 4,
            ..Default::default()
        })
        .await;
        let bytes = content(9 * MIB, 21);
        let before = put(&cluster, &bytes).await;
        {
            let mut map = cluster.meta.map.lock();
            map.pools[0].copies = 3;
            map.groups[0].leaving = 4;
            map.epoch += 1;
        }
        cluster.path.view().refresh().await.unwrap();
        let staying = std::collections::HashSet::from([1, 2, 3].map(DiskId));
        let copied = cluster.path.copy(
            source(&cluster, &before.payload),
            ByteRange::whole(before.size),
            target(),
            CopyDigests::Keep,
        );
        let copied = copied.await.unwrap().payload;
        let during = put(&cluster, &bytes).await.payload;
        for chunk in chunks(&during).into_iter().chain(chunks(&copied)) {
            assert_eq!(cluster.holders(chunk), staying);
        }
        assert!(
            cluster.path.repair_hints().take(10).is_empty(),
            "nothing is missing"
        );
        // One of those that stay is out: two copies of three, and the one that leaves is none.
        cluster.set_fault(3, Fault::Failed);
        let degraded = put(&cluster, &content(MIB, 22)).await.payload;
        let expected = std::collections::HashSet::from([1, 2].map(DiskId));
        assert_eq!(cluster.holders(chunks(&degraded)[0]), expected);
        let missing: Vec<DiskId> = cluster
            .path
            .repair_hints()
            .take(10)
            .iter()
            .map(|h| h.disk)
            .collect();
        assert_eq!(missing, [DiskId(3)]);
        // What it still holds may be the last copy that can be read.
        for disk in [1, 2] {
            cluster.set_fault(disk, Fault::Failed);
        }
        let source = source(&cluster, &before.payload);
        let whole = ByteRange::whole(before.size);
        assert!(get(&cluster, &source, whole).await.unwrap() == bytes);
    });
}

#[test]
fn two_copies_of_three_are_better_than_a_whole_group_of_one() {
    simulated(async {
        // The pool of three copies, and one from the time when there was one disk.
        let cluster = Cluster::start(Shape {
            disks: 3,
            ..Default::default()
        })
        .await;
        {
            let mut map = cluster.meta.map.lock();
            let (mut pool, mut group) = (map.pools[0].clone(), map.groups[0].clone());
            (pool.id, pool.copies) = (2, 1);
            (group.id, group.pool) = (1000, 2);
            group.members.truncate(1);
            map.pools.push(pool);
            map.groups.push(group);
            map.epoch += 1;
        }
        cluster.path.view().refresh().await.unwrap();
        let copies = async |seed| {
            let written = put(&cluster, &content(20_000, seed)).await;
            cluster.holders(chunks(&written.payload)[0]).len()
        };
        assert_eq!(copies(1).await, 3);
        cluster.set_fault(3, Fault::Failed);
        assert_eq!(copies(2).await, 2);
        assert_eq!(copies(3).await, 2);
    });
}

#[test]
fn lost_bytes_are_an_error_and_never_other_bytes() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let bytes = content(9 * MIB, 13);
        let written = put(&cluster, &bytes).await;
        let source = source(&cluster, &written.payload);
        let lost = chunks(&written.payload)[1];
        for disk in cluster.nodes.disks.lock().values_mut() {
            disk.chunks.remove(&lost);
        }
        let mut stream = cluster.path.read(source, ByteRange::whole(written.size));
        let (mut read, mut error) = (0, None);
        while let Some(item) = stream.next().await {
            match item {
                Ok(part) => {
                    assert!(error.is_none());
                    assert!(part == bytes.slice(read..read + part.len()));
                    read += part.len();
                }
                Err(failure) => error = Some(failure),
            }
        }
        assert_eq!(read, 4 * MIB);
        assert!(
            matches!(error, Some(ReadError::Missing(chunk)) if chunk == lost),
            "{error:?}"
        );
    });
}

#[test]
fn bodies_that_break_never_leave_a_payload() {
    #[derive(Debug, thiserror::Error)]
    #[error("reset")]
    struct Reset;
    simulated(async {
        for size in [100, 50_000, 9 * MIB] {
            let cluster = Cluster::start(Shape::default()).await;
            let bytes = content(size, 14);
            let declared = size as u64;
            let short = frames(&bytes.slice(..size - 1), 60_000);
            let answer = cluster
                .path
                .write(target(), short, limits(Some(declared)))
                .await;
            assert!(
                matches!(answer, Err(WriteError::Short { received, .. }) if received == declared - 1),
                "{answer:?}"
            );
            let long = frames(&bytes, 60_000);
            let answer = cluster
                .path
                .write(target(), long, limits(Some(declared - 1)))
                .await;
            assert!(matches!(answer, Err(WriteError::Long { .. })), "{answer:?}");
            let bounded = BodyLimits {
                declared_length: None,
                max_bytes: declared - 1,
            };
            let answer = cluster
                .path
                .write(target(), frames(&bytes, 60_000), bounded)
                .await;
            assert!(
                matches!(answer, Err(WriteError::TooLarge { .. })),
                "{answer:?}"
            );
            let broken = frames(&bytes, 60_000).chain(stream::iter([Err(BodyError::new(Reset))]));
            let answer = cluster.path.write(target(), broken, limits(None)).await;
            match answer {
                Err(WriteError::Body(error)) => assert!(error.downcast_ref::<Reset>().is_some()),
                other => panic!("{other:?}"),
            }
            // Nothing is held back afterwards.
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(cluster.path.shared.write_budget.used_bytes(), 0);
        }
    });
}

#[test]
fn many_writers_share_a_small_budget_and_quiet_ones_make_room() {
    simulated(async {
        let budget = 8 * MIB as u64;
        let config = DataPathConfig {
            write_buffer_bytes: budget,
            ..Default::default()
        };
        let cluster = Cluster::start(Shape {
            config,
            ..Default::default()
        })
        .await;
        // Forty clients send 200 KB and fall silent for a minute: more than the budget together.
        let quiet = (0..40).map(|n| {
            let path = cluster.path.clone();
            cluster.runtime.spawn(async move {
                let bytes = content(200_000, n);
                let pause = stream::once(async {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    Ok(Bytes::new())
                });
                let body = frames(&bytes, 200_000)
                    .chain(pause)
                    .chain(frames(&bytes, 200_000));
                path.write(target(), Box::pin(body), limits(Some(400_000)))
                    .await
            })
        });
        let quiet: Vec<_> = quiet.collect();
        let busy = (0..64).map(|n| {
            let path = cluster.path.clone();
            cluster.runtime.spawn(async move {
                let bytes = content(3 * MIB, 1000 + n);
                path.write(
                    target(),
                    frames(&bytes, 64_000),
                    limits(Some(3 * MIB as u64)),
                )
                .await
            })
        });
        let busy: Vec<_> = busy.collect();
        let before = cluster.runtime.monotonic();
        for task in busy {
            task.await.unwrap().unwrap();
        }
        let waited = cluster.runtime.monotonic() - before;
        assert!(
            waited < Duration::from_secs(20),
            "quiet clients held the others up for {waited:?}"
        );
        for task in quiet {
            task.await.unwrap().unwrap();
        }
        let budgets = &cluster.path.shared.write_budget;
        assert!(budgets.peak_bytes() <= budget);
        assert_eq!(budgets.used_bytes(), 0);
    });
}

#[test]
fn slow_clients_hold_what_they_have_sent_and_not_what_they_will() {
    slow_clients_get_through(0, 256 * 1024);
}

#[test]
fn a_burst_makes_no_quick_client() {
    slow_clients_get_through(64 * 1024, 256 * 1024);
    slow_clients_get_through(256 * 1024, 512 * 1024);
}

/// Each sends so much at once, and the rest of the whole slowly.
fn slow_clients_get_through(burst: usize, whole: usize) {
    simulated(async move {
        let budget = 8 * MIB as u64;
        let config = DataPathConfig {
            write_buffer_bytes: budget,
            ..Default::default()
        };
        let cluster = Cluster::start(Shape {
            config,
            ..Default::default()
        })
        .await;
        // All of it together is several times the budget, and takes longer than anybody waits for memory.
        let slow = (0..100).map(|n| {
            let path = cluster.path.clone();
            cluster.runtime.spawn(async move {
                let bytes = content(whole, n);
                let rest = frames(&bytes.slice(burst..), 8 * 1024).then(|frame| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    frame
                });
                let body = frames(&bytes.slice(..burst), 64 * 1024).chain(rest);
                path.write(target(), Box::pin(body), limits(Some(whole as u64)))
                    .await
            })
        });
        let slow: Vec<_> = slow.collect();
        for task in slow {
            assert_eq!(task.await.unwrap().unwrap().size, whole as u64);
        }
        let budgets = &cluster.path.shared.write_budget;
        assert!(budgets.peak_bytes() <= budget);
        assert_eq!(budgets.used_bytes(), 0);
    });
}

#[test]
fn readers_that_fall_asleep_hold_a_bounded_amount() {
    simulated(async {
        let config = DataPathConfig {
            read_buffer_bytes: 8 * MIB as u64,
            ..Default::default()
        };
        let cluster = Cluster::start(Shape {
            config,
            ..Default::default()
        })
        .await;
        let bytes = content(16 * MIB, 21);
        let written = put(&cluster, &bytes).await;
        let source = source(&cluster, &written.payload);
        let mut sleepers = Vec::new();
        for _ in 0..10 {
            let mut stream = cluster
                .path
                .read(source.clone(), ByteRange::whole(written.size));
            let first = stream.next().await.unwrap().unwrap();
            sleepers.push((stream, first));
        }
        // There is still room for another, and the sleepers wake up to the right bytes.
        let whole = ByteRange::whole(written.size);
        assert!(get(&cluster, &source, whole).await.unwrap() == bytes);
        for (mut stream, first) in sleepers {
            let mut all = first.to_vec();
            drop(first);
            while let Some(part) = stream.next().await {
                all.extend_from_slice(&part.unwrap());
            }
            assert!(all == bytes);
        }
        assert!(cluster.path.shared.read_budget.peak_bytes() <= 8 * MIB as u64);
        assert_eq!(cluster.path.shared.read_budget.used_bytes(), 0);
    });
}

#[test]
fn overload_is_told_and_ends() {
    simulated(async {
        let config = DataPathConfig {
            write_buffer_bytes: 4 * MIB as u64,
            ..Default::default()
        };
        let cluster = Cluster::start(Shape {
            config,
            ..Default::default()
        })
        .await;
        let _all = cluster.path.shared.write_budget.try_take(4 * MIB).unwrap();
        let bytes = content(100_000, 1);
        let answer = cluster
            .path
            .write(target(), frames(&bytes, 9999), limits(None))
            .await;
        assert!(matches!(answer, Err(WriteError::Overloaded)), "{answer:?}");
    });
}

#[test]
fn a_throttled_put_keeps_its_lease_and_a_stalled_one_loses_it() {
    simulated(async {
        let shape = Shape {
            lease_ms: 10_000,
            ..Default::default()
        };
        let cluster = Cluster::start(shape).await;
        let bytes = content(6 * MIB, 31);
        let throttled = frames(&bytes, 100_000).then(|frame| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            frame
        });
        let written = cluster
            .path
            .write(
                target(),
                Box::pin(throttled),
                limits(Some(bytes.len() as u64)),
            )
            .await
            .unwrap();
        assert!(cluster.meta.renewals() > 5);
        let source = source(&cluster, &written.payload);
        let whole = ByteRange::whole(written.size);
        assert!(get(&cluster, &source, whole).await.unwrap() == bytes);

        let stalled = frames(&bytes, MIB)
            .enumerate()
            .then(|(n, frame)| async move {
                let pause = if n == 5 { 60 } else { 0 };
                tokio::time::sleep(Duration::from_secs(pause)).await;
                frame
            });
        let answer = cluster
            .path
            .write(target(), Box::pin(stalled), limits(None))
            .await;
        assert!(matches!(answer, Err(WriteError::Refused(_))), "{answer:?}");
    });
}

#[test]
fn a_throttled_get_survives_an_overwrite_and_the_sweep() {
    simulated(async {
        let shape = Shape {
            grace_ms: 6_000,
            ..Default::default()
        };
        let cluster = Cluster::start(shape).await;
        let bytes = content(24 * MIB, 41);
        let written = put(&cluster, &bytes).await;
        let source = source(&cluster, &written.payload);
        // Overwritten now: deleted once the grace and every pin have passed.
        let due = cluster.runtime.now().as_millis() + 6_000;
        let (meta, nodes) = (cluster.meta.clone(), cluster.nodes.clone());
        let (object, doomed) = (source.version.object_id.clone(), chunks(&written.payload));
        let runtime = cluster.runtime.clone();
        let sweep = cluster.runtime.spawn(async move {
            loop {
                let now = runtime.now().as_millis();
                if now > due && now > meta.pinned_until(&object) {
                    for disk in nodes.disks.lock().values_mut() {
                        disk.chunks.retain(|id, _| !doomed.contains(id));
                    }
                    return now;
                }
                runtime.sleep(Duration::from_millis(100)).await;
            }
        });
        let mut stream = cluster
            .path
            .read(source.clone(), ByteRange::whole(written.size));
        let mut all = Vec::new();
        let started = cluster.runtime.now().as_millis();
        while let Some(part) = stream.next().await {
            all.extend_from_slice(&part.unwrap());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(all == bytes);
        let ended = cluster.runtime.now().as_millis();
        assert!(
            ended - started > 60_000,
            "the read must outlive the grace many times"
        );
        // Nobody reads any more: the space comes back soon.
        drop(stream);
        let deleted = sweep.await.unwrap();
        assert!(deleted < ended + 12_000);
        let late = get(&cluster, &source, ByteRange::whole(written.size)).await;
        assert!(matches!(late, Err(ReadError::Missing(_))), "{late:?}");
    });
}

#[test]
fn whole_objects_are_copied_on_the_disks() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let bytes = content(9 * MIB + 5, 51);
        let written = put(&cluster, &bytes).await;
        let original = source(&cluster, &written.payload);
        let whole = ByteRange::whole(written.size);
        let copied = cluster
            .path
            .copy(original.clone(), whole, target(), CopyDigests::Keep)
            .await
            .unwrap();
        assert_eq!(
            cluster
                .nodes
                .gets
                .load(std::sync::atomic::Ordering::Relaxed),
            0
        );
        assert!(copied.digests.is_none());
        assert_ne!(chunks(&copied.payload), chunks(&written.payload));
        for chunk in chunks(&copied.payload) {
            assert_eq!(cluster.holders(chunk).len(), 3);
        }
        // The copy lives on when the original is gone.
        for disk in cluster.nodes.disks.lock().values_mut() {
            for chunk in chunks(&written.payload) {
                disk.chunks.remove(&chunk);
            }
        }
        let copy = source(&cluster, &copied.payload);
        assert!(get(&cluster, &copy, whole).await.unwrap() == bytes);
    });
}

#[test]
fn copies_go_through_memory_when_disks_cannot() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let bytes = content(9 * MIB + 5, 52);
        let written = put(&cluster, &bytes).await;
        let original = source(&cluster, &written.payload);
        let whole = ByteRange::whole(written.size);
        cluster.set_fault(1, Fault::Failed);
        let copied = cluster
            .path
            .copy(original.clone(), whole, target(), CopyDigests::Keep)
            .await
            .unwrap();
        for chunk in chunks(&copied.payload) {
            let holders = cluster.holders(chunk);
            assert!(
                holders.len() == 3 && !holders.contains(&DiskId(1)),
                "{holders:?}"
            );
        }
        let copy = source(&cluster, &copied.payload);
        assert!(get(&cluster, &copy, whole).await.unwrap() == bytes);

        let range = ByteRange {
            start: 1000,
            end: 7 * MIB as u64,
        };
        let part = cluster
            .path
            .copy(original.clone(), range, target(), CopyDigests::Compute)
            .await
            .unwrap();
        let expected = bytes.slice(1000..7 * MIB);
        let md5: [u8; 16] = Md5::digest(&expected).into();
        assert_eq!(part.digests.unwrap().0, md5);
        let part = source(&cluster, &part.payload);
        assert!(
            get(&cluster, &part, ByteRange::whole(range.length()))
                .await
                .unwrap()
                == expected
        );

        // Small ones travel in the commit.
        let tiny = ByteRange { start: 5, end: 105 };
        let copied = cluster
            .path
            .copy(original, tiny, target(), CopyDigests::Compute)
            .await
            .unwrap();
        assert_eq!(copied.payload.inline, bytes.slice(5..105));
    });
}

#[test]
fn a_chunk_is_restored_from_a_good_copy_only() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let bytes = content(MIB, 61);
        let written = put(&cluster, &bytes).await;
        let chunk = chunks(&written.payload)[0];
        let holders: Vec<_> = cluster.holders(chunk).into_iter().collect();
        let spare = (1..=4)
            .map(DiskId)
            .find(|disk| !holders.contains(disk))
            .unwrap();
        let node = cluster.path.view().node_of(holders[0]).unwrap();
        let entry = node
            .list(holders[0], chunk.pg(), None, 10)
            .await
            .unwrap()
            .entries[0];
        {
            let mut disks = cluster.nodes.disks.lock();
            let (_, blocks) = disks
                .get_mut(&holders[0])
                .unwrap()
                .chunks
                .get_mut(&chunk)
                .unwrap();
            blocks[0] = granary_blob_api::Block::new(Bytes::from(vec![0; BLOCK_BYTES]));
        }
        // A copy that is consistent in itself but not the listed bytes is no source.
        let only_bad = cluster
            .path
            .restore_chunk(&entry, &holders[..1], spare, 1)
            .await;
        assert!(only_bad.is_err());
        cluster
            .path
            .restore_chunk(&entry, &holders, spare, 1)
            .await
            .unwrap();
        let check = async |disk| cluster.path.verify_copy(&entry, disk).await;
        assert_eq!(check(spare).await, CopyCheck::Good);
        assert_eq!(check(holders[0]).await, CopyCheck::Bad);
        for fault in [Fault::Hangs, Fault::Failed] {
            cluster.set_fault(spare.0, fault);
            assert_eq!(check(spare).await, CopyCheck::Unknown, "{fault:?}");
        }
        cluster.set_fault(spare.0, Fault::None);
        let memory = cluster.path.shared.config.write_buffer_bytes as usize;
        let _all = cluster.path.shared.write_budget.try_take(memory).unwrap();
        assert_eq!(check(spare).await, CopyCheck::Unknown, "no memory to look");
    });
}

#[test]
fn a_full_queue_is_waited_for_and_never_costs_a_copy() {
    for (disks, copies) in [(2, 2), (3, 3)] {
        simulated(async {
            let cluster = Cluster::start(Shape {
                disks,
                copies,
                groups_per_set: 8,
                ..Default::default()
            })
            .await;
            cluster.set_fault(2, Fault::Busy);
            let bytes = content(MIB, 71);
            let before = cluster.runtime.monotonic();
            let body = frames(&bytes, 100_000);
            let refused = cluster.path.write(target(), body, limits(None)).await;
            assert!(
                matches!(refused, Err(WriteError::Overloaded)),
                "{refused:?}"
            );
            let took = cluster.runtime.monotonic() - before;
            assert!(took <= Duration::from_secs(31), "took {took:?}");
            assert!(cluster.path.repair_hints().take(10).is_empty());

            // The queue has room again in the middle of a write.
            let (path, body) = (cluster.path.clone(), frames(&bytes, 100_000));
            let writing = cluster
                .runtime
                .spawn(async move { path.write(target(), body, limits(None)).await });
            cluster.runtime.sleep(Duration::from_secs(8)).await;
            let asked = cluster.asked(1);
            cluster.set_fault(2, Fault::None);
            let written = writing.await.unwrap().unwrap();
            assert_eq!(
                cluster.holders(chunks(&written.payload)[0]).len(),
                copies as usize
            );
            // Those that have it were not asked again.
            assert_eq!(cluster.asked(1), asked);
            assert_eq!(cluster.path.repair_hints().uncounted(), 0);
        });
    }
}

#[test]
fn a_disk_with_a_full_queue_is_asked_once_while_others_have_room() {
    simulated(async {
        let cluster = Cluster::start(Shape {
            groups_per_set: 8,
            ..Default::default()
        })
        .await;
        cluster.set_fault(2, Fault::Busy);
        for seed in 0..10 {
            let asked = cluster.asked(2);
            let written = put(&cluster, &content(MIB, seed)).await;
            assert_eq!(cluster.holders(chunks(&written.payload)[0]).len(), 3);
            assert!(cluster.asked(2) <= asked + 1);
        }
        // Without a whole group beside it, it is waited for.
        cluster.set_fault(4, Fault::Failed);
        let bytes = content(20_000, 1);
        let body = frames(&bytes, 20_000);
        let refused = cluster.path.write(target(), body, limits(None)).await;
        assert!(
            matches!(refused, Err(WriteError::Overloaded)),
            "{refused:?}"
        );
    });
}

#[test]
fn what_is_stored_with_fewer_copies_is_told_to_repair() {
    for fault in [Fault::Failed, Fault::Hangs] {
        simulated(async {
            let cluster = Cluster::start(Shape {
                disks: 3,
                ..Default::default()
            })
            .await;
            cluster.set_fault(1, fault);
            let hints = cluster.path.repair_hints();
            let written = put(&cluster, &content(5 * MIB, 6)).await;
            let stored = chunks(&written.payload);
            let mut told: Vec<_> = hints.take(100).iter().map(|h| (h.chunk, h.disk)).collect();
            let mut lacking: Vec<_> = stored.iter().map(|&chunk| (chunk, DiskId(1))).collect();
            told.sort_unstable();
            lacking.sort_unstable();
            assert_eq!(told, lacking, "{fault:?}");
            assert_eq!(
                hints.uncounted(),
                2,
                "a count from before is not true any more"
            );
        });
    }
}

#[test]
fn a_hung_disk_is_probed_less_and_less_and_by_one_write_at_a_time() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        cluster.set_fault(2, Fault::Hangs);
        let bytes = content(20_000, 72);
        // Sixteen clients that write one small object after the other for ten minutes.
        let until = cluster.runtime.monotonic() + Duration::from_secs(600);
        let clients = (0..16).map(|_| {
            let (path, runtime, bytes) =
                (cluster.path.clone(), cluster.runtime.clone(), bytes.clone());
            cluster.runtime.spawn(async move {
                let mut slow = 0;
                while runtime.monotonic() < until {
                    let before = runtime.monotonic();
                    let body = frames(&bytes, 20_000);
                    path.write(target(), body, limits(Some(20_000)))
                        .await
                        .unwrap();
                    slow += usize::from(runtime.monotonic() - before > Duration::from_secs(1));
                    runtime.sleep(Duration::from_millis(500)).await;
                }
                slow
            })
        });
        let mut slow = 0;
        for client in clients.collect::<Vec<_>>() {
            slow += client.await.unwrap();
        }
        // All of them may meet the hung disk once; after that, 600 s in steps up to a minute.
        assert!(slow <= 16 + 14, "{slow} writes were held up");
        assert!(
            cluster.asked(2) <= 16 + 14,
            "asked {} times",
            cluster.asked(2)
        );

        // Once it answers again it is used again.
        cluster.set_fault(2, Fault::None);
        cluster.runtime.sleep(Duration::from_secs(61)).await;
        let asked = cluster.asked(2);
        for seed in 0..20 {
            put(&cluster, &content(20_000, seed)).await;
        }
        assert!(cluster.asked(2) > asked + 5);
    });
}

#[test]
fn when_all_disks_stall_once_writes_go_on_soon_after() {
    simulated(async {
        let cluster = Cluster::start(Shape {
            disks: 3,
            ..Default::default()
        })
        .await;
        let bytes = content(100_000, 73);
        for _ in 0..4 {
            for disk in 1..=3 {
                cluster.set_fault(disk, Fault::Hangs);
            }
            let body = frames(&bytes, 50_000);
            let refused = cluster.path.write(target(), body, limits(None)).await;
            assert!(refused.is_err());
            for disk in 1..=3 {
                cluster.set_fault(disk, Fault::None);
            }
            let before = cluster.runtime.monotonic();
            put(&cluster, &bytes).await;
            let took = cluster.runtime.monotonic() - before;
            assert!(took < Duration::from_secs(5), "took {took:?}");
        }
    });
}

#[test]
fn short_memory_does_not_cut_objects_into_small_chunks() {
    simulated(async {
        let config = DataPathConfig {
            write_buffer_bytes: 6 * MIB as u64,
            ..Default::default()
        };
        let cluster = Cluster::start(Shape {
            config,
            ..Default::default()
        })
        .await;
        let bytes = content(40 * MIB, 74);
        let written = put(&cluster, &bytes).await;
        let lengths: Vec<_> = written.payload.extents.iter().map(|e| e.length).collect();
        assert_eq!(lengths, [4 * MIB as u32; 10]);
    });
}

#[test]
fn a_hung_disk_does_not_hold_copies_up() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let bytes = content(9 * MIB, 75);
        let written = put(&cluster, &bytes).await;
        let original = source(&cluster, &written.payload);
        cluster.set_fault(2, Fault::Hangs);
        let whole = ByteRange::whole(written.size);
        for round in 0..3 {
            let before = cluster.runtime.monotonic();
            let copied = cluster
                .path
                .copy(original.clone(), whole, target(), CopyDigests::Keep)
                .await
                .unwrap();
            let took = cluster.runtime.monotonic() - before;
            // The first one learns it the hard way; the others know, or probe at most once.
            let limit = if round == 0 { 9 } else { 7 };
            assert!(took < Duration::from_secs(limit), "{round}: {took:?}");
            for chunk in chunks(&copied.payload) {
                let holders = cluster.holders(chunk);
                assert!(holders.len() == 3 && !holders.contains(&DiskId(2)));
            }
            let copy = source(&cluster, &copied.payload);
            assert!(get(&cluster, &copy, whole).await.unwrap() == bytes);
        }
    });
}

#[test]
fn a_chunk_is_gone_only_when_nobody_can_have_it() {
    for (first_has_it, second, gone) in [
        (false, Fault::None, true),
        (false, Fault::Failed, false),
        (false, Fault::Hangs, false),
        (true, Fault::Failed, false),
    ] {
        simulated(async {
            let cluster = Cluster::start(Shape::default()).await;
            let written = put(&cluster, &content(MIB, 76)).await;
            let chunk = chunks(&written.payload)[0];
            let holders: Vec<_> = cluster.holders(chunk).into_iter().collect();
            let spare = (1..=4).map(DiskId).find(|disk| !holders.contains(disk));
            let node = cluster.path.view().node_of(holders[0]).unwrap();
            let listed = node.list(holders[0], chunk.pg(), None, 10).await.unwrap();
            let entry = listed.entries[0];
            for (n, has_it) in [first_has_it, second != Fault::None]
                .into_iter()
                .enumerate()
            {
                if !has_it {
                    let mut disks = cluster.nodes.disks.lock();
                    disks.get_mut(&holders[n]).unwrap().chunks.remove(&chunk);
                }
            }
            cluster.set_fault(holders[1].0, second);
            let restored = cluster
                .path
                .restore_chunk(&entry, &holders[..2], spare.unwrap(), 1)
                .await;
            match restored {
                Ok(()) => assert!(first_has_it),
                Err(RestoreError::Gone) => assert!(gone, "{second:?}"),
                Err(other) => assert!(!gone && !first_has_it, "{other}"),
            }
        });
    }
}
