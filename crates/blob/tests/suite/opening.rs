//! Opening directories: new, known, foreign, newer, damaged, in use.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use granary_blob::{BlobConfig, OpenError, read_identity};
use granary_blob_api::testsuite::pattern;
use granary_blob_api::{BlobError, BlobNode};
use granary_kv::MemoryKv;
use granary_types::ChunkId;
use granary_vfs::{CrashStyle, Vfs};

use crate::support::{Machine, PG, config, content, dir, disk_config, id, simulate};

fn edit_identity(vfs: &dyn Vfs, at: u64, bytes: &[u8]) {
    let file = vfs.open(&dir(0).join("granary-disk")).unwrap();
    file.write_at(at, &[IoSlice::new(bytes)]).unwrap();
}

#[test]
fn an_empty_directory_is_a_new_disk_and_keeps_its_identity() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 2).await;
        let disks = machine.disks.clone();
        assert_ne!(disks[0], disks[1]);
        let identity = read_identity(&machine.vfs, &dir(0)).unwrap().unwrap();
        assert_eq!(
            (identity.disk, identity.cluster_id.as_str()),
            (disks[0], "test")
        );
        assert_eq!(
            read_identity(&machine.vfs, Path::new("/data")).unwrap(),
            None
        );
        let machine = machine.restart(&runtime).await;
        assert_eq!(machine.disks, disks);
        let crashed = machine.vfs.crash(3, CrashStyle::LoseAll);
        let indexes = vec![MemoryKv::new(), MemoryKv::new()];
        let machine = machine.revive(&runtime, crashed, indexes).await;
        assert_eq!(machine.disks, disks);
    });
}

#[test]
fn what_cannot_be_served_is_refused_with_a_sentence_that_helps() {
    type Spoil = fn(&dyn Vfs);
    let cases: [(Spoil, &str); 5] = [
        (|vfs| edit_identity(vfs, 8, &[9]), "newer Granary"),
        (|vfs| edit_identity(vfs, 20, &[9]), "replace the disk"),
        (|vfs| edit_identity(vfs, 0, b"NOTADISK"), "replace the disk"),
        (
            |vfs| vfs.remove(&dir(0).join("granary-disk")).unwrap(),
            "restore the file",
        ),
        (
            |vfs| {
                let volume = dir(0).join("volumes/00000001.volume");
                let file = vfs.open(&volume).unwrap();
                // A volume header of format 2, whole: version and checksum, in the first copy.
                let mut header = file.read_at(0, 64).unwrap();
                header[8] = 2;
                let sum = crc32c::crc32c(&header[..60]).to_le_bytes();
                header[60..].copy_from_slice(&sum);
                file.write_at(0, &[IoSlice::new(&header)]).unwrap();
            },
            "newer Granary",
        ),
    ];
    for (n, (spoil, sentence)) in cases.into_iter().enumerate() {
        simulate(n as u64, |runtime| async move {
            let machine = Machine::new(&runtime, config(), 1).await;
            machine.put(0, id(1), &pattern(1, 10)).await.unwrap();
            machine.store.shutdown().await;
            spoil(&machine.vfs);
            let again = Machine::start(&runtime, config(), machine.vfs, machine.indexes).await;
            let error = again.err().unwrap().to_string();
            assert!(error.contains(sentence), "case {n}: {error}");
        });
    }
}

#[test]
fn another_cluster_and_another_process_are_refused() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let twice = machine
            .store
            .add_disk(disk_config(0, &machine.indexes[0]))
            .await;
        assert!(matches!(twice, Err(OpenError::InUse(_))), "{twice:?}");
        let held = machine.vfs.lock(&dir(0)).unwrap_err();
        assert!(held.to_string().contains("in use by another process"));
        let id = machine.disk();
        assert!(machine.store.remove_disk(id).await);
        assert!(!machine.store.remove_disk(id).await);
        let mut other = config();
        other.cluster_id = "other".to_owned();
        let vfs = machine.vfs.clone();
        let refused = Machine::start(&runtime, other, vfs, machine.indexes.clone()).await;
        let error = refused.err().unwrap();
        assert!(matches!(error, OpenError::OtherCluster { .. }), "{error}");
        // With the lock taken by the caller, as the node does before it opens the index.
        let mut disk = disk_config(0, &machine.indexes[0]);
        disk.lock = Some(machine.vfs.lock(&dir(0)).unwrap());
        assert_eq!(machine.store.add_disk(disk).await.unwrap(), id);
    });
}

#[test]
fn senseless_configuration_is_refused() {
    simulate(1, |runtime| async move {
        let vfs: Arc<dyn Vfs> = Arc::new(granary_vfs::MemoryVfs::new());
        let mut spoilt = vec![config(); 4];
        spoilt[0].cluster_id = String::new();
        spoilt[1].queue_bytes = 1 << 20;
        spoilt[2].volume_bytes = 1;
        spoilt[3].compact_dead_percent = 0;
        for config in spoilt {
            let opened =
                granary_blob::BlobStore::open(runtime.child(), config, Arc::clone(&vfs), vec![]);
            assert!(matches!(opened.await.err(), Some(OpenError::Config(_))));
        }
    });
}

/// A check of the file system after a power loss moved a volume away.
#[test]
fn a_disk_that_lost_a_volume_lists_its_chunks_as_damaged() {
    for newest in [false, true] {
        simulate(1, |runtime| async move {
            const LENGTH: usize = 50_000;
            let machine = Machine::new(&runtime, config(), 1).await;
            let chunks: Vec<_> = (0..20).map(id).collect();
            for &chunk in &chunks {
                let bytes = content(chunk, 0, LENGTH);
                machine.put(0, chunk, &bytes).await.unwrap();
            }
            let mut volumes = machine.volumes(0);
            assert!(volumes.len() > 3, "{volumes:?}");
            let lost = match newest {
                true => volumes.pop().unwrap(),
                false => volumes.remove(1),
            };
            let aside = dir(0).join("moved-away");
            machine.store.shutdown().await;
            machine.vfs.rename(&lost, &aside).unwrap();
            let machine = machine.restart(&runtime).await;

            let listed = damaged(&machine).await;
            assert!(!listed.is_empty() && listed.len() < chunks.len());
            for &chunk in &chunks {
                let read = machine.get(0, chunk, LENGTH).await;
                assert_eq!(read.is_err(), listed.contains(&chunk), "{chunk}");
            }
            let machine = machine.restart(&runtime).await;
            assert_eq!(damaged(&machine).await, listed);

            // One is made good by somebody else, the others when the volume comes back.
            let bytes = content(listed[0], 0, LENGTH);
            machine.put(0, listed[0], &bytes).await.unwrap();
            assert_eq!(damaged(&machine).await, listed[1..]);
            machine.store.shutdown().await;
            machine.vfs.rename(&aside, &lost).unwrap();
            let machine = machine.restart(&runtime).await;
            let disk = machine.disk();
            let page = machine.store.verify(disk, PG, None, u64::MAX).await;
            assert!(page.unwrap().damaged.is_empty());
            assert!(damaged(&machine).await.is_empty());
            for &chunk in &chunks {
                let read = machine.get(0, chunk, LENGTH).await.unwrap();
                assert_eq!(read, content(chunk, 0, LENGTH));
            }
        });
    }
}

/// Where the records of a volume begin.
fn records(vfs: &dyn Vfs, volume: &Path) -> Vec<u64> {
    let file = vfs.open(volume).unwrap();
    let bytes = file.read_at(0, file.len().unwrap() as usize).unwrap();
    let pages = bytes.chunks(4096).enumerate();
    let begins = pages.filter(|(_, page)| page.starts_with(b"GRrc"));
    begins.map(|(n, _)| n as u64 * 4096).collect()
}

fn overwrite(vfs: &dyn Vfs, path: &Path, at: u64) {
    let file = vfs.open(path).unwrap();
    file.write_at(at, &[IoSlice::new(&[0xaa; 4096])]).unwrap();
    file.sync_data().unwrap();
}

/// The system goes down with an index that is behind: what was acknowledged is there, however many
/// bytes before it cannot be made out.
#[test]
fn what_comes_behind_a_large_damaged_area_of_the_newest_volume_is_not_cut_off() {
    const LARGE: usize = 4 << 20;
    let config = BlobConfig {
        volume_bytes: 64 << 20,
        ..config()
    };
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config, 1).await;
        for n in 1..=6 {
            let bytes = content(id(n), 0, LARGE);
            machine.put(0, id(n), &bytes).await.unwrap();
        }
        let [volume] = machine.volumes(0).try_into().unwrap();
        let crashed = machine.vfs.crash(1, CrashStyle::KeepAll);
        // The first one is of the group's epoch.
        for &at in &records(&crashed, &volume)[2..6] {
            overwrite(&crashed, &volume, at);
        }
        let index = vec![MemoryKv::new()];
        let machine = machine.revive(&runtime, crashed, index).await;
        for n in [1, 6] {
            let read = machine.get(0, id(n), LARGE).await;
            assert_eq!(read, Ok(content(id(n), 0, LARGE)), "chunk {n}");
        }
        for n in 2..=5 {
            let missing = Err(BlobError::ChunkNotFound(id(n)));
            assert_eq!(machine.get(0, id(n), LARGE).await, missing);
        }
        // And the disk goes on where it was.
        let bytes = content(id(7), 0, LARGE);
        machine.put(0, id(7), &bytes).await.unwrap();
        let machine = machine.restart(&runtime).await;
        for n in [1, 6, 7] {
            let read = machine.get(0, id(n), LARGE).await;
            assert_eq!(read, Ok(content(id(n), 0, LARGE)), "chunk {n}");
        }
    });
}

/// The volume before the newest one ended whole: all that is in it was acknowledged.
#[test]
fn a_volume_that_ended_is_not_cut_because_the_newest_one_cannot_be_read() {
    const LENGTH: usize = 50_000;
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        for n in 0..10 {
            let bytes = content(id(n), 0, LENGTH);
            machine.put(0, id(n), &bytes).await.unwrap();
        }
        let volumes = machine.volumes(0);
        let [.., ended, newest] = volumes.as_slice() else {
            panic!("{volumes:?}");
        };
        let crashed = machine.vfs.crash(1, CrashStyle::KeepAll);
        overwrite(&crashed, newest, 0);
        let before = crashed.open(ended).unwrap().len().unwrap();
        let last = *records(&crashed, ended).last().unwrap();
        overwrite(&crashed, ended, last + 4096);
        let index = vec![MemoryKv::new()];
        let machine = machine.revive(&runtime, crashed, index).await;
        let after = machine.vfs.open(ended).unwrap().len().unwrap();
        assert_eq!(after, before, "the volume was cut");
        let mut damaged = 0;
        for n in 0..10 {
            match machine.get(0, id(n), LENGTH).await {
                Ok(bytes) => assert_eq!(bytes, content(id(n), 0, LENGTH)),
                Err(BlobError::Corrupt(_)) => damaged += 1,
                // What was in the newest one.
                Err(error) => assert_eq!(error, BlobError::ChunkNotFound(id(n))),
            }
        }
        assert_eq!(damaged, 1);
    });
}

/// Chunks that a disk itself says it has not got as they were stored.
async fn damaged(machine: &Machine) -> Vec<ChunkId> {
    let page = machine.store.list(machine.disk(), PG, None, 1000).await;
    let entries = page.unwrap().entries;
    let damaged = entries.into_iter().filter(|entry| entry.damaged);
    damaged.map(|entry| entry.id).collect()
}

/// An orderly stop leaves nothing to replay, and a process that dies loses nothing.
#[test]
fn restarts_keep_everything() {
    simulate(1, |runtime| async move {
        let mut machine = Machine::new(&runtime, config(), 1).await;
        for round in 0..6u128 {
            for n in 0..10 {
                let chunk = id(round * 100 + n);
                machine.put(0, chunk, &pattern(1, 20_000)).await.unwrap();
            }
            let gone = vec![id(round * 100)];
            machine
                .store
                .delete(machine.disk(), PG, u64::MAX, gone)
                .await
                .unwrap();
            machine = if round % 2 == 0 {
                machine.restart(&runtime).await
            } else {
                let left = machine.vfs.crash(1, CrashStyle::KeepAll);
                let index = machine.indexes[0].crash(usize::MAX);
                machine.revive(&runtime, left, vec![index]).await
            };
            assert_eq!(
                machine.status(machine.disk()).await.chunks,
                (round as u64 + 1) * 9
            );
        }
        let unsynced = machine.indexes[0].unsynced();
        let machine = machine.restart(&runtime).await;
        assert!(machine.indexes[0].unsynced() == 0, "had {unsynced}");
    });
}
