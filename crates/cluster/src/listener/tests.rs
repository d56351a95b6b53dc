//! Tests of the listener: strangers, slow handshakes, limits.

use std::time::Duration;

use granary_runtime::within;
use granary_types::NodeId;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt as _;
use tonic::Code;

use super::*;
use crate::links::connect_as_stranger;
use crate::pb::join_client::JoinClient;
use crate::testing::{CLUSTER, TestNode, World, ask_map, credentials, record};
use crate::{Authority, Lane, Trust, connect_to_address, pb};

const LIMIT: Duration = Duration::from_secs(10);

fn plain(cluster_id: &str, local: Peer) -> Security {
    Security::Plain {
        cluster_id: cluster_id.to_owned(),
        local,
    }
}

/// Whether somebody gets through to the Meta service (nodes only) and to DescribeTrust.
async fn reaches(node: &TestNode, security: &Security) -> (bool, bool) {
    let channel = || connect_to_address(security, &node.address).unwrap();
    let meta = within(LIMIT, ask_map(channel())).await.unwrap().is_ok();
    let mut join = JoinClient::new(channel());
    let described = within(LIMIT, join.describe_trust(pb::DescribeTrustRequest {}));
    (meta, described.await.unwrap().is_ok())
}

#[tokio::test]
async fn everybody_gets_what_they_may_use() {
    let world = World::new();
    let node = world.node(1, &["meta"]).await;
    world.root.put_node(record(2, "127.0.0.1:1", &["meta"]));
    world.root.put_node(record(3, "127.0.0.1:1", &["meta"]));
    world.root.remove_node(NodeId(3));
    node.learn(&world);
    let tls = |credentials| {
        let trust = Trust::new(world.runtime.clone(), credentials).unwrap();
        Security::Tls(Arc::new(trust))
    };
    // Our certificate chain, but names of another cluster; their chain with our names.
    let foreign = world.of_another_cluster();
    let peer = |id| Peer::Node(NodeId(id));
    let other_name = credentials(&world.runtime, &world.authority, "another", peer(2));
    let shown = CertificateDer::from(other_name.certificate.clone());
    assert!(
        node.trust().peer(Some(&[shown])).is_err(),
        "the name decides"
    );
    let mut other_ca = credentials(&world.runtime, &foreign, CLUSTER, peer(2));
    other_ca.bundle.push(world.authority.certificate().to_vec());
    for (who, security, expected) in [
        ("a node", world.tls(peer(2)), (true, true)),
        (
            "a node newer than the map",
            world.tls(peer(9)),
            (true, true),
        ),
        ("an operator", world.tls(Peer::Admin), (false, true)),
        ("a removed node", world.tls(peer(3)), (false, false)),
        ("a name of another cluster", tls(other_name), (false, false)),
        ("another cluster's CA", tls(other_ca), (false, false)),
        (
            "somebody without TLS",
            plain(CLUSTER, peer(2)),
            (false, false),
        ),
    ] {
        assert_eq!(reaches(&node, &security).await, expected, "{who}");
    }
    let pinned = Some(world.authority.fingerprint());
    let stranger = || connect_as_stranger(&world.runtime, &node.address, pinned).unwrap();
    assert!(ask_map(stranger()).await.is_err());
    let renewed = JoinClient::new(stranger())
        .renew(pb::RenewRequest::default())
        .await;
    assert_eq!(renewed.unwrap_err().code(), Code::PermissionDenied);
    world.runtime.stop().await;
}

#[tokio::test]
async fn without_tls_cluster_and_node_are_still_compared() {
    let world = World::new();
    let peer = |id| Peer::Node(NodeId(id));
    let config = ListenerConfig::default();
    let node = world
        .node_as(1, &["meta"], plain(CLUSTER, peer(1)), config)
        .await;
    world.root.put_node(record(3, "127.0.0.1:1", &["meta"]));
    world.root.remove_node(NodeId(3));
    node.learn(&world);
    for (who, security, expected) in [
        ("a node", plain(CLUSTER, peer(2)), true),
        ("a removed node", plain(CLUSTER, peer(3)), false),
        (
            "a node of another cluster",
            plain("another", peer(2)),
            false,
        ),
        ("an operator", plain(CLUSTER, Peer::Admin), false),
    ] {
        assert_eq!(reaches(&node, &security).await.0, expected, "{who}");
    }
    // An address that went over to another node.
    world.root.put_node(record(4, &node.address, &["meta"]));
    let links = world.links(plain(CLUSTER, peer(2)));
    assert!(
        ask_map(links.channel(NodeId(1), Lane::Meta).unwrap())
            .await
            .is_ok()
    );
    assert!(
        ask_map(links.channel(NodeId(4), Lane::Meta).unwrap())
            .await
            .is_err()
    );
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_node_that_is_removed_while_it_is_connected_is_refused() {
    let world = World::new();
    let node = world.node(1, &["meta"]).await;
    let other = world.node(2, &["meta"]).await;
    other.learn(&world);
    let channel = other.links.channel(NodeId(1), Lane::Meta).unwrap();
    ask_map(channel.clone()).await.unwrap();
    let heard = crate::is_heard(channel.clone(), NodeId(2)).await;
    assert_eq!(heard, Some(true));
    world.root.remove_node(NodeId(2));
    node.learn(&world);
    let said = ask_map(channel.clone()).await.unwrap_err().to_string();
    assert!(said.contains("node 2 was removed"), "{said}");
    // On the connection it has, and on a new one.
    let again = other.links.channel(NodeId(1), Lane::Bulk).unwrap();
    for channel in [channel, again] {
        let heard = crate::is_heard(channel.clone(), NodeId(2)).await;
        assert_eq!(heard, Some(false));
        let status = JoinClient::new(channel)
            .renew(pb::RenewRequest::default())
            .await
            .unwrap_err();
        assert!(crate::says_removed(&status, NodeId(2)), "{status:?}");
        assert!(!crate::says_removed(&status, NodeId(3)));
    }
    world.runtime.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_counts_no_more() {
    let world = World::new();
    let old = world.tls(Peer::Node(NodeId(2)));
    world.pass(Duration::from_secs(91 * 86_400));
    let node = world.node(1, &["meta"]).await;
    assert_eq!(reaches(&node, &old).await, (false, false));
    world.runtime.stop().await;
}

/// Connections that say nothing give way to others, and end.
#[tokio::test]
async fn silent_connections_hold_nobody_up() {
    let world = World::new();
    let peer = |id| Peer::Node(NodeId(id));
    for security in [world.tls(peer(1)), plain(CLUSTER, peer(1))] {
        let config = ListenerConfig {
            handshake: Duration::from_secs(6),
            handshakes_max: 2,
            ..ListenerConfig::default()
        };
        let client = match &security {
            Security::Tls(_) => world.tls(peer(2)),
            Security::Plain { .. } => plain(CLUSTER, peer(2)),
        };
        let node = world.node_as(1, &["meta"], security, config).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(&node.address).await.unwrap());
        }
        let began = world.runtime.monotonic();
        assert!(reaches(&node, &client).await.0);
        let waited = world.runtime.monotonic() - began;
        assert!(waited < Duration::from_secs(5), "{waited:?}");
        for mut connection in silent {
            let ended = within(LIMIT, connection.read(&mut [0])).await.unwrap();
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        }
    }
    world.runtime.stop().await;
}

/// A certificate that was stolen is worth nothing once its authority is dropped, on connections too.
#[tokio::test]
async fn a_connection_ends_with_the_trust_in_who_signed_for_it() {
    let world = World::new();
    let node = world.node(1, &["meta"]).await;
    let next = Authority::generate(&world.runtime, CLUSTER).unwrap();
    let mut both = node.trust().credentials();
    both.bundle.push(next.certificate().to_vec());
    node.trust().swap(both).unwrap();
    let peer = |id| Peer::Node(NodeId(id));
    let mut renewed = credentials(&world.runtime, &next, CLUSTER, peer(3));
    renewed.bundle.push(world.authority.certificate().to_vec());
    let renewed = Trust::new(world.runtime.clone(), renewed).unwrap();
    let clients = [world.tls(peer(2)), Security::Tls(Arc::new(renewed))];
    let [old, new] = clients.map(|client| {
        let links = world.links(client);
        links.channel(NodeId(1), Lane::Meta).unwrap()
    });
    ask_map(old.clone()).await.unwrap();
    ask_map(new.clone()).await.unwrap();
    let own = credentials(&world.runtime, &next, CLUSTER, peer(1));
    node.trust().swap(own).unwrap();
    let ended = within(LIMIT, async {
        while ask_map(old.clone()).await.is_ok() {
            world.runtime.sleep(Duration::from_millis(20)).await;
        }
    });
    ended.await.expect("it is cut");
    ask_map(new).await.unwrap();
    world.runtime.stop().await;
}

#[tokio::test]
async fn strangers_are_few_and_do_not_stay() {
    let world = World::new();
    let config = ListenerConfig {
        strangers_max: 1,
        stranger_life: Duration::from_millis(700),
        ..ListenerConfig::default()
    };
    let security = world.tls(Peer::Node(NodeId(1)));
    let node = world.node_as(1, &["meta"], security, config).await;
    let pinned = Some(world.authority.fingerprint());
    let ask = async || {
        let channel = connect_as_stranger(&world.runtime, &node.address, pinned).unwrap();
        let mut client = JoinClient::new(channel);
        let answer = client.renew(pb::RenewRequest::default()).await;
        (answer.unwrap_err().code(), client)
    };
    let (first, _kept) = ask().await;
    assert_eq!(first, Code::PermissionDenied, "it was heard");
    let (second, _) = ask().await;
    assert_ne!(second, Code::PermissionDenied, "there is no place");
    let heard = within(LIMIT, async {
        while ask().await.0 != Code::PermissionDenied {
            world.runtime.sleep(Duration::from_millis(50)).await;
        }
    });
    heard
        .await
        .expect("the first one goes when its time is over");
    world.runtime.stop().await;
}

/// A service that never answers.
struct Stuck;

#[async_trait::async_trait]
impl granary_meta_api::MetaService for Stuck {
    async fn propose(
        &self,
        _: granary_types::ShardId,
        _: granary_meta_api::pb::Command,
    ) -> Result<granary_meta_api::pb::CommandReply, granary_meta_api::MetaError> {
        std::future::pending().await
    }

    async fn query(
        &self,
        _: granary_types::ShardId,
        _: granary_meta_api::pb::Query,
    ) -> Result<granary_meta_api::pb::QueryReply, granary_meta_api::MetaError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_stop_ends_although_a_request_does_not() {
    let world = World::new();
    let config = ListenerConfig {
        drain: Duration::from_millis(300),
        ..ListenerConfig::default()
    };
    let security = world.tls(Peer::Node(NodeId(1)));
    let stuck = vec![granary_meta_api::wire::routes(Arc::new(Stuck))];
    let node = world
        .node_serving(1, &["meta"], security, config, stuck)
        .await;
    let links = world.links(world.tls(Peer::Node(NodeId(2))));
    let channel = links.channel(NodeId(1), Lane::Meta).unwrap();
    let asking = world.runtime.spawn(ask_map(channel));
    let mut join = JoinClient::new(links.channel(NodeId(1), Lane::Meta).unwrap());
    join.describe_trust(pb::DescribeTrustRequest {})
        .await
        .unwrap();
    within(LIMIT, node.listener.stop()).await.expect("it stops");
    let asked = within(LIMIT, asking).await.expect("the caller is told");
    assert!(asked.unwrap().is_err());
    world.runtime.stop().await;
}
