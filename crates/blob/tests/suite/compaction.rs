//! Giving room back while reads go on; tombstones outlive what they bury.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary_blob::BlobConfig;
use granary_blob_api::testsuite::pattern;
use granary_blob_api::{BlobError, BlobNode};
use granary_kv::MemoryKv;
use granary_vfs::{CrashStyle, Vfs};

use crate::support::{Machine, PG, config, content, dir, get, id, simulate};

async fn compact_all(machine: &Machine) -> u64 {
    let mut freed = 0;
    while let Some(done) = machine.store.compact_once(machine.disk()).await.unwrap() {
        freed += done.freed_bytes;
    }
    freed
}

fn used_bytes(machine: &Machine) -> u64 {
    let space = machine.vfs.space(&dir(0)).unwrap();
    space.total_bytes - space.free_bytes
}

#[test]
fn dead_bytes_are_given_back_and_live_ones_stay() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        for n in 0..60 {
            machine
                .put(0, id(n), &content(id(n), 0, 40_000))
                .await
                .unwrap();
        }
        let before = used_bytes(&machine);
        let dead: Vec<_> = (0..60).filter(|n| n % 3 != 0).map(id).collect();
        machine
            .store
            .delete(machine.disk(), PG, u64::MAX, dead.clone())
            .await
            .unwrap();
        let reclaimable = machine.status(machine.disk()).await.reclaimable_bytes;
        assert!(reclaimable >= 40 * 40_000, "{reclaimable}");
        let freed = compact_all(&machine).await;
        assert!(freed >= 40 * 40_000, "{freed}");
        let after = used_bytes(&machine);
        assert!(after * 2 < before, "{before} bytes before, {after} after");
        let check = async |machine: &Machine| {
            for n in 0..60 {
                let read = machine.get(0, id(n), 40_000).await;
                if n % 3 == 0 {
                    assert_eq!(read.unwrap(), content(id(n), 0, 40_000));
                } else {
                    assert_eq!(read, Err(BlobError::ChunkDeleted(id(n))));
                }
            }
        };
        check(&machine).await;
        let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
        let index = machine.indexes[0].crash(0);
        let machine = machine.revive(&runtime, crashed, vec![index]).await;
        check(&machine).await;
        let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
        let machine = machine
            .revive(&runtime, crashed, vec![MemoryKv::new()])
            .await;
        check(&machine).await;
        // Groups stay open: their epochs were taken along.
        let stale = machine.store.open_pg(machine.disk(), PG, 0).await;
        assert!(
            matches!(stale, Err(BlobError::StaleEpoch { current: 1, .. })),
            "{stale:?}"
        );
        let expected = machine.status(machine.disk()).await;
        assert_eq!(expected.chunks, 20);
    });
}

/// Forgotten tombstones go only when no older record of their chunk is left anywhere.
#[test]
fn the_dead_do_not_come_back_with_a_lost_index() {
    simulate(1, |runtime| async move {
        let mut machine = Machine::new(&runtime, config(), 1).await;
        // The victim lies in a volume that stays mostly alive, and so is never compacted.
        machine.put(0, id(0), &pattern(1, 10_000)).await.unwrap();
        for n in 1..6 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        // Its tombstone lies in one that is.
        for n in 100..105 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        let disk = machine.disk();
        machine
            .store
            .delete(disk, PG, u64::MAX, vec![id(0)])
            .await
            .unwrap();
        for n in 105..110 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        let mut gone: Vec<_> = (100..110).map(id).collect();
        machine
            .store
            .delete(disk, PG, u64::MAX, gone.clone())
            .await
            .unwrap();
        gone.push(id(0));
        machine
            .store
            .forget(disk, PG, u64::MAX, gone)
            .await
            .unwrap();
        assert_eq!(
            machine.get(0, id(0), 10).await,
            Err(BlobError::ChunkNotFound(id(0)))
        );
        for round in 0..4u128 {
            assert!(compact_all(&machine).await > 0 || round > 0);
            let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
            machine = machine
                .revive(&runtime, crashed, vec![MemoryKv::new()])
                .await;
            let read = machine.get(0, id(0), 10).await;
            let dead = [
                Err(BlobError::ChunkNotFound(id(0))),
                Err(BlobError::ChunkDeleted(id(0))),
            ];
            assert!(dead.contains(&read), "round {round}: {read:?}");
            for n in 1..6 {
                machine.get(0, id(n), 40_000).await.unwrap();
            }
            // Something more to compact in the next round.
            for n in 0..8 {
                let chunk = id(1000 + round * 100 + n);
                machine.put(0, chunk, &pattern(1, 40_000)).await.unwrap();
                machine
                    .store
                    .delete(disk, PG, u64::MAX, vec![chunk])
                    .await
                    .unwrap();
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_writes_go_on_during_compaction() {
    let runtime = granary_runtime::Runtime::system();
    let machine = Machine::new(&runtime, config(), 1).await;
    for n in 0..100 {
        machine
            .put(0, id(n), &content(id(n), 0, 20_000))
            .await
            .unwrap();
    }
    let dead: Vec<_> = (0..100).filter(|n| n % 2 == 0).map(id).collect();
    machine
        .store
        .delete(machine.disk(), PG, u64::MAX, dead)
        .await
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4u128)
        .map(|reader| {
            let (store, disk, done) = (machine.store.clone(), machine.disk(), Arc::clone(&done));
            runtime.spawn(async move {
                let mut reads = 0u128;
                while !done.load(Ordering::SeqCst) || reads < 50 {
                    let n = (reads * 7 + reader) % 50 * 2 + 1;
                    let read = get(&store, disk, id(n), 20_000).await;
                    assert_eq!(read.unwrap(), content(id(n), 0, 20_000));
                    reads += 1;
                }
            })
        })
        .collect();
    let mut compacted = 0;
    let mut next = 1000;
    while machine
        .store
        .compact_once(machine.disk())
        .await
        .unwrap()
        .is_some()
    {
        compacted += 1;
        machine
            .put(0, id(next), &content(id(next), 0, 20_000))
            .await
            .unwrap();
        next += 1;
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(compacted >= 3, "{compacted}");
    let metrics = machine.store.metrics()[0].1;
    assert_eq!(metrics.compacted_volumes, compacted);
    assert_eq!(metrics.corrupt, 0);
}

/// What could not be emptied is tried again once something in it changed.
#[test]
fn a_volume_that_is_stuck_is_given_back_when_its_damaged_chunk_is_deleted() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        for n in 0..10 {
            machine.put(0, id(n), &pattern(1, 60_000)).await.unwrap();
        }
        let disk = machine.disk();
        let first = machine.volumes(0).remove(0);
        // The header of the first chunk's record: compaction cannot take it along.
        machine.vfs.flip_bit(&first, 4096 + 4096 + 20, 1).unwrap();
        let dead: Vec<_> = (1..4).map(id).collect();
        machine
            .store
            .delete(disk, PG, u64::MAX, dead)
            .await
            .unwrap();
        compact_all(&machine).await;
        assert!(machine.volumes(0).contains(&first));
        assert_eq!(machine.store.compact_once(disk).await.unwrap(), None);
        machine
            .store
            .delete(disk, PG, u64::MAX, vec![id(0)])
            .await
            .unwrap();
        compact_all(&machine).await;
        assert!(!machine.volumes(0).contains(&first));
    });
}

/// Where a volume holds a record of tombstones: the kind stands behind the magic and the format.
fn find_tombstones(machine: &Machine, volume: &std::path::Path) -> Option<u64> {
    let file = machine.vfs.open(volume).unwrap();
    let mut pages = (4096..file.len().unwrap()).step_by(4096);
    pages.find(|&at| file.read_at(at, 6).unwrap() == b"GRrc\x01\x02")
}

fn tombstones_in(machine: &Machine, volume: &std::path::Path) -> u64 {
    find_tombstones(machine, volume).expect("a record of tombstones")
}

fn holds_tombstones(machine: &Machine, volume: &std::path::Path) -> bool {
    find_tombstones(machine, volume).is_some()
}

/// A tombstone that cannot be read now may be the only thing that keeps a chunk dead.
#[test]
fn a_volume_whose_tombstones_cannot_be_read_stays() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let disk = machine.disk();
        // The victim lies in a volume that stays mostly alive.
        for n in 0..6 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        // Its tombstone lies in one that is soon worth a compaction.
        machine.put(0, id(100), &pattern(1, 40_000)).await.unwrap();
        let gone = vec![id(0)];
        machine
            .store
            .delete(disk, PG, 1, gone.clone())
            .await
            .unwrap();
        machine.store.forget(disk, PG, 1, gone).await.unwrap();
        for n in 101..112 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        let volume = machine.volumes(0).remove(1);
        let body = tombstones_in(&machine, &volume) + 128 + 5;
        machine.vfs.flip_bit(&volume, body, 2).unwrap();
        let gone: Vec<_> = (100..112).map(id).collect();
        machine.store.delete(disk, PG, 1, gone).await.unwrap();
        compact_all(&machine).await;
        assert!(
            machine.volumes(0).contains(&volume),
            "the tombstone is lost"
        );
        // It was the memory, or the cable: the index is made anew and the chunk stays dead.
        machine.vfs.flip_bit(&volume, body, 2).unwrap();
        let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
        let fresh = vec![MemoryKv::new()];
        let machine = machine.revive(&runtime, crashed, fresh).await;
        let read = machine.get(0, id(0), 10).await;
        assert!(
            matches!(
                read,
                Err(BlobError::ChunkNotFound(_) | BlobError::ChunkDeleted(_))
            ),
            "{read:?}"
        );
        // Once it can be read the volume goes.
        compact_all(&machine).await;
        assert!(!machine.volumes(0).contains(&volume));
    });
}

/// What a volume waits for may happen in another one.
#[test]
fn a_volume_that_stays_for_older_dead_chunks_goes_with_the_last_of_them() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let disk = machine.disk();
        for n in 0..12 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        let gone = vec![id(0)];
        machine.store.delete(disk, PG, 1, gone).await.unwrap();
        for n in 12..24 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        // The tombstone cannot be read. The chunk that it buries lies in an older volume, whose
        // other chunks live.
        let volumes = machine.volumes(0);
        let with_notes = |volume: &&std::path::PathBuf| holds_tombstones(&machine, volume);
        let kept = volumes.iter().find(with_notes).unwrap().clone();
        assert_ne!(kept, volumes[0]);
        let body = tombstones_in(&machine, &kept) + 128 + 5;
        machine.vfs.flip_bit(&kept, body, 2).unwrap();
        let rest: Vec<_> = (6..24).map(id).collect();
        let all = vec![id(0)];
        machine.store.forget(disk, PG, 1, all).await.unwrap();
        machine.store.delete(disk, PG, 1, rest).await.unwrap();
        compact_all(&machine).await;
        assert!(machine.volumes(0).contains(&kept), "the tombstone is lost");
        assert_eq!(machine.status(disk).await.reclaimable_bytes, 0, "it stays");
        let rest: Vec<_> = (1..6).map(id).collect();
        machine.store.delete(disk, PG, 1, rest).await.unwrap();
        compact_all(&machine).await;
        assert!(!machine.volumes(0).contains(&kept), "it stays for ever");
    });
}

/// A disk that compacts by itself now and then.
fn config_of_a_server() -> BlobConfig {
    BlobConfig {
        compact_interval: Duration::from_secs(10),
        volume_bytes: 1 << 20,
        ..config()
    }
}

/// Waits until nothing is reclaimable any more; seconds that took.
async fn wait_reclaimed(machine: &Machine) -> u32 {
    for waited in 0..600 {
        if machine.status(machine.disk()).await.reclaimable_bytes == 0 {
            return waited;
        }
        machine.runtime.sleep(Duration::from_secs(1)).await;
    }
    panic!("{:?}", machine.status(machine.disk()).await);
}

/// What an operator waits for who deleted everything: the number is zero, and the room is there.
#[test]
fn an_idle_disk_gives_back_all_that_was_deleted() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config_of_a_server(), 1).await;
        let disk = machine.disk();
        let empty = used_bytes(&machine);
        for count in [1u128, 3, 200] {
            for pg in 2..40 {
                let pg = granary_types::PgId(pg);
                machine.store.open_pg(disk, pg, 1).await.unwrap();
            }
            let ids: Vec<_> = (0..count).map(|n| id(count * 1000 + n)).collect();
            for id in &ids {
                machine.put(0, *id, &pattern(1, 90_000)).await.unwrap();
            }
            for id in &ids {
                let dead = vec![*id];
                machine.store.delete(disk, PG, 1, dead).await.unwrap();
            }
            let reclaimable = machine.status(disk).await.reclaimable_bytes;
            assert!(reclaimable >= 90_000, "{count} chunks: {reclaimable}");
            let waited = wait_reclaimed(&machine).await;
            assert!(waited <= 30, "{count} chunks: {waited} s");
            machine.store.forget(disk, PG, 1, ids).await.unwrap();
            wait_reclaimed(&machine).await;
            let used = used_bytes(&machine) - empty;
            assert!(used <= 128 << 10, "{count} chunks left {used} bytes");
        }
        // It comes to rest.
        let before = machine.store.metrics()[0].1;
        machine.runtime.sleep(Duration::from_secs(3600)).await;
        assert_eq!(machine.store.metrics()[0].1, before);
    });
}

/// A fifth of everything is too little to write the rest again while clients write.
#[test]
fn a_part_comes_back_when_nobody_writes() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config_of_a_server(), 1).await;
        let disk = machine.disk();
        for n in 0..200 {
            let bytes = content(id(n), 0, 40_000);
            machine.put(0, id(n), &bytes).await.unwrap();
        }
        let dead: Vec<_> = (0..200).filter(|n| n % 5 == 0).map(id).collect();
        machine.store.delete(disk, PG, 1, dead).await.unwrap();
        // Somebody writes all the time.
        for n in 0..20 {
            machine.put(0, id(1000 + n), &pattern(1, 10)).await.unwrap();
            machine.runtime.sleep(Duration::from_secs(5)).await;
        }
        let metrics = machine.store.metrics()[0].1;
        assert_eq!(metrics.compaction_moved_bytes, 0);
        let before = used_bytes(&machine);
        assert!(machine.status(disk).await.reclaimable_bytes > 40 * 40_000);
        // Reading is not writing.
        let reads = async {
            loop {
                machine.get(0, id(1), 40_000).await.unwrap();
                machine.runtime.sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            _ = wait_reclaimed(&machine) => {}
            () = reads => {}
        }
        let freed = before - used_bytes(&machine);
        assert!(freed >= 40 * 40_000 - (128 << 10), "{freed}");
        for n in (0..200).filter(|n| n % 5 != 0) {
            let read = machine.get(0, id(n), 40_000).await;
            assert_eq!(read.unwrap(), content(id(n), 0, 40_000));
        }
    });
}

/// Too little to write the rest again for is not promised, and not done.
#[test]
fn a_small_dead_share_stays_and_is_not_counted() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config_of_a_server(), 1).await;
        let disk = machine.disk();
        for n in 0..200 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        let dead: Vec<_> = (0..200).step_by(25).map(id).collect();
        machine.store.delete(disk, PG, 1, dead).await.unwrap();
        assert_eq!(machine.status(disk).await.reclaimable_bytes, 0);
        let volumes = machine.volumes(0);
        machine.runtime.sleep(Duration::from_secs(3600)).await;
        assert_eq!(machine.volumes(0), volumes);
        assert_eq!(machine.store.metrics()[0].1.compaction_moved_bytes, 0);
    });
}

/// Somebody deletes a little now and then, and the disk is idle between.
#[test]
fn a_trickle_of_deletions_does_not_make_the_disk_write_for_ever() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config_of_a_server(), 1).await;
        let disk = machine.disk();
        for n in 0..300 {
            machine.put(0, id(n), &pattern(1, 40_000)).await.unwrap();
        }
        let stored = machine.store.metrics()[0].1.append_bytes;
        for n in 0..300 {
            // All over the disk.
            let dead = vec![id(n * 7 % 300)];
            machine
                .store
                .delete(disk, PG, 1, dead.clone())
                .await
                .unwrap();
            machine.store.forget(disk, PG, 1, dead).await.unwrap();
            machine.runtime.sleep(Duration::from_secs(60)).await;
            assert_eq!(machine.status(disk).await.reclaimable_bytes, 0, "after {n}");
        }
        let written = machine.store.metrics()[0].1.append_bytes - stored;
        assert!(written <= 10 * stored, "{written} for {stored} deleted");
        assert!(used_bytes(&machine) < 256 << 10, "{}", used_bytes(&machine));
    });
}

/// A file that says nothing and is not empty may be all that is left of something: it is no
/// volume's dead bytes.
#[test]
fn a_volume_without_a_header_is_left_alone() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        for n in 0..10 {
            machine.put(0, id(n), &pattern(1, 60_000)).await.unwrap();
        }
        let volumes = machine.volumes(0);
        for copy in [0, 2048] {
            machine.vfs.flip_bit(&volumes[0], copy, 1).unwrap();
        }
        let mut machine = machine;
        for index in [None, Some(MemoryKv::new()), None] {
            let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
            let index = index.unwrap_or_else(|| machine.indexes[0].crash(usize::MAX));
            machine = machine.revive(&runtime, crashed, vec![index]).await;
            compact_all(&machine).await;
            assert!(machine.volumes(0).contains(&volumes[0]));
        }
        // The operator may yet mend it.
        for copy in [0, 2048] {
            machine.vfs.flip_bit(&volumes[0], copy, 1).unwrap();
        }
        let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
        let machine = machine
            .revive(&runtime, crashed, vec![MemoryKv::new()])
            .await;
        machine.get(0, id(0), 60_000).await.unwrap();
    });
}
