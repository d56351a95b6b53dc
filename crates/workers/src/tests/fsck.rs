//! What a comparison of metadata and disks says, when all is well and when it is not.

use std::io::IoSlice;
use std::time::Duration;

use granary_blob_api::{BlobNode, Block, ChunkOwner, PutChunk};
use granary_types::{BucketId, ChunkId, ObjectId};
use granary_vfs::Vfs as _;

use super::world::{LEASE_MS, MIB, World, content, dir, run, simulated};
use super::{deletion, sweep};
use crate::{Fsck, FsckReport};

/// Between two looks of the sweep.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn check(world: &World, deep: bool) -> FsckReport {
    let (meta, view) = (world.meta.clone(), world.view.clone());
    let fsck = Fsck::new(meta, view, deep, SWEEP_EVERY);
    fsck.run(|_| {}).await.unwrap()
}

#[test]
fn a_sound_store_is_clean_whatever_it_is_doing() {
    simulated(async {
        let world = World::start(4).await;
        world.put("small", &content(1000, 1)).await;
        world.put("large", &content(9 * MIB, 2)).await;
        world.put("paged", &content(26 * MIB, 3)).await;
        world.put("replaced", &content(5 * MIB, 4)).await;
        world.put("replaced", &content(6 * MIB, 5)).await;
        // Written, and not committed yet.
        let open = world.write("open", &content(9 * MIB, 6)).await;
        let report = check(&world, true).await;
        assert!(report.clean && report.complete, "{report:?}");
        assert_eq!(report.chunks_referenced, 3 + 7 + 2);
        assert_eq!(report.copies_checked, 3 * report.chunks_referenced);
        assert_eq!(report.chunks_pending, 2 + 3, "{report:?}");
        assert_eq!(report.bytes_checked, 3 * (9 + 26 + 6) * MIB as u64);
        world.commit("open", open).await.unwrap();
        world.pass(Duration::from_secs(60)).await;
        run(&mut deletion(&world)).await;
        let report = check(&world, false).await;
        assert!(report.clean, "{report:?}");
        assert_eq!((report.chunks_referenced, report.chunks_pending), (15, 0));
    });
}

#[test]
fn what_is_gone_bad_or_nobodys_is_told() {
    simulated(async {
        let world = World::start(3).await;
        world.put("a", &content(9 * MIB, 1)).await;
        let listed = world.listed().await;
        let (disk, lost) = listed[0];
        // A copy goes behind the metadata's back.
        world
            .store
            .delete(disk, lost.id.pg(), u64::MAX, vec![lost.id])
            .await
            .unwrap();
        // Nobody wrote this.
        let group = world.view.map().groups().next().unwrap().clone();
        let stray = PutChunk {
            id: ChunkId::new(group.id, 77),
            owner: ChunkOwner {
                bucket: BucketId(world.bucket.id),
                object: ObjectId(5),
            },
            pg_epoch: group.epoch,
            blocks: Block::cut(content(100, 7)),
            background: false,
        };
        world.store.put(disk, stray.clone()).await.unwrap();
        let report = check(&world, false).await;
        assert!(report.complete && !report.clean, "{report:?}");
        assert_eq!((report.copies_missing, report.chunks_lost), (1, 0));
        assert_eq!(report.chunks_unreferenced, 1);
        let missing = &report.damage[0];
        assert_eq!(missing.kind, "copy_missing");
        assert_eq!(missing.disk, Some(disk.0));
        assert_eq!(missing.key, "a");
        assert_eq!(missing.chunk, format!("{:032x}", lost.id.0));
        assert_eq!(report.damage[1].kind, "chunk_unreferenced");
        assert_eq!(report.damage[1].chunk, format!("{:032x}", stray.id.0));
        // Who looks deeper finds the rot.
        let mut whole = 1;
        while super::disk_in(&world, whole).await == disk {
            whole += 1;
        }
        let volume = world.largest_file(&dir(whole));
        let file = world.vfs.open(&volume).unwrap();
        let middle = file.len().unwrap() / 2;
        let byte = file.read_at(middle, 1).unwrap()[0] ^ 1;
        file.write_at(middle, &[IoSlice::new(&[byte])]).unwrap();
        let report = check(&world, true).await;
        assert_eq!(report.copies_corrupt, 1, "{report:?}");
        world.pass(Duration::from_millis(2 * LEASE_MS)).await;
        run(&mut sweep(&world)).await;
        assert_eq!(check(&world, false).await.chunks_unreferenced, 0);
    });
}

#[test]
fn what_a_broken_off_write_left_is_damage_only_when_the_sweep_should_have_come() {
    simulated(async {
        let world = World::start(3).await;
        world.put("kept", &content(9 * MIB, 1)).await;
        // Died before its commit.
        world.write("never", &content(9 * MIB, 2)).await;
        let report = check(&world, false).await;
        assert!(report.clean, "{report:?}");
        assert_eq!((report.chunks_pending, report.chunks_unswept), (3, 0));
        world.pass(Duration::from_millis(LEASE_MS + 1000)).await;
        let report = check(&world, true).await;
        assert!(report.clean && report.damage.is_empty(), "{report:?}");
        assert_eq!((report.chunks_pending, report.chunks_unswept), (0, 3));
        // Hours later it is still there: the sweep does not do its work.
        world.pass(2 * SWEEP_EVERY + Duration::from_secs(601)).await;
        let report = check(&world, false).await;
        assert!(!report.clean, "{report:?}");
        let found = (report.chunks_unswept, report.chunks_unreferenced);
        assert_eq!(found, (0, 3));
        assert!(report.damage.iter().all(|d| d.kind == "chunk_unreferenced"));
        run(&mut sweep(&world)).await;
        let report = check(&world, true).await;
        assert!(report.clean, "{report:?}");
        assert_eq!((report.chunks_unswept, report.chunks_unreferenced), (0, 0));
    });
}

#[test]
fn a_write_that_took_long_counts_from_its_end() {
    simulated(async {
        let world = World::start(3).await;
        let slow = world.write("slow", &content(9 * MIB, 3)).await;
        // It renews its lease for longer than the sweep has time after the first one.
        let renewed = 30 * 60 * 1000 / LEASE_MS * 2;
        for _ in 0..renewed {
            world.pass(Duration::from_millis(LEASE_MS / 2)).await;
            world.renew("slow", &slow).await;
        }
        let report = check(&world, false).await;
        assert!(report.clean && report.chunks_pending == 3, "{report:?}");
        world.pass(Duration::from_millis(LEASE_MS + 1000)).await;
        let report = check(&world, false).await;
        assert!(report.clean && report.chunks_unswept == 3, "{report:?}");
    });
}
