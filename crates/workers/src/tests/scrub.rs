//! What an operator notices of a scrub: rot that nobody has read is found and put right, everything
//! has its turn within the period, and no disk works harder for it than allowed.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use granary_blob_api::{BlobNode, Block, ChunkEntry, ChunkOwner, PutChunk};
use granary_datapath::CopyCheck;
use granary_types::{BucketId, ChunkId, DiskId, ObjectId};
use parking_lot::Mutex;

use super::disk_in;
use super::world::{MIB, World, content, dir, simulated};
use crate::{Scrub, ScrubConfig, ScrubReport, ScrubWorker, Tick, Worker, WorkerError};

/// A day of a world whose periods are shorter.
const DAY: Duration = Duration::from_secs(60);

fn worker(world: &World, config: ScrubConfig) -> ScrubWorker {
    ScrubWorker::new(
        world.runtime.clone(),
        world.meta.clone(),
        world.path.clone(),
        world.metrics.clone(),
        config,
    )
}

async fn scrub(world: &World, bytes_per_second: u64) -> ScrubReport {
    let config = ScrubConfig {
        bytes_per_second,
        ..ScrubConfig::default()
    };
    let scrub = Scrub::new(
        world.runtime.clone(),
        world.meta.clone(),
        world.path.clone(),
        world.metrics.clone(),
        &config,
    );
    let told = Mutex::new(Vec::new());
    let report = scrub.run(|progress| told.lock().push(progress)).await;
    let told = told.into_inner();
    assert!(told.is_sorted_by_key(|progress| (progress.groups.0, progress.copies)));
    let last = told.last().unwrap();
    assert_eq!(last.groups.0, last.groups.1, "it ended before its end");
    report.unwrap()
}

async fn all_good(world: &World) -> bool {
    for (disk, entry) in world.listed().await {
        if world.path.verify_copy(&entry, disk).await != CopyCheck::Good {
            return false;
        }
    }
    true
}

/// Rots one bit of each of some megabytes of a disk.
fn rot(world: &World, disk: usize, megabytes: std::ops::Range<u64>) {
    let volume = world.largest_file(&dir(disk));
    for megabyte in megabytes {
        let at = megabyte * MIB as u64 + 300_000;
        world.vfs.flip_bit(&volume, at, 2).unwrap();
    }
}

/// Ticks a worker until it has nothing to do now.
async fn until_idle(worker: &mut ScrubWorker) -> Result<(), WorkerError> {
    for _ in 0..1000 {
        if worker.tick(1).await? == Tick::Done {
            return Ok(());
        }
    }
    panic!("the worker never ends");
}

#[test]
fn rot_that_nobody_reads_is_found_and_put_right() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(45 * MIB, 91);
        world.put("a", &bytes).await;
        // Of every chunk at least one copy stays good.
        rot(&world, 1, 0..20);
        rot(&world, 2, 24..40);
        let report = scrub(&world, 1 << 30).await;
        assert!(report.complete && report.clean, "{report:?}");
        assert_eq!(report.copies_checked, 3 * 12);
        assert!(report.copies_damaged >= 6, "{report:?}");
        assert_eq!(report.copies_damaged, report.copies_repaired);
        assert_eq!(report.damage.len() as u64, report.copies_damaged);
        assert!(all_good(&world).await);
        let again = scrub(&world, 1 << 30).await;
        assert!(again.clean && again.copies_damaged == 0, "{again:?}");
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn what_cannot_be_put_right_or_read_is_said() {
    simulated(async {
        let world = World::start(1).await;
        world.put("a", &content(9 * MIB, 92)).await;
        rot(&world, 1, 1..2);
        let report = scrub(&world, 1 << 30).await;
        assert!(report.complete && !report.clean, "{report:?}");
        assert_eq!((report.copies_damaged, report.copies_repaired), (1, 0));
        assert_eq!(report.damage[0].kind, "copy_damaged");

        let world = World::start(3).await;
        world.put("a", &content(9 * MIB, 93)).await;
        let hung = disk_in(&world, 2).await;
        world.nodes.hang(hung, true);
        let report = scrub(&world, 1 << 30).await;
        assert!(!report.complete && !report.clean, "{report:?}");
        assert_eq!(
            report.copies_checked,
            2 * 3,
            "the others are read all the same"
        );
        assert!(report.members_unread > 0 && !report.problems.is_empty());
    });
}

#[test]
fn a_disk_reads_no_faster_than_it_may() {
    simulated(async {
        let world = World::start(3).await;
        world.put("a", &content(41 * MIB, 94)).await;
        let began = world.runtime.monotonic();
        let report = scrub(&world, 4 << 20).await;
        let took = world.runtime.monotonic() - began;
        assert_eq!(report.bytes_checked, 3 * 41 * MIB as u64);
        // Each of them has 41 MiB, of which the last page is not waited for.
        let seconds = (8..=14).contains(&took.as_secs());
        assert!(seconds, "{took:?} for 41 MiB of each disk");
    });
}

#[test]
fn everything_has_its_turn_within_the_period_and_once() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(45 * MIB, 95);
        world.put("a", &bytes).await;
        let copies = world.listed().await.len() as u64;
        let config = ScrubConfig::default();
        let mut first = worker(&world, config.clone()).within(8 * DAY);
        let status = first.status();
        let mut cursor = Bytes::new();
        first.resume(&cursor);
        let mut done = Vec::new();
        for day in 0..8 {
            if day == 4 {
                // Another process goes on where this one was.
                rot(&world, 1, 0..45);
                let mut next = worker(&world, config.clone()).within(8 * DAY);
                next.resume(&cursor);
                first = next;
            }
            until_idle(&mut first).await.unwrap();
            cursor = first.cursor();
            done.push(world.metrics.scrubbed_copies());
            world.runtime.sleep(DAY).await;
        }
        let (groups, all) = status().groups;
        assert!(
            groups > all / 4 && groups < all,
            "{groups} of {all} in half the time"
        );
        until_idle(&mut first).await.unwrap();
        let found = first.status()();
        assert_eq!(
            world.metrics.scrubbed_copies() - done[7],
            first_of_next(&world, &found).await
        );
        assert_eq!(done[7], copies, "each copy once: {done:?}");
        assert!(
            done[0] < copies && done[3] < copies,
            "all at once: {done:?}"
        );
        // What rotted behind it is found in the next period.
        for _ in 0..9 {
            until_idle(&mut first).await.unwrap();
            world.runtime.sleep(DAY).await;
        }
        assert!(all_good(&world).await);
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

/// Copies in the groups that the pass which has just begun has read.
async fn first_of_next(world: &World, status: &crate::ScrubStatus) -> u64 {
    let map = world.view.map();
    let mut ids: Vec<_> = map.groups().map(|group| group.id).collect();
    ids.sort_unstable();
    let read: BTreeSet<_> = ids.into_iter().take(status.groups.0 as usize).collect();
    let listed = world.listed().await;
    let read = listed
        .iter()
        .filter(|(_, entry)| read.contains(&entry.pg()));
    read.count() as u64
}

#[test]
fn a_batch_that_another_process_began_is_not_read_again() {
    simulated(async {
        let world = World::start(1).await;
        world.put("a", &content(90 * MIB, 96)).await;
        let copies = world.listed().await.len() as u64;
        // One chunk takes four seconds: a tick reads a few of them.
        let config = ScrubConfig {
            bytes_per_second: 1 << 20,
            ..ScrubConfig::default()
        };
        let mut cursor = Bytes::new();
        let mut ticks = 0;
        while world.metrics.scrubbed_copies() < copies {
            let mut next = worker(&world, config.clone()).within(8 * DAY);
            next.resume(&cursor);
            if next.tick(1).await.unwrap() == Tick::Done {
                world.runtime.sleep(Duration::from_secs(10)).await;
            }
            let _ = next.tick(1).await.unwrap();
            cursor = next.cursor();
            ticks += 1;
            assert!(ticks < 1000, "never through");
        }
        assert_eq!(world.metrics.scrubbed_copies(), copies);
        assert!(
            ticks > 3,
            "one tick read everything: the test tests nothing"
        );
    });
}

/// Replaces a copy by other bytes, as sound as any.
async fn replace_copy(world: &World, disk: DiskId, entry: &ChunkEntry, owner: ChunkOwner) {
    let (store, pg) = (&world.store, entry.pg());
    let epoch = world.view.map().group(pg).unwrap().epoch;
    store.evict(disk, pg, epoch, vec![entry.id]).await.unwrap();
    let put = PutChunk {
        id: entry.id,
        owner,
        pg_epoch: epoch,
        blocks: Block::cut(content(entry.length as usize, 1234)),
        background: false,
    };
    store.put(disk, put).await.unwrap();
}

#[test]
fn of_copies_that_differ_the_one_that_the_metadata_names_is_right() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(13 * MIB, 97);
        world.put("a", &bytes).await;
        let listed = world.listed().await;
        let mut ids: Vec<ChunkId> = listed.iter().map(|(_, entry)| entry.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let copies = |chunk: ChunkId| listed.iter().filter(move |(_, entry)| entry.id == chunk);
        // Wrong bytes in one place, and in two: most copies are wrong.
        for (chunk, wrong) in [(ids[0], 1), (ids[1], 2)] {
            for (disk, entry) in copies(chunk).take(wrong) {
                replace_copy(&world, *disk, entry, entry.owner).await;
            }
        }
        // All copies are wrong, in two ways: nothing proves anything.
        for (n, (disk, entry)) in copies(ids[2]).enumerate() {
            let owner = ChunkOwner {
                bucket: BucketId(entry.owner.bucket.0 + n as u64),
                object: ObjectId::default(),
            };
            replace_copy(&world, *disk, entry, owner).await;
        }
        let report = scrub(&world, 1 << 30).await;
        assert!(report.complete && !report.clean, "{report:?}");
        assert_eq!((report.chunks_differing, report.chunks_settled), (3, 2));
        assert_eq!(report.copies_damaged, 0, "each of them is sound");
        let now = world.listed().await;
        for &chunk in &ids[..2] {
            let right = copies(chunk).next_back().unwrap().1;
            let held = now.iter().filter(|(_, entry)| *entry == right);
            assert_eq!(held.count(), 3, "{chunk}");
        }
        let untouched = now.iter().filter(|(_, entry)| entry.id == ids[2]);
        assert_eq!(untouched.count(), 3, "nothing is taken away without proof");
    });
}
