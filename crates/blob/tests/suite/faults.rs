//! Disks that fail, fill up and rot.

use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;
use granary_blob_api::testsuite::pattern;
use granary_blob_api::{BlobError, BlobNode, DiskHealth};
use granary_kv::MemoryKv;
use granary_vfs::{CrashStyle, Fault, MemoryVfs, Vfs};

use crate::support::{Machine, PG, config, content, dir, disk_config, id, put, simulate};

/// What makes a disk fail for good on a write; the others of the node do not notice.
#[test]
fn a_failing_disk_takes_only_itself_out() {
    for (seed, fault) in [Fault::SyncError, Fault::WriteError, Fault::ReadOnly]
        .into_iter()
        .enumerate()
    {
        simulate(seed as u64, |runtime| async move {
            let machine = Machine::new(&runtime, config(), 3).await;
            let bytes = pattern(1, 5000);
            for n in 0..3 {
                machine.put(n, id(1), &bytes).await.unwrap();
            }
            machine.vfs.inject(dir(1), fault);
            let lost = BlobError::DiskFailed(machine.disks[1]);
            assert_eq!(
                machine.put(1, id(2), &bytes).await,
                Err(lost.clone()),
                "{fault:?}"
            );
            assert_eq!(machine.health(1).await, DiskHealth::Failed);
            // A disk that seems well again is not trusted.
            machine.vfs.heal();
            let deleted = machine
                .store
                .delete(machine.disks[1], PG, u64::MAX, vec![id(1)])
                .await;
            assert_eq!(deleted, Err(lost.clone()));
            assert_eq!(machine.put(1, id(3), &bytes).await, Err(lost.clone()));
            assert_eq!(machine.get(1, id(1), 5000).await, Err(lost));
            for n in [0, 2] {
                machine.put(n, id(2), &bytes).await.unwrap();
                assert_eq!(machine.get(n, id(1), 5000).await.unwrap(), bytes);
                assert_eq!(machine.health(n).await, DiskHealth::Healthy);
            }
            // Replaced or repaired by a human, and opened again: what was acknowledged is there.
            assert!(machine.store.remove_disk(machine.disks[1]).await);
            let crashed = machine.vfs.crash(seed as u64, CrashStyle::Torn);
            let indexes = machine.indexes.iter().map(|index| index.crash(0)).collect();
            let machine = machine.revive(&runtime, crashed, indexes).await;
            assert_eq!(machine.get(1, id(1), 5000).await.unwrap(), bytes);
            assert_eq!(machine.health(1).await, DiskHealth::Healthy);
        });
    }
}

#[test]
fn a_failing_index_takes_the_disk_out() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 2).await;
        machine.indexes[0].fail("no more");
        let outcome = machine.put(0, id(1), &pattern(1, 10)).await;
        assert_eq!(outcome, Err(BlobError::DiskFailed(machine.disks[0])));
        machine.put(1, id(1), &pattern(1, 10)).await.unwrap();
    });
}

#[test]
fn unreadable_and_rotten_bytes_are_never_returned_and_counted() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let bytes = pattern(1, 150_000);
        machine.put(0, id(1), &bytes).await.unwrap();
        machine.put(0, id(2), &bytes).await.unwrap();
        let damaged = BlobError::Corrupt(id(1));
        let volume = machine.volumes(0).remove(0);
        machine.vfs.inject(&volume, Fault::ReadError);
        assert_eq!(machine.get(0, id(1), 1000).await, Err(damaged.clone()));
        machine.vfs.heal();
        assert_eq!(machine.get(0, id(1), 150_000).await.unwrap(), bytes);
        // In the second block of the first chunk, which follows the group's epoch record.
        let block = 4096 + 4096 + 128 + 65_540 + 4;
        machine.vfs.flip_bit(&volume, block + 9, 3).unwrap();
        assert_eq!(machine.get(0, id(1), 150_000).await, Err(damaged));
        // Other blocks and other chunks are as good as before.
        assert_eq!(
            machine.get(0, id(1), 65_536).await.unwrap(),
            bytes.slice(..65_536)
        );
        assert_eq!(machine.get(0, id(2), 150_000).await.unwrap(), bytes);
        assert_eq!(machine.health(0).await, DiskHealth::Healthy);
        assert_eq!(machine.store.metrics()[0].1.corrupt, 2);
    });
}

/// A full disk refuses puts, serves reads and deletions, and comes back by itself.
#[test]
fn a_full_disk_recovers_by_itself() {
    simulate(1, |runtime| async move {
        let mut config = config();
        config.min_free_bytes = 512 << 10;
        config.compact_interval = Duration::from_secs(10);
        let machine = Machine::new(&runtime, config, 1).await;
        machine.vfs.set_capacity(dir(0), 4 << 20);
        let disk = machine.disk();
        let bytes = pattern(1, 100_000);
        let mut stored = Vec::new();
        let refusal = loop {
            let next = id(stored.len() as u128);
            match machine.put(0, next, &bytes).await {
                Ok(()) => stored.push(next),
                Err(error) => break error,
            }
        };
        assert_eq!(refusal, BlobError::DiskFull(disk));
        assert_eq!(machine.health(0).await, DiskHealth::Full);
        assert!(stored.len() > 20, "only {} chunks fit", stored.len());
        for chunk in &stored {
            assert_eq!(machine.get(0, *chunk, 100_000).await.unwrap(), bytes);
        }
        for chunk in stored.iter().step_by(2) {
            machine
                .store
                .delete(disk, PG, u64::MAX, vec![*chunk])
                .await
                .unwrap();
        }
        // Compaction runs on its own; nobody asks for anything.
        runtime.sleep(Duration::from_secs(60)).await;
        assert_eq!(machine.health(0).await, DiskHealth::Healthy);
        machine.put(0, id(1 << 20), &bytes).await.unwrap();
        for chunk in stored.iter().skip(1).step_by(2) {
            assert_eq!(machine.get(0, *chunk, 100_000).await.unwrap(), bytes);
        }
    });
}

/// No watermark, so the file system itself says no, in the middle of a write.
#[test]
fn running_out_of_space_harms_nothing_acknowledged() {
    for seed in 0..20 {
        simulate(seed, |runtime| async move {
            let mut machine = Machine::new(&runtime, config(), 1).await;
            machine
                .vfs
                .set_capacity(dir(0), (700_000 + seed * 3001) & !511);
            let mut stored = Vec::new();
            let mut refused = 0;
            for n in 0..40 {
                let bytes = content(id(n), 0, 30_000);
                match machine.put(0, id(n), &bytes).await {
                    Ok(()) => stored.push((id(n), bytes)),
                    Err(error) => {
                        assert_eq!(error, BlobError::DiskFull(machine.disk()));
                        refused += 1;
                    }
                }
            }
            assert!(refused > 0 && stored.len() > 10, "seed {seed}");
            let crashed = machine.vfs.crash(seed, CrashStyle::Torn);
            machine = machine
                .revive(&runtime, crashed, vec![MemoryKv::new()])
                .await;
            for (chunk, bytes) in &stored {
                assert_eq!(
                    machine.get(0, *chunk, 30_000).await.as_ref(),
                    Ok(bytes),
                    "seed {seed}"
                );
            }
            let status = machine.status(machine.disk()).await;
            assert_eq!(
                status.chunks,
                stored.len() as u64,
                "refused chunks are not there"
            );
        });
    }
}

#[test]
fn a_full_queue_answers_busy() {
    simulate(1, |runtime| async move {
        let mut config = config();
        config.queue_bytes = 5 << 20;
        config.busy_after = Duration::ZERO;
        let machine = Machine::new(&runtime, config, 1).await;
        let big: Bytes = pattern(1, 4 << 20);
        let (a, b) = tokio::join!(machine.put(0, id(1), &big), machine.put(0, id(2), &big));
        assert_eq!((a, b), (Ok(()), Err(BlobError::Busy(machine.disk()))));
        machine.put(0, id(2), &big).await.unwrap();
        let metrics = machine.store.metrics()[0].1;
        assert_eq!((metrics.refused_busy, metrics.queue_bytes), (1, 0));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_share_syncs() {
    let runtime = granary_runtime::Runtime::system();
    let machine = Machine::new(&runtime, config(), 1).await;
    let before = machine.store.metrics()[0].1.syncs;
    let writers: Vec<_> = (0..500u128)
        .map(|n| {
            let (store, disk) = (machine.store.clone(), machine.disk());
            runtime.spawn(async move { put(&store, disk, id(n), &pattern(1, 100)).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let syncs = machine.store.metrics()[0].1.syncs - before;
    assert!(syncs < 250, "{syncs} syncs for 500 writers");
}

/// In the first block of the first chunk, which follows the group's epoch record.
const FIRST_CHUNK_BYTE: u64 = 4096 + 4096 + 128 + 4;

/// The chunks that a disk knows to be damaged.
async fn known_damaged(machine: &Machine) -> Vec<granary_types::ChunkId> {
    let page = machine.store.list(machine.disk(), PG, None, 1000).await;
    let entries = page.unwrap().entries.into_iter();
    entries.filter(|e| e.damaged).map(|e| e.id).collect()
}

#[test]
fn what_a_disk_knows_to_be_damaged_is_listed_until_it_is_whole_again() {
    simulate(1, |runtime| async move {
        let mut machine = Machine::new(&runtime, config(), 1).await;
        let bytes = pattern(1, 60_000);
        for n in 1..5 {
            machine.put(0, id(n), &bytes).await.unwrap();
        }
        let volume = machine.volumes(0).remove(0);
        machine.vfs.flip_bit(&volume, FIRST_CHUNK_BYTE, 3).unwrap();
        assert_eq!(known_damaged(&machine).await, [], "nobody looked");
        let read = machine.get(0, id(1), 60_000).await;
        assert_eq!(read, Err(BlobError::Corrupt(id(1))));
        assert_eq!(known_damaged(&machine).await, [id(1)]);
        // It knows it after a restart, and after compaction took the record along as it is.
        machine = machine.restart(&runtime).await;
        assert_eq!(known_damaged(&machine).await, [id(1)]);
        let disk = machine.disk();
        let dead = vec![id(2), id(3)];
        machine.store.delete(disk, PG, 1, dead).await.unwrap();
        machine.store.compact_once(disk).await.unwrap().unwrap();
        assert!(!machine.volumes(0).contains(&volume));
        assert_eq!(known_damaged(&machine).await, [id(1)]);
        machine.put(0, id(1), &bytes).await.unwrap();
        assert_eq!(known_damaged(&machine).await, []);
        // A disk that cannot read for a moment finds out that nothing was wrong.
        let volume = machine.volumes(0).pop().unwrap();
        machine.vfs.inject(&volume, Fault::ReadError);
        machine.get(0, id(4), 1000).await.unwrap_err();
        machine.vfs.heal();
        assert_eq!(known_damaged(&machine).await, [id(4)]);
        machine.put(0, id(4), &bytes).await.unwrap();
        assert_eq!(known_damaged(&machine).await, []);
    });
}

#[test]
fn putting_a_rotten_chunk_again_repairs_it() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let bytes = pattern(1, 150_000);
        machine.put(0, id(1), &bytes).await.unwrap();
        machine.put(0, id(2), &bytes).await.unwrap();
        let volume = machine.volumes(0).remove(0);
        machine.vfs.flip_bit(&volume, FIRST_CHUNK_BYTE, 3).unwrap();
        let damaged = BlobError::Corrupt(id(1));
        assert_eq!(machine.get(0, id(1), 150_000).await, Err(damaged));
        let other = machine.put(0, id(1), &pattern(2, 150_000)).await;
        assert_eq!(other, Err(BlobError::ChunkExists(id(1))));
        machine.put(0, id(1), &bytes).await.unwrap();
        assert_eq!(machine.get(0, id(1), 150_000).await.unwrap(), bytes);
        // A repeat of what is whole takes no room.
        let before = machine.store.metrics()[0].1.append_bytes;
        machine.put(0, id(1), &bytes).await.unwrap();
        machine.put(0, id(2), &bytes).await.unwrap();
        assert_eq!(machine.store.metrics()[0].1.append_bytes, before);
        let status = machine.status(machine.disk()).await;
        assert_eq!(status.chunks, 2);
        assert!(status.reclaimable_bytes > 150_000, "{status:?}");
        // Neither a crash nor the loss of the index brings the damaged record back.
        let mut machine = machine;
        for index in [machine.indexes[0].crash(0), MemoryKv::new()] {
            let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
            machine = machine.revive(&runtime, crashed, vec![index]).await;
            for chunk in [id(1), id(2)] {
                assert_eq!(machine.get(0, chunk, 150_000).await.unwrap(), bytes);
            }
            assert_eq!(machine.status(machine.disk()).await.chunks, 2);
        }
        let gone = vec![id(1)];
        machine
            .store
            .delete(machine.disk(), PG, u64::MAX, gone)
            .await
            .unwrap();
        let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
        let machine = machine
            .revive(&runtime, crashed, vec![MemoryKv::new()])
            .await;
        let deleted = BlobError::ChunkDeleted(id(1));
        assert_eq!(machine.get(0, id(1), 10).await, Err(deleted));
    });
}

/// No descriptors or no memory: the disk is as good as before.
#[test]
fn shortages_are_busy_and_no_failure() {
    for (seed, fault) in [Fault::NoHandles, Fault::NoMemory].into_iter().enumerate() {
        simulate(seed as u64, |runtime| async move {
            let mut config = config();
            config.open_files = 1;
            let machine = Machine::new(&runtime, config, 1).await;
            let busy = BlobError::Busy(machine.disk());
            let bytes = pattern(1, 60_000);
            for n in 0..10 {
                machine.put(0, id(n), &bytes).await.unwrap();
            }
            let dead: Vec<_> = (1..9).map(id).collect();
            let disk = machine.disk();
            machine
                .store
                .delete(disk, PG, u64::MAX, dead)
                .await
                .unwrap();
            // The one open volume is the last: the first has to be opened.
            machine.get(0, id(9), 10).await.unwrap();
            machine.vfs.inject(dir(0), fault);
            assert_eq!(machine.get(0, id(0), 10).await, Err(busy.clone()));
            let mut refused = 0;
            for n in 10..20 {
                match machine.put(0, id(n), &bytes).await {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error, busy, "{fault:?}");
                        refused += 1;
                    }
                }
            }
            assert!(refused > 0, "{fault:?}");
            let compacted = machine.store.compact_once(disk).await;
            assert_eq!(compacted, Err(busy.clone()), "{fault:?}");
            runtime.sleep(Duration::from_secs(60)).await;
            assert_eq!(machine.health(0).await, DiskHealth::Healthy, "{fault:?}");
            machine.vfs.heal();
            for n in 10..20 {
                machine.put(0, id(n), &bytes).await.unwrap();
            }
            assert!(machine.store.compact_once(disk).await.unwrap().is_some());
            let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
            let machine = machine
                .revive(&runtime, crashed, vec![MemoryKv::new()])
                .await;
            for n in (10..20).chain([0, 9]) {
                assert_eq!(machine.get(0, id(n), 60_000).await.unwrap(), bytes);
            }
        });
    }
}

/// A directory that was removed, unmounted or replaced under the process takes nothing any more.
#[test]
fn a_disk_whose_directory_vanished_fails() {
    type Spoil = fn(&MemoryVfs);
    let cases: [(&str, Spoil); 4] = [
        ("removed", |vfs| vfs.vanish(&dir(0))),
        ("unmounted", |vfs| {
            vfs.vanish(&dir(0));
            vfs.create_dir_all(&dir(0)).unwrap();
        }),
        ("put back from a copy", |vfs| {
            let path = dir(0).join("granary-disk");
            let bytes = vfs.open(&path).unwrap().read_at(0, 4096).unwrap();
            vfs.vanish(&dir(0));
            vfs.create_dir_all(&dir(0).join("volumes")).unwrap();
            let copy = vfs.create(&path).unwrap();
            copy.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
        }),
        ("identity unreadable", |vfs| {
            vfs.inject(dir(0).join("granary-disk"), Fault::ReadError);
        }),
    ];
    for (seed, (case, spoil)) in cases.into_iter().enumerate() {
        simulate(seed as u64, |runtime| async move {
            let machine = Machine::new(&runtime, config(), 2).await;
            let bytes = pattern(1, 5000);
            machine.put(0, id(1), &bytes).await.unwrap();
            machine.put(1, id(1), &bytes).await.unwrap();
            spoil(&machine.vfs);
            // Nobody asks how the disk does.
            runtime.sleep(Duration::from_secs(20)).await;
            let lost = BlobError::DiskFailed(machine.disks[0]);
            assert_eq!(machine.put(0, id(2), &bytes).await, Err(lost), "{case}");
            assert_eq!(machine.health(0).await, DiskHealth::Failed, "{case}");
            assert_eq!(machine.health(1).await, DiskHealth::Healthy, "{case}");
            machine.put(1, id(2), &bytes).await.unwrap();
        });
    }
}

/// A new volume is never begun in a directory that is not the disk's any more.
#[test]
fn no_volume_is_made_in_another_disks_directory() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let bytes = pattern(1, 60_000);
        machine.put(0, id(1), &bytes).await.unwrap();
        machine.vfs.vanish(&dir(0));
        machine.vfs.create_dir_all(&dir(0).join("volumes")).unwrap();
        let mut n = 2;
        let refused = loop {
            match machine.put(0, id(n), &bytes).await {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
            assert!(n < 10, "a volume holds fewer");
        };
        assert_eq!(refused, BlobError::DiskFailed(machine.disk()));
        assert_eq!(machine.volumes(0), Vec::<std::path::PathBuf>::new());
    });
}

/// A disk that is only read and answers nothing but errors is a dead one.
#[test]
fn a_disk_that_cannot_be_read_at_all_fails() {
    for (seed, fault) in [Fault::WriteError, Fault::SyncError, Fault::ReadOnly]
        .into_iter()
        .enumerate()
    {
        simulate(seed as u64, |runtime| async move {
            let machine = Machine::new(&runtime, config(), 1).await;
            machine.put(0, id(1), &pattern(1, 5000)).await.unwrap();
            let volume = machine.volumes(0).remove(0);
            machine.vfs.inject(&volume, Fault::ReadError);
            let damaged = BlobError::Corrupt(id(1));
            assert_eq!(machine.get(0, id(1), 10).await, Err(damaged));
            assert_eq!(machine.health(0).await, DiskHealth::Healthy);
            runtime.sleep(Duration::from_secs(2)).await;
            machine.vfs.inject(dir(0), fault);
            let lost = BlobError::DiskFailed(machine.disk());
            assert_eq!(machine.get(0, id(1), 10).await, Err(lost), "{fault:?}");
            assert_eq!(machine.health(0).await, DiskHealth::Failed);
        });
    }
}

/// After a failed sync the system may show bytes that the disk never got, and call them clean. A
/// disk that is opened again must not take them for stored.
#[test]
fn what_a_failed_sync_lost_is_not_taken_for_stored_when_the_disk_is_opened_again() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let bytes = pattern(1, 60_000);
        machine.put(0, id(1), &bytes).await.unwrap();
        machine.vfs.inject(dir(0), Fault::SyncError);
        let lost = BlobError::DiskFailed(machine.disk());
        assert_eq!(machine.put(0, id(2), &bytes).await, Err(lost));
        machine.vfs.heal();
        machine.store.remove_disk(machine.disk()).await;
        let again = disk_config(0, &machine.indexes[0]);
        machine.store.add_disk(again).await.unwrap();
        machine.put(0, id(2), &bytes).await.unwrap();
        let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
        let index = machine.indexes[0].crash(0);
        let machine = machine.revive(&runtime, crashed, vec![index]).await;
        for chunk in [id(1), id(2)] {
            assert_eq!(machine.get(0, chunk, 60_000).await.unwrap(), bytes);
        }
    });
}
