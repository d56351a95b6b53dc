//! A disk finds out what it lost before somebody needs it.

use std::time::Duration;

use granary_blob_api::testsuite::pattern;
use granary_blob_api::{BlobError, BlobNode, DiskHealth, VerifyPage};
use granary_kv::MemoryKv;
use granary_types::ChunkId;
use granary_vfs::{CrashStyle, Fault};

use crate::support::{Machine, PG, config, id, simulate};

/// The record of the first chunk, which follows the group's epoch record.
const FIRST_RECORD: u64 = 4096 + 4096;
/// In the first block of the first chunk.
const FIRST_CHUNK_BYTE: u64 = FIRST_RECORD + 128 + 4;

async fn verify(machine: &Machine) -> VerifyPage {
    let page = machine.store.verify(machine.disk(), PG, None, u64::MAX);
    let page = page.await.unwrap();
    assert_eq!(page.next_after, None, "all in one page");
    page
}

async fn listed_as_damaged(machine: &Machine) -> Vec<ChunkId> {
    let page = machine.store.list(machine.disk(), PG, None, 1000).await;
    let entries = page.unwrap().entries.into_iter();
    entries.filter(|e| e.damaged).map(|e| e.id).collect()
}

async fn with_four_chunks(machine: &Machine) {
    for n in 1..5 {
        machine.put(0, id(n), &pattern(1, 100_000)).await.unwrap();
    }
}

#[test]
fn what_rots_below_the_cache_is_found_and_listed_and_put_right() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        with_four_chunks(&machine).await;
        let volume = machine.volumes(0).remove(0);
        // In the first, then in the last byte of a chunk.
        for at in [FIRST_CHUNK_BYTE, FIRST_CHUNK_BYTE + 100_000 + 3] {
            machine.vfs.flip_bit_below_cache(&volume, at, 1).unwrap();
            let found = verify(&machine).await;
            assert_eq!(found.damaged, [id(1)], "a bit flipped at {at}");
            assert_eq!((found.checked_chunks, found.checked_bytes), (4, 400_000));
            assert_eq!(listed_as_damaged(&machine).await, [id(1)]);
            machine.vfs.flip_bit(&volume, at, 1).unwrap();
            // It was the cable.
            assert_eq!(verify(&machine).await.damaged, []);
            assert_eq!(listed_as_damaged(&machine).await, []);
        }
        let metrics = machine.store.metrics()[0].1;
        assert_eq!((metrics.corrupt, metrics.verified_chunks), (2, 16));
        assert_eq!(metrics.verified_bytes, 1_600_000);
    });
}

/// What the cache still has is no reason not to write a copy again.
#[test]
fn a_put_is_not_fooled_by_the_cache() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        with_four_chunks(&machine).await;
        let bytes = pattern(1, 100_000);
        let volume = machine.volumes(0).remove(0);
        let at = FIRST_CHUNK_BYTE + 70_000;
        machine.vfs.flip_bit_below_cache(&volume, at, 1).unwrap();
        assert_eq!(machine.get(0, id(1), 100_000).await.unwrap(), bytes);
        machine.put(0, id(1), &bytes).await.unwrap();
        let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
        let index = machine.indexes[0].crash(usize::MAX);
        let machine = machine.revive(&runtime, crashed, vec![index]).await;
        assert_eq!(machine.get(0, id(1), 100_000).await.unwrap(), bytes);
        assert_eq!(verify(&machine).await.damaged, []);
    });
}

/// The bytes are there and can be read; with the index they would be lost.
#[test]
fn a_chunk_whose_header_rotted_is_written_again() {
    simulate(1, |runtime| async move {
        let mut machine = Machine::new(&runtime, config(), 1).await;
        with_four_chunks(&machine).await;
        let volume = machine.volumes(0).remove(0);
        let at = FIRST_RECORD + 40;
        machine.vfs.flip_bit_below_cache(&volume, at, 1).unwrap();
        let before = machine.store.metrics()[0].1.append_bytes;
        let found = verify(&machine).await;
        assert_eq!((found.checked_chunks, found.damaged), (4, vec![]));
        let written = machine.store.metrics()[0].1.append_bytes - before;
        assert!((100_000..200_000).contains(&written), "{written}");
        verify(&machine).await;
        let again = machine.store.metrics()[0].1.append_bytes - before;
        assert_eq!(again, written, "once is enough");
        for index in [machine.indexes[0].crash(usize::MAX), MemoryKv::new()] {
            let crashed = machine.vfs.crash(1, CrashStyle::LoseAll);
            machine = machine.revive(&runtime, crashed, vec![index]).await;
            for n in 1..5 {
                let read = machine.get(0, id(n), 100_000).await;
                assert_eq!(read.unwrap(), pattern(1, 100_000));
            }
            assert_eq!(verify(&machine).await.damaged, []);
        }
        // What was left of the old record keeps no room.
        let gone = (1..5).map(id).collect();
        let disk = machine.disk();
        machine.store.delete(disk, PG, 1, gone).await.unwrap();
        while machine.store.compact_once(disk).await.unwrap().is_some() {}
        assert!(!machine.volumes(0).contains(&volume));
    });
}

#[test]
fn what_cannot_be_read_is_damaged_and_a_dead_disk_is_out() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        with_four_chunks(&machine).await;
        let (disk, volume) = (machine.disk(), machine.volumes(0).remove(0));
        machine.vfs.inject(&volume, Fault::ReadError);
        let all: Vec<_> = (1..3).map(id).collect();
        assert_eq!(verify(&machine).await.damaged, all, "those of one volume");
        machine.vfs.heal();
        assert_eq!(verify(&machine).await.damaged, []);
        // It says nothing about the chunks.
        machine.vfs.inject(&volume, Fault::NoMemory);
        let verified = machine.store.verify(disk, PG, None, u64::MAX).await;
        assert_eq!(verified, Err(BlobError::Busy(disk)));
        machine.vfs.heal();
        assert_eq!(listed_as_damaged(&machine).await, []);
        machine.vfs.inject(&volume, Fault::ReadError);
        machine.vfs.inject("/data", Fault::WriteError);
        // A disk that was just found to be well is believed to be for a moment.
        runtime.sleep(Duration::from_secs(2)).await;
        let verified = machine.store.verify(disk, PG, None, u64::MAX).await;
        assert_eq!(verified, Err(BlobError::DiskFailed(disk)));
        machine.vfs.heal();
        assert_eq!(machine.health(0).await, DiskHealth::Failed);
    });
}

/// A page ends in time whatever the group holds, and its callers get on.
#[test]
fn a_page_looks_at_a_bounded_number_of_entries() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let tombstones = (0..5000).map(|n| id(1000 + n)).collect();
        let disk = machine.disk();
        machine.store.delete(disk, PG, 1, tombstones).await.unwrap();
        machine.put(0, id(1), &pattern(1, 10)).await.unwrap();
        machine.put(0, id(9000), &pattern(1, 10)).await.unwrap();
        let (mut pages, mut chunks, mut after) = (0, 0, None);
        loop {
            let page = machine.store.verify(disk, PG, after, u64::MAX).await;
            let page = page.unwrap();
            (pages, chunks) = (pages + 1, chunks + page.checked_chunks);
            after = page.next_after;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(chunks, 2);
        assert!(pages > 3, "{pages} pages for 5002 entries");
    });
}
