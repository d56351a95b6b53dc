//! What the in-memory file system promises, and how it loses power.

use super::*;

fn write(file: &Arc<dyn VfsFile>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &[IoSlice::new(bytes)])
}

fn vfs() -> MemoryVfs {
    let vfs = MemoryVfs::new();
    vfs.create_dir_all(Path::new("/d")).unwrap();
    vfs
}

#[test]
fn a_crash_keeps_synced_bytes_and_some_sectors_of_the_rest() {
    for seed in 0..200 {
        for style in [
            CrashStyle::LoseAll,
            CrashStyle::KeepAll,
            CrashStyle::Torn,
            CrashStyle::Prefix,
        ] {
            let vfs = vfs();
            let path = Path::new("/d/f");
            let file = vfs.create(path).unwrap();
            write(&file, 0, &[1; 2048]).unwrap();
            file.sync_data().unwrap();
            vfs.sync_dir(Path::new("/d")).unwrap();
            write(&file, 2048, &[2; 4096]).unwrap();
            let after = vfs.crash(seed, style);
            let left = after.open(path).unwrap().read_at(0, 1 << 20).unwrap();
            assert_eq!(left[..2048], [1; 2048], "seed {seed} {style:?}");
            for sector in left[2048..].chunks(512) {
                assert!(
                    sector == [2; 512] || sector == [0; 512],
                    "seed {seed} {style:?}"
                );
            }
            match style {
                CrashStyle::LoseAll => assert_eq!(left.len(), 2048),
                CrashStyle::KeepAll => assert_eq!(left.len(), 6144),
                CrashStyle::Torn | CrashStyle::Prefix => {}
            }
            assert!(write(&file, 0, &[9]).is_err(), "old handles are dead");
        }
    }
}

#[test]
fn names_are_lost_until_their_directory_is_synced() {
    let vfs = vfs();
    let (tmp, path) = (Path::new("/d/f.tmp"), Path::new("/d/f"));
    let file = vfs.create(tmp).unwrap();
    write(&file, 0, b"x").unwrap();
    file.sync_data().unwrap();
    assert_eq!(
        vfs.crash(1, CrashStyle::LoseAll)
            .open(tmp)
            .err()
            .unwrap()
            .kind(),
        io::ErrorKind::NotFound
    );
    let vfs = self::vfs();
    let file = vfs.create(tmp).unwrap();
    write(&file, 0, b"x").unwrap();
    file.sync_data().unwrap();
    vfs.rename(tmp, path).unwrap();
    vfs.sync_dir(Path::new("/d")).unwrap();
    let after = vfs.crash(1, CrashStyle::LoseAll);
    assert_eq!(after.list(Path::new("/d")).unwrap(), ["f"]);
    assert_eq!(after.open(path).unwrap().read_at(0, 9).unwrap(), b"x");
}

#[test]
fn faults_hit_only_what_is_below_their_path() {
    let vfs = vfs();
    vfs.create_dir_all(Path::new("/e")).unwrap();
    let bad = vfs.create(Path::new("/d/f")).unwrap();
    let good = vfs.create(Path::new("/e/f")).unwrap();
    for (fault, write_fails, sync_fails, read_fails) in [
        (Fault::WriteError, true, false, false),
        (Fault::SyncError, false, true, false),
        (Fault::ReadError, false, false, true),
        (Fault::ReadOnly, true, true, false),
        (Fault::NoMemory, true, false, true),
    ] {
        vfs.inject("/d", fault);
        assert_eq!(write(&bad, 0, b"ab").is_err(), write_fails, "{fault:?}");
        assert_eq!(bad.sync_data().is_err(), sync_fails, "{fault:?}");
        assert_eq!(bad.read_at(0, 1).is_err(), read_fails, "{fault:?}");
        write(&good, 0, b"ab").unwrap();
        good.sync_data().unwrap();
        vfs.heal();
    }
}

#[test]
fn a_full_file_system_refuses_growth_and_recovers() {
    let vfs = vfs();
    vfs.set_capacity("/d", 1000);
    let file = vfs.create(Path::new("/d/f")).unwrap();
    write(&file, 0, &[1; 600]).unwrap();
    assert_eq!(vfs.space(Path::new("/d")).unwrap().free_bytes, 400);
    let refused = write(&file, 600, &[1; 600]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert_eq!(
        file.allocate(1001).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    file.set_len(0).unwrap();
    write(&file, 0, &[1; 1000]).unwrap();
}

#[test]
fn the_power_goes_in_the_middle() {
    let vfs = vfs();
    let file = vfs.create(Path::new("/d/f")).unwrap();
    vfs.power_off_after(1);
    write(&file, 0, b"a").unwrap();
    assert!(write(&file, 1, b"b").is_err());
    assert!(vfs.is_off());
    assert!(file.sync_data().is_err());
}

#[test]
fn a_directory_has_one_holder_and_a_crash_releases_it() {
    let vfs = vfs();
    let dir = Path::new("/d");
    let held = vfs.lock(dir).unwrap();
    assert_eq!(vfs.lock(dir).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let _second_life = vfs.crash(0, CrashStyle::KeepAll).lock(dir).unwrap();
    drop(held);
}

#[test]
fn what_a_failed_sync_lost_is_seen_until_the_power_goes() {
    let vfs = vfs();
    let path = Path::new("/d/f");
    let file = vfs.create(path).unwrap();
    vfs.sync_dir(Path::new("/d")).unwrap();
    write(&file, 0, b"ab").unwrap();
    vfs.inject("/d", Fault::SyncError);
    assert!(file.sync_data().is_err());
    vfs.heal();
    file.sync_data().unwrap();
    assert_eq!(file.read_at(0, 9).unwrap(), b"ab");
    // Written again, it is to be kept again.
    write(&file, 1, b"b").unwrap();
    file.sync_data().unwrap();
    let after = vfs.crash(1, CrashStyle::LoseAll);
    assert_eq!(after.open(path).unwrap().read_at(0, 9).unwrap(), b"\0b");
}

#[test]
fn shortages_are_told_from_broken_disks() {
    let vfs = vfs();
    let file = vfs.create(Path::new("/d/f")).unwrap();
    vfs.inject("/d", Fault::NoHandles);
    let refused = [
        vfs.open(Path::new("/d/f")).err().unwrap(),
        vfs.create(Path::new("/d/g")).err().unwrap(),
        vfs.sync_dir(Path::new("/d")).unwrap_err(),
    ];
    assert!(refused.iter().all(crate::is_shortage), "{refused:?}");
    vfs.inject("/d", Fault::NoMemory);
    assert!(crate::is_shortage(&file.read_at(0, 1).unwrap_err()));
    vfs.heal();
    for fault in [Fault::ReadError, Fault::WriteError] {
        vfs.inject("/d", fault);
    }
    assert!(!crate::is_shortage(&file.read_at(0, 1).unwrap_err()));
    assert!(!crate::is_shortage(&write(&file, 0, b"a").unwrap_err()));
}

#[test]
fn a_directory_that_vanishes_leaves_its_open_files() {
    let vfs = vfs();
    let file = vfs.create(Path::new("/d/f")).unwrap();
    vfs.vanish(Path::new("/d"));
    write(&file, 0, b"a").unwrap();
    file.sync_data().unwrap();
    assert!(vfs.space(Path::new("/d")).is_err());
    vfs.create_dir_all(Path::new("/d")).unwrap();
    assert!(vfs.list(Path::new("/d")).unwrap().is_empty());
    let other = vfs.create(Path::new("/d/f")).unwrap();
    assert_ne!(other.file_id().unwrap(), file.file_id().unwrap());
}
