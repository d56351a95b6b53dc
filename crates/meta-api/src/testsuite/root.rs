//! What the root decides: leases, the cluster map, shard and node ids, access keys, trust.

use bytes::Bytes;

use super::{OWNER, Suite};
use crate::disk_state;
use crate::pb;
use crate::pb::rejection::Reason;
use crate::pb::state;

/// What a node applies that applies everything.
const NEWEST: u64 = 1000;

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
        feature_level: NEWEST,
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
        suite
            .accepted(pb::RegisterDisk {
                disk: Some(disk),
                ..Default::default()
            })
            .await;
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

    // A disk that comes back counts as filled no more where another one does, and only the state is
    // changed by who knows nothing else.
    let say = |disk: u64, state: u32| pb::RegisterDisk {
        disk: Some(state::Disk {
            id: disk,
            node: 77,
            state,
            ..Default::default()
        }),
        state_only: true,
        groups: vec![first + 1, first + 9],
        keep_state: false,
    };
    for (disk, expected) in [(3, [(1, true), (3, false)]), (1, [(1, true), (3, false)])] {
        suite.accepted(say(disk, disk_state::OUT)).await;
        let mut again = say(disk, disk_state::IN);
        again.keep_state = true;
        suite.accepted(again).await;
        let told = suite.meta.query(map(0)).await.unwrap();
        let known = told.disks.iter().find(|known| known.id == disk).unwrap();
        assert_eq!((known.node, known.state), (5, disk_state::OUT));
        suite.accepted(say(disk, disk_state::IN)).await;
        let told = suite.meta.query(map(0)).await.unwrap();
        let known = told.disks.iter().find(|known| known.id == disk).unwrap();
        assert_eq!((known.node, known.state), (5, disk_state::IN));
        assert_eq!(
            (members(&told.groups), told.groups[1].epoch),
            (expected.to_vec(), 3)
        );
    }
    assert_eq!(
        suite.rejected(say(9, disk_state::OUT)).await,
        Reason::Invalid
    );
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

/// An account is made with its first key, and no account or key is made twice; every key is listed,
/// without its secret.
pub async fn accounts_are_made_with_a_key(suite: Suite) {
    let put = |account: u64, key: &str, of: u64| pb::PutAccount {
        account: Some(state::Account {
            id: account,
            name: format!("name of {account}"),
        }),
        key: Some(state::AccessKey {
            id: key.to_owned(),
            account: of,
            sealed_secret: Bytes::from_static(b"sealed"),
            ..Default::default()
        }),
    };
    for refused in [put(0, "k", 0), put(7, "k", 8), put(7, "", 7)] {
        assert_eq!(suite.rejected(refused).await, Reason::Invalid);
    }
    for (account, key) in [(70, "b"), (80, "c"), (90, "a")] {
        suite.accepted(put(account, key, account)).await;
    }
    assert_eq!(suite.rejected(put(70, "d", 70)).await, Reason::Invalid);
    assert_eq!(suite.rejected(put(75, "b", 75)).await, Reason::Invalid);
    let list = async |after: &str, limit: u32| {
        let after = after.to_owned();
        let query = pb::ListAccessKeys { after, limit };
        let page = suite.meta.query(query).await.unwrap();
        let keys = page.keys.into_iter().map(|found| {
            let (key, account) = (found.key.unwrap(), found.account.unwrap());
            assert!(key.sealed_secret.is_empty() && key.created_ms > 0);
            assert_eq!(account.name, format!("name of {}", account.id));
            (key.id, account.id)
        });
        (keys.collect::<Vec<_>>(), page.more)
    };
    let (first, more) = list("", 2).await;
    assert_eq!(first, [("a".to_owned(), 90), ("b".to_owned(), 70)]);
    assert!(more);
    assert_eq!(list("b", 2).await, (vec![("c".to_owned(), 80)], false));
    let get = pb::GetAccessKey { id: "a".to_owned() };
    let found = suite.meta.query(get).await.unwrap();
    assert_eq!(
        found.key.unwrap().sealed_secret,
        Bytes::from_static(b"sealed")
    );
}

/// A nonce gets one node id and others get others; an id is not given again when its node is
/// removed, and a removed node does not come back.
pub async fn nodes_are_allocated_once(suite: Suite) {
    let ask = |byte: u8, zone: &str| pb::AllocateNode {
        nonce: Bytes::copy_from_slice(&[byte; 16]),
        node: Some(state::Node {
            // Apply chooses the id, and a node that joins is not removed, whatever is asked.
            id: 77,
            removed: true,
            zone: zone.to_owned(),
            address: format!("n{byte}.example:9100"),
            feature_level: NEWEST,
            ..Default::default()
        }),
    };
    let short = pb::AllocateNode {
        nonce: Bytes::from_static(b"short"),
        ..ask(1, "a")
    };
    assert_eq!(suite.rejected(short).await, Reason::Invalid);
    let first = suite.accepted(ask(1, "a")).await;
    let again = suite.accepted(ask(1, "elsewhere")).await;
    let other = suite.accepted(ask(2, "b")).await;
    assert!(first.created && !again.created && other.created);
    assert!(first.id == again.id && other.id > first.id && first.id > 1);
    let node = async |id: u64| {
        let map = suite.meta.query(pb::GetClusterMap { known_epoch: 0 });
        let map = map.await.unwrap();
        let node = map.nodes.into_iter().find(|node| node.id == id);
        (node.unwrap(), map.epoch)
    };
    let (known, before) = node(first.id).await;
    assert_eq!((known.zone.as_str(), known.removed), ("a", false));
    let remove = |node: u64| pb::RemoveNode { node };
    assert_eq!(suite.rejected(remove(99)).await, Reason::Invalid);
    suite.accepted(remove(other.id)).await;
    let (gone, after) = node(other.id).await;
    assert!(gone.removed && after > before);
    suite.accepted(remove(other.id)).await;
    assert_eq!(node(other.id).await.1, after, "nothing changed");
    let third = suite.accepted(ask(3, "c")).await;
    assert!(third.id > other.id, "an id is never given twice");
    assert_eq!(suite.accepted(ask(2, "b")).await.id, other.id);
    assert!(node(other.id).await.0.removed);
    // Neither does it come back by registering itself, nor does an id that was registered go to
    // somebody else.
    let register = |id: u64| pb::RegisterNode {
        node: Some(state::Node {
            id,
            zone: "b".to_owned(),
            feature_level: NEWEST,
            ..Default::default()
        }),
    };
    assert_eq!(suite.rejected(register(other.id)).await, Reason::Invalid);
    assert!(node(other.id).await.0.removed);
    suite.accepted(register(third.id + 1)).await;
    assert!(suite.accepted(ask(4, "d")).await.id > third.id + 1);
}

/// Of two changes that began with the same trust one is refused.
pub async fn trust_changes_by_generation(suite: Suite) {
    let put = |certificate: &'static [u8], expected_generation: u64| pb::PutTrust {
        trust: Some(state::ClusterTrust {
            ca_certificates: vec![Bytes::from_static(certificate)],
            sealed_ca_key: Bytes::from_static(b"sealed"),
            generation: 99,
        }),
        expected_generation,
    };
    let none = pb::PutTrust {
        trust: Some(state::ClusterTrust::default()),
        expected_generation: 0,
    };
    let found = async || suite.meta.query(pb::GetTrust {}).await.unwrap();
    assert_eq!(found().await.generation, 0);
    assert_eq!(suite.rejected(none).await, Reason::Invalid);
    assert_eq!(suite.rejected(put(b"early", 1)).await, Reason::Stale);
    suite.accepted(put(b"one", 0)).await;
    assert_eq!(suite.rejected(put(b"rival", 0)).await, Reason::Stale);
    let trust = found().await;
    assert_eq!(trust.generation, 1);
    assert_eq!(trust.ca_certificates, [Bytes::from_static(b"one")]);
    suite.accepted(put(b"two", 1)).await;
    let trust = found().await;
    assert_eq!(trust.generation, 2);
    assert_eq!(trust.ca_certificates, [Bytes::from_static(b"two")]);
    assert_eq!(trust.sealed_ca_key, Bytes::from_static(b"sealed"));
}

/// A token is found until it expires; what has expired goes when another one comes.
pub async fn join_tokens_expire(suite: Suite) {
    let put = |id: &str, expires_ms: u64| pb::PutJoinToken {
        token: Some(state::JoinToken {
            id: id.to_owned(),
            secret_sha256: Bytes::copy_from_slice(&[7; 32]),
            expires_ms,
        }),
    };
    let get = async |id: &str| {
        let query = pb::GetJoinToken { id: id.to_owned() };
        suite.meta.query(query).await.unwrap()
    };
    let now_ms = suite.runtime.now().as_millis();
    let mut bad = put("bad", now_ms + 60_000);
    if let Some(token) = &mut bad.token {
        token.secret_sha256 = Bytes::from_static(b"short");
    }
    assert_eq!(suite.rejected(bad).await, Reason::Invalid);
    assert_eq!(
        suite.rejected(put("", now_ms + 60_000)).await,
        Reason::Invalid
    );
    suite.accepted(put("short", now_ms + 60_000)).await;
    suite.accepted(put("long", now_ms + 600_000)).await;
    let found = get("short").await;
    assert!(found.found && found.token.unwrap().secret_sha256 == [7; 32][..]);
    assert!(!get("unknown").await.found);
    suite.clock.advance_wall_clock(60_001);
    let expired = get("short").await;
    assert!(!expired.found && expired.token.is_none());
    assert!(get("long").await.found);
    // As many as there may be: those that expired do not count.
    suite.accepted(put("other", now_ms + 600_000)).await;
    assert!(get("other").await.found && get("long").await.found);
    assert!(!get("short").await.found);
}
