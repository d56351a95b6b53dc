//! A data directory that was copied, and one that was moved.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use granary_blob::BlobConfig;
use granary_kv_rocks::RocksBudget;
use granary_meta_api::Meta;
use granary_runtime::Runtime;
use granary_types::NodeId;

use super::root::Root;
use super::{StorageRole, Wanted};

/// A node with one data directory, which is open but not told of.
async fn node(runtime: &Runtime, root: &Arc<Root>, id: u64, path: &Path) -> Arc<StorageRole> {
    let meta = Meta::new(runtime.clone(), Arc::clone(root) as _);
    let paths = [path.to_owned()];
    let role = StorageRole::new(
        runtime,
        NodeId(id),
        BlobConfig::for_cluster("test"),
        &paths,
        RocksBudget::new(64 << 20),
        meta,
    );
    let role = role.await.unwrap();
    role.open_all(Wanted::OneDisk).await.unwrap();
    role
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_nodes_serve_one_disk_and_a_moved_one_is_served() {
    let (runtime, root) = (Runtime::system(), Arc::new(Root::default()));
    let dir = tempfile::tempdir().unwrap();
    let (original, copy) = (dir.path().join("original"), dir.path().join("copy"));
    let first = node(&runtime, &root, 1, &original).await;
    first.enrol().await.unwrap();
    first.stop().await;
    drop(first);
    let copied = Command::new("cp")
        .arg("-a")
        .args([&original, &copy])
        .status();
    assert!(copied.unwrap().success());
    let owner_of_all =
        || -> Vec<u64> { root.disks.lock().values().map(|disk| disk.node).collect() };

    let first = node(&runtime, &root, 1, &original).await;
    first.enrol().await.unwrap();
    let second = node(&runtime, &root, 2, &copy).await;
    second.know(first.nodes());
    let refused = second.enrol().await.unwrap_err().to_string();
    assert!(refused.contains("node 1 serves disk"), "{refused}");
    assert_eq!(second.directories().await, [(copy.clone(), false)]);
    assert_eq!(owner_of_all(), [1]);

    // Its node let go of it: the disk may be taken for one that was moved.
    let before = first.nodes();
    first.stop().await;
    drop(first);
    let second = {
        second.stop().await;
        drop(second);
        node(&runtime, &root, 2, &copy).await
    };
    second.know(before);
    second.enrol().await.unwrap();
    assert_eq!(second.directories().await, [(copy, true)]);
    assert_eq!(owner_of_all(), [2]);
    second.stop().await;
}
