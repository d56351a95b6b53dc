//! Tests of joining: who gets a certificate, who is refused, what a repeated request does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::within;
use granary_types::NodeId;

use super::*;
use crate::testing::{CLUSTER, FakeSealer, MASTER_KEY, TestNode, World, ask_map, record};
use crate::{Authority, Identity, Lane, Links, Peer, Security, StateDir, Trust};

const LIMIT: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

async fn token(world: &World) -> JoinToken {
    new_token(&world.runtime, &world.meta(), DAY).await.unwrap()
}

fn parameters(token: &JoinToken, seeds: &[&str], roles: &[&str]) -> JoinParameters {
    JoinParameters {
        token: token.clone(),
        seeds: seeds.iter().map(|seed| (*seed).to_owned()).collect(),
        node: record(0, "127.0.0.1:9100", roles),
        replaces: None,
        give_up: GiveUp::default(),
        plaintext: false,
    }
}

async fn join(
    world: &World,
    folder: &Path,
    parameters: &JoinParameters,
    limit: Duration,
) -> Result<Joined, JoinError> {
    let state = StateDir::open(folder.join("state")).unwrap();
    join_cluster(&world.runtime, &state, parameters, limit, &|_| ()).await
}

fn identity(node: u64) -> Identity {
    Identity {
        cluster_id: CLUSTER.to_owned(),
        node: NodeId(node),
    }
}

#[tokio::test]
async fn a_node_joins_and_is_one_of_the_cluster() {
    let world = World::new();
    let first = world.node(1, &["meta"]).await;
    // A node without the master key, and an address at which nobody listens, are no obstacle.
    let storage = world.node(2, &["storage"]).await;
    let seeds = ["127.0.0.1:1", &storage.address, &first.address];
    let wanted = parameters(&token(&world).await, &seeds, &["gateway", "storage"]);
    let folder = tempfile::tempdir().unwrap();
    let joined = join(&world, folder.path(), &wanted, LIMIT).await.unwrap();
    let fresh = |fresh| Joined {
        identity: identity(3),
        fresh,
    };
    assert_eq!(joined, fresh(true));
    let again = join(&world, folder.path(), &wanted, LIMIT).await.unwrap();
    assert_eq!(again, fresh(false), "there was nothing to do");
    // A crash before the last file: the same nonce gets the same node.
    let path = folder.path().join("state");
    std::fs::remove_file(path.join("identity.json")).unwrap();
    let again = join(&world, folder.path(), &wanted, LIMIT).await.unwrap();
    assert_eq!(again, fresh(true));
    assert_eq!(world.root.map().nodes.len(), 3);
    let key = std::fs::read_to_string(path.join("master.key")).unwrap();
    assert_eq!(key, hex::encode(MASTER_KEY));
    // What it has is enough to talk to the others.
    let state = StateDir::open(&path).unwrap();
    let credentials = state.credentials().unwrap().unwrap();
    let trust = Trust::new(world.runtime.clone(), credentials).unwrap();
    let book = crate::AddressBook::open(&state, CLUSTER, Vec::new()).unwrap();
    let links = Links::new(Security::Tls(Arc::new(trust)), Arc::new(book));
    ask_map(links.channel(NodeId(1), Lane::Meta).unwrap())
        .await
        .unwrap();
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_node_without_a_role_that_needs_it_gets_no_master_key_and_replaces_another() {
    let world = World::new();
    let first = world.node(1, &["meta"]).await;
    world.root.put_node(record(2, "127.0.0.1:1", &["storage"]));
    let mut wanted = parameters(&token(&world).await, &[&first.address], &["storage"]);
    wanted.replaces = Some(NodeId(7));
    let folder = tempfile::tempdir().unwrap();
    let refused = join(&world, folder.path(), &wanted, LIMIT)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("no node 7 to replace"),
        "{refused}"
    );
    wanted.replaces = Some(NodeId(2));
    let joined = join(&world, folder.path(), &wanted, LIMIT).await.unwrap();
    assert_eq!(joined.identity, identity(3));
    assert!(!folder.path().join("state/master.key").exists());
    let removed: Vec<u64> = world
        .root
        .map()
        .nodes
        .iter()
        .filter(|node| node.removed)
        .map(|node| node.id)
        .collect();
    assert_eq!(removed, [2]);
    let state = StateDir::open(folder.path().join("state")).unwrap();
    let book = crate::AddressBook::open(&state, CLUSTER, Vec::new()).unwrap();
    assert!(book.is_removed(NodeId(2)) && book.address(NodeId(1)).is_some());
    // The same join, cut off before its last file, goes through; another one has nothing to replace.
    std::fs::remove_file(state.path().join("identity.json")).unwrap();
    let again = join(&world, folder.path(), &wanted, LIMIT).await.unwrap();
    assert_eq!(again.identity, identity(3));
    let elsewhere = tempfile::tempdir().unwrap();
    wanted.node.address = "127.0.0.1:9200".to_owned();
    let refused = join(&world, elsewhere.path(), &wanted, LIMIT).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("given up already"), "{refused}");
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_node_that_is_needed_is_replaced_only_by_somebody_who_says_so() {
    let world = World::new();
    let first = world.node(1, &["meta"]).await;
    world.root.put_node(record(2, "127.0.0.1:1", &["storage"]));
    world.check.serve.lock().push(NodeId(2));
    world.check.last_copies.lock().push(NodeId(2));
    let mut wanted = parameters(&token(&world).await, &[&first.address], &["storage"]);
    wanted.replaces = Some(NodeId(2));
    let folder = tempfile::tempdir().unwrap();
    for (force, accept_loss, said) in [
        (false, false, "it answers"),
        (false, true, "it answers"),
        (true, false, "it has the last copies"),
    ] {
        wanted.give_up = GiveUp { force, accept_loss };
        let refused = join(&world, folder.path(), &wanted, LIMIT)
            .await
            .unwrap_err();
        let refused_at_once = matches!(refused, JoinError::Refused { .. });
        assert!(
            refused_at_once && refused.to_string().contains(said),
            "{refused}"
        );
        let nodes = world.root.map().nodes;
        assert_eq!(nodes.len(), 2, "nobody was let in");
        assert!(nodes.iter().all(|node| !node.removed));
    }
    wanted.give_up = GiveUp {
        force: true,
        accept_loss: true,
    };
    let joined = join(&world, folder.path(), &wanted, LIMIT).await.unwrap();
    assert_eq!(joined.identity, identity(3));
    assert!(world.root.map().nodes.iter().any(|node| node.removed));
    world.runtime.stop().await;
}

#[tokio::test]
async fn only_a_token_that_counts_lets_a_node_in() {
    let world = World::new();
    let first = world.node(1, &["meta"]).await;
    let seeds = [first.address.as_str()];
    let good = token(&world).await;
    let (text, other) = (good.reveal(), token(&world).await.reveal());
    let secret = other.rsplit_once('.').unwrap().1;
    let swapped = format!("{}.{secret}", text.rsplit_once('.').unwrap().0);
    let unknown = JoinToken::make(&world.runtime, world.authority.fingerprint());
    let folder = tempfile::tempdir().unwrap();
    for (what, token) in [
        (
            "another token's secret",
            JoinToken::parse(&swapped).unwrap(),
        ),
        ("a token nobody kept", unknown),
    ] {
        let wanted = parameters(&token, &seeds, &["storage"]);
        let outcome = join(&world, folder.path(), &wanted, LIMIT).await;
        assert!(
            matches!(outcome, Err(JoinError::Refused { .. })),
            "{what}: {outcome:?}"
        );
    }
    // Its cluster is not the one that answers: the secret is not even told.
    let foreign = world.of_another_cluster().fingerprint();
    let wanted = parameters(
        &JoinToken::make(&world.runtime, foreign),
        &seeds,
        &["storage"],
    );
    let outcome = join(&world, folder.path(), &wanted, LIMIT).await;
    assert!(
        matches!(outcome, Err(JoinError::Hopeless(_))),
        "{outcome:?}"
    );
    let endless = new_token(&world.runtime, &world.meta(), 366 * DAY).await;
    assert!(endless.unwrap_err().to_string().contains("365 days"));
    world.pass(DAY + Duration::from_secs(1));
    let outcome = join(
        &world,
        folder.path(),
        &parameters(&good, &seeds, &["storage"]),
        LIMIT,
    )
    .await;
    assert!(
        matches!(outcome, Err(JoinError::Refused { .. })),
        "expired: {outcome:?}"
    );
    assert_eq!(world.root.map().nodes.len(), 1, "nobody was let in");
    world.runtime.stop().await;
}

/// What waiting cannot change is said at once, and of every address.
#[tokio::test]
async fn what_will_never_be_an_answer_is_not_waited_for() {
    let world = World::new();
    let with_tls = world.node(1, &["meta"]).await;
    let plain = Security::Plain {
        cluster_id: CLUSTER.to_owned(),
        local: Peer::Node(NodeId(2)),
    };
    let config = crate::ListenerConfig::default();
    let without = world.node_as(2, &["meta"], plain, config).await;
    let good = token(&world).await;
    let foreign = world.of_another_cluster().fingerprint();
    let foreign = JoinToken::make(&world.runtime, foreign);
    let nobody = "127.0.0.1:1";
    let folder = tempfile::tempdir().unwrap();
    for (token, seed, plaintext, expected) in [
        (
            &foreign,
            &with_tls.address,
            false,
            "before granary admin rotate-ca",
        ),
        (&good, &without.address, false, "it speaks no TLS"),
        (&good, &with_tls.address, true, "it speaks TLS"),
    ] {
        for seeds in [[seed.as_str(), nobody], [nobody, seed.as_str()]] {
            let mut wanted = parameters(token, &seeds, &["storage"]);
            wanted.plaintext = plaintext;
            let began = world.runtime.monotonic();
            let said = join(&world, folder.path(), &wanted, LIMIT).await;
            let said = said.unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
            assert!(said.contains("127.0.0.1:1: Connection refused"), "{said}");
            let waited = world.runtime.monotonic() - began;
            assert!(waited < LIMIT / 2, "{waited:?}");
        }
    }
    let wanted = parameters(&good, &["127.0.0.1"], &["storage"]);
    let said = join(&world, folder.path(), &wanted, LIMIT).await;
    assert!(matches!(said, Err(JoinError::Address(_))), "{said:?}");
    // A node that is there and may do later is waited for all the same.
    let storage = world.node(3, &["storage"]).await;
    let seeds = [without.address.as_str(), &storage.address];
    let wanted = parameters(&good, &seeds, &["storage"]);
    let said = join(&world, folder.path(), &wanted, Duration::from_secs(1)).await;
    assert!(matches!(said, Err(JoinError::NoAnswer(_))), "{said:?}");
    world.runtime.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_node_that_is_not_there_is_told_so() {
    let world = World::new();
    let wanted = parameters(&token(&world).await, &["127.0.0.1:1"], &["storage"]);
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path().join("state")).unwrap();
    let heard = parking_lot::Mutex::new(Vec::new());
    let tell = |said: &str| heard.lock().push(said.to_owned());
    let limit = Duration::from_secs(6);
    let joined = join_cluster(&world.runtime, &state, &wanted, limit, &tell).await;
    assert!(matches!(joined, Err(JoinError::NoAnswer(_))), "{joined:?}");
    let heard = heard.into_inner();
    assert_eq!(heard, ["127.0.0.1:1: Connection refused"]);
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_is_allocated() {
    let world = World::new();
    let first = world.node(1, &["meta"]).await;
    let good = parameters(&token(&world).await, &[&first.address], &["storage"]);
    let folder = tempfile::tempdir().unwrap();
    let with = |change: fn(&mut granary_meta_api::pb::state::Node)| {
        let mut wanted = good.clone();
        change(&mut wanted.node);
        wanted
    };
    for (what, wanted) in [
        (
            "an unknown role",
            with(|node| node.roles = vec!["king".to_owned()]),
        ),
        ("no role", with(|node| node.roles.clear())),
        ("no zone", with(|node| node.zone.clear())),
        ("no port", with(|node| node.address = "host".to_owned())),
        ("a long name", with(|node| node.gateway = "x".repeat(300))),
    ] {
        let outcome = join(&world, folder.path(), &wanted, LIMIT).await;
        assert!(
            matches!(outcome, Err(JoinError::Refused { .. })),
            "{what}: {outcome:?}"
        );
    }
    assert_eq!(world.root.map().nodes.len(), 1);
    world.runtime.stop().await;
}

fn renewal(world: &World, node: &TestNode, folder: &Path, alone: bool) -> Renewal {
    let state = StateDir::open(folder).unwrap();
    let own_server = alone.then(|| Arc::clone(&node.server));
    Renewal::new(
        world.runtime.clone(),
        state,
        Arc::clone(node.trust()),
        Arc::clone(&node.links),
        world.meta(),
        own_server,
    )
    .unwrap()
}

#[tokio::test]
async fn certificates_are_renewed_in_time_and_nothing_stops_meanwhile() {
    let world = World::new();
    let one = world.node(1, &["meta"]).await;
    let two = world.node(2, &["storage"]).await;
    for node in [&one, &two] {
        node.learn(&world);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut renewals = [
        renewal(&world, &one, &folder.path().join("1"), true),
        renewal(&world, &two, &folder.path().join("2"), false),
    ];
    let kept = one.links.channel(NodeId(2), Lane::Meta).unwrap();
    ask_map(kept.clone()).await.unwrap();
    for renewal in &mut renewals {
        assert!(!renewal.tick().await.unwrap(), "too early");
    }
    world.pass(61 * DAY);
    let before = [&one, &two].map(|node| node.trust().not_after());
    for renewal in &mut renewals {
        assert!(renewal.tick().await.unwrap());
        assert!(!renewal.tick().await.unwrap(), "once is enough");
    }
    // Past the end of the first certificates: old connections and new ones work.
    world.pass(60 * DAY);
    for (node, before) in [&one, &two].into_iter().zip(before) {
        assert!(before < world.runtime.now() && world.runtime.now() < node.trust().not_after());
    }
    ask_map(kept).await.unwrap();
    ask_map(two.links.channel(NodeId(1), Lane::Bulk).unwrap())
        .await
        .unwrap();
    ask_map(one.links.channel(NodeId(2), Lane::Bulk).unwrap())
        .await
        .unwrap();
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_removed_node_gets_no_new_certificate() {
    let world = World::new();
    let one = world.node(1, &["meta"]).await;
    let two = world.node(2, &["storage"]).await;
    two.learn(&world);
    world.root.remove_node(NodeId(2));
    world.pass(61 * DAY);
    let folder = tempfile::tempdir().unwrap();
    let outcome = renewal(&world, &two, folder.path(), false).tick().await;
    assert!(
        matches!(outcome, Err(RenewalError::NoAnswer(_))),
        "{outcome:?}"
    );
    drop(one);
    world.runtime.stop().await;
}

#[tokio::test]
async fn the_authority_changes_while_everything_runs() {
    let world = World::new();
    let one = world.node(1, &["meta"]).await;
    let two = world.node(2, &["storage"]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut renewals = [
        renewal(&world, &one, &folder.path().join("1"), true),
        renewal(&world, &two, &folder.path().join("2"), false),
    ];
    let next = Authority::generate(&world.runtime, CLUSTER).unwrap();
    let links = Arc::clone(&one.links);
    let rotation = CaRotation::new(world.meta(), links, Arc::new(FakeSealer), next);
    let step = async || within(LIMIT, rotation.step()).await.unwrap().unwrap();
    let follow = async |renewals: &mut [Renewal; 2]| {
        for (node, renewal) in [&one, &two].into_iter().zip(renewals) {
            node.learn(&world);
            renewal.tick().await.unwrap();
        }
    };
    let all_talk = async || {
        ask_map(two.links.channel(NodeId(1), Lane::Log).unwrap())
            .await
            .unwrap();
        ask_map(one.links.channel(NodeId(2), Lane::Log).unwrap())
            .await
            .unwrap();
    };
    follow(&mut renewals).await;
    assert_eq!(step().await, RotationStep::Added);
    let RotationStep::Waiting(behind) = step().await else {
        panic!("nobody has followed yet");
    };
    assert_eq!(behind.len(), 2);
    follow(&mut renewals).await;
    all_talk().await;
    assert_eq!(step().await, RotationStep::Signs);
    assert!(matches!(step().await, RotationStep::Waiting(_)));
    follow(&mut renewals).await;
    all_talk().await;
    let RotationStep::Waiting(behind) = step().await else {
        panic!("both nodes still believe the old one");
    };
    assert_eq!(behind.len(), 2);
    follow(&mut renewals).await;
    // Connections of before are cut, so an answer may fail to come.
    for tries in 0.. {
        match step().await {
            RotationStep::Finished => break,
            other => assert!(tries < 10, "{other:?}"),
        }
    }
    let fingerprint = rotation.next().fingerprint();
    for node in [&one, &two] {
        assert_eq!(node.trust().issuer(), fingerprint);
        assert_eq!(
            node.trust().credentials().bundle,
            [rotation.next().certificate()]
        );
    }
    assert_eq!(token(&world).await.fingerprint(), fingerprint);
    all_talk().await;
    world.runtime.stop().await;
}
