//! What the root decides: leases, the cluster map, shard ids, access keys.

use bytes::Bytes;

use super::{OWNER, Suite};
use crate::pb;
use crate::pb::rejection::Reason;
use crate::pb::state;

/// A lease has one holder at a time; tokens grow, cursors stay.
pub async fn leases_have_growing_tokens(suite: Suite) {
    let ask = |holder: &str, token: u64| pb::AcquireLease {
        name: "sweep".to_owned(),
        holder: holder.to_owned(),
        ttl_ms: 10_000,
        token,
        ..Default::default()
    };
    let first = suite.accepted(ask("x", 0)).await;
    assert_eq!(suite.rejected(ask("y", 0)).await, Reason::Stale);
    let mut renewal = ask("x", first.token);
    renewal.cursor = Bytes::from_static(b"here");
    assert_eq!(suite.accepted(renewal).await.token, first.token);
    suite.clock.advance_wall_clock(10_001);
    let second = suite.accepted(ask("y", 0)).await;
    assert!(second.token > first.token);
    assert_eq!(second.cursor, Bytes::from_static(b"here"));
    assert_eq!(suite.rejected(ask("x", first.token)).await, Reason::Stale);
    let mut release = ask("y", second.token);
    release.release = true;
    suite.accepted(release).await;
    let third = suite.accepted(ask("x", 0)).await;
    assert!(third.token > second.token && third.cursor == second.cursor);
}

/// The map's epoch rises when what it shows changes, and only then; members change by epoch.
pub async fn the_map_has_epochs(suite: Suite) {
    let map = |known_epoch: u64| pb::GetClusterMap { known_epoch };
    let node = state::Node {
        id: 5,
        zone: "z".to_owned(),
        ..Default::default()
    };
    let register = pb::RegisterNode { node: Some(node) };
    let before = suite.meta.query(map(0)).await.unwrap().epoch;
    suite.accepted(register.clone()).await;
    let after = suite.meta.query(map(before)).await.unwrap();
    assert!(!after.unchanged && after.epoch > before && after.nodes.len() == 1);
    suite.accepted(register).await;
    assert!(suite.meta.query(map(after.epoch)).await.unwrap().unchanged);
    for disk in 1..=3 {
        let disk = state::Disk {
            id: disk,
            node: 5,
            ..Default::default()
        };
        suite.accepted(pb::RegisterDisk { disk: Some(disk) }).await;
    }
    let pool = state::Pool {
        name: "lrs".to_owned(),
        copies: 2,
        ..Default::default()
    };
    let create = pb::CreatePool { pool: Some(pool) };
    let created = suite.accepted(create.clone()).await;
    let again = suite.accepted(create).await;
    assert!(created.created && !again.created && created.id == again.id);
    let member = |disk: u64| state::PgMember {
        disk,
        complete: false,
    };
    let group = state::PlacementGroup {
        members: vec![member(1), member(2)],
        ..Default::default()
    };
    let pool = u32::try_from(created.id).unwrap();
    let create = pb::CreatePgs {
        pool,
        groups: vec![group.clone(), group],
    };
    let first = u32::try_from(suite.accepted(create).await.id).unwrap();
    let replace = |epoch: u64, old_disk: u64, new_disk: u64| pb::ReplacePgMember {
        pg: first + 1,
        epoch,
        old_disk,
        new_disk,
    };
    suite.accepted(replace(1, 2, 3)).await;
    assert_eq!(suite.rejected(replace(1, 1, 2)).await, Reason::Stale);
    let complete = |epoch: u64| pb::CompletePgMember {
        pg: first + 1,
        epoch,
        disk: 3,
    };
    let groups = suite.meta.query(map(0)).await.unwrap().groups;
    let members = |groups: &[state::PlacementGroup]| -> Vec<_> {
        groups[1]
            .members
            .iter()
            .map(|member| (member.disk, member.complete))
            .collect()
    };
    assert_eq!(members(&groups), [(1, true), (3, false)]);
    assert_eq!(suite.rejected(complete(1)).await, Reason::Stale);
    suite.accepted(complete(2)).await;
    let groups = suite.meta.query(map(0)).await.unwrap().groups;
    assert_eq!(members(&groups), [(1, true), (3, true)]);
}

/// A nonce gets one shard id and home slab, others get others.
pub async fn shards_are_allocated_once(suite: Suite) {
    let nonce = |byte: u8| pb::AllocateShard {
        nonce: Bytes::copy_from_slice(&[byte; 16]),
    };
    let first = suite.accepted(nonce(1)).await;
    let again = suite.accepted(nonce(1)).await;
    let other = suite.accepted(nonce(2)).await;
    assert!(first.created && !again.created && other.created);
    assert_eq!((first.id, first.slab), (again.id, again.slab));
    assert!(first.id != other.id && first.slab != other.slab);
    let used = suite.data_shards().await;
    assert!(used.iter().all(|shard| u64::from(shard.0) < first.id));
}

/// An access key is found with its account; one of nobody is refused.
pub async fn access_keys_belong_to_accounts(suite: Suite) {
    let key = |account: u64| pb::PutAccessKey {
        key: Some(state::AccessKey {
            id: "LTAI-test".to_owned(),
            account,
            sealed_secret: Bytes::from_static(b"sealed"),
            ..Default::default()
        }),
    };
    assert_eq!(suite.rejected(key(99)).await, Reason::Invalid);
    let get = pb::GetAccessKey {
        id: "LTAI-test".to_owned(),
    };
    assert!(!suite.meta.query(get.clone()).await.unwrap().found);
    suite.accepted(key(OWNER)).await;
    let found = suite.meta.query(get).await.unwrap();
    assert_eq!(
        found.key.unwrap().sealed_secret,
        Bytes::from_static(b"sealed")
    );
    assert_eq!(found.account.unwrap().id, OWNER);
}
