//! The conformance suite of blob-api on this engine, directly, over gRPC and through faults.

use std::sync::Arc;
use std::time::Duration;

use granary_blob::{BlobStore, DiskConfig};
use granary_blob_api::BlobNode;
use granary_blob_api::testsuite::{self, Faults, FaultyBlobNode, PersistentBlobNode, over_pipe};
use granary_kv::MemoryKv;
use granary_runtime::Runtime;
use granary_vfs::RealVfs;

use crate::support::{Machine, config, simulate};

#[test]
fn in_process_under_simulated_time() {
    simulate(1, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 2).await;
        testsuite::run(Arc::new(machine.store.clone()), 1000).await;
        // The same data, after a restart and with a lost index.
        let machine = machine.restart(&runtime).await;
        testsuite::run(Arc::new(machine.store.clone()), 2000).await;
        machine.store.shutdown().await;
        let (vfs, fresh) = (machine.vfs.clone(), vec![MemoryKv::new(), MemoryKv::new()]);
        let machine = machine.revive(&runtime, vfs, fresh).await;
        testsuite::run(Arc::new(machine.store.clone()), 3000).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_file_system() {
    let (runtime, dir) = (Runtime::system(), tempfile::tempdir().unwrap());
    let disk = || DiskConfig {
        path: dir.path().join("nested/disk"),
        index: Arc::new(MemoryKv::new()),
        lock: None,
    };
    for (pgs, volume_bytes) in [(1000, 1 << 20), (2000, 64 << 20)] {
        let mut config = config();
        config.volume_bytes = volume_bytes;
        let life = runtime.child();
        let disks = vec![disk()];
        let store = BlobStore::open(life, config, RealVfs::shared(), disks).await;
        let store = store.unwrap();
        testsuite::run(Arc::new(store.clone()), pgs).await;
        store.shutdown().await;
    }
}

#[test]
fn over_grpc() {
    simulate(2, |runtime| async move {
        let machine = Machine::new(&runtime, config(), 1).await;
        let node = Arc::new(machine.store.clone());
        let remote = over_pipe(&runtime, node, Duration::from_secs(10)).await;
        testsuite::run(remote, 1000).await;
    });
}

/// Requests and replies get lost at random; a caller that repeats until it is answered sees a
/// node that keeps every promise, which is what idempotent means.
#[test]
fn through_faults_with_a_persistent_caller() {
    for seed in 0..5 {
        simulate(seed, |runtime| async move {
            let machine = Machine::new(&runtime, config(), 1).await;
            let faulty = FaultyBlobNode::new(runtime.clone(), Arc::new(machine.store.clone()));
            faulty.set(Faults {
                delay: Duration::from_millis(20),
                fail_before_percent: 10,
                fail_after_percent: 20,
                drop_reply_percent: 5,
            });
            let deadline = Duration::from_secs(30);
            let remote = over_pipe(&runtime, Arc::new(faulty), deadline).await;
            let persistent: Arc<dyn BlobNode> = Arc::new(PersistentBlobNode::new(remote, 100));
            testsuite::run(persistent, 1000).await;
        });
    }
}
