//! Opening directories: new, known, foreign, newer, damaged, in use.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use granary_blob::{OpenError, read_identity};
use granary_blob_api::BlobNode;
use granary_blob_api::testsuite::pattern;
use granary_kv::MemoryKv;
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

/// An orderly stop leaves nothing to replay, and a process that dies loses nothing.
#[test]
fn chunks_of_a_volume_that_is_gone_are_listed_as_damaged() {
    simulate(7, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let (disk, length) = (machine.disk(), 40_000);
        for n in 1..=20 {
            let bytes = content(id(n), 0, length);
            machine.put(0, id(n), &bytes).await.unwrap();
        }
        let volumes = machine.volumes(0);
        assert!(volumes.len() >= 3, "{volumes:?}");
        // What looked after the file system moved it to lost+found.
        machine.vfs.remove(&volumes[0]).unwrap();
        let machine = machine.restart(&runtime).await;
        let page = machine.store.list(disk, PG, None, 100).await.unwrap();
        assert_eq!(page.entries.len(), 20);
        let damaged: Vec<_> = page.entries.iter().filter(|e| e.damaged).collect();
        assert!((2..10).contains(&damaged.len()), "{damaged:?}");
        for entry in &page.entries {
            let read = machine.get(0, entry.id, length).await;
            assert_eq!(read.is_ok(), !entry.damaged, "{:?}", entry.id);
        }
        // A good copy makes each whole again, also for the next start.
        for entry in damaged {
            let bytes = content(entry.id, 0, length);
            machine.put(0, entry.id, &bytes).await.unwrap();
        }
        let machine = machine.restart(&runtime).await;
        let page = machine.store.list(disk, PG, None, 100).await.unwrap();
        assert_eq!(page.entries.len(), 20);
        assert!(page.entries.iter().all(|entry| !entry.damaged));
    });
}

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
