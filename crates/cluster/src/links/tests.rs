//! Tests of the links between nodes: lanes, reconnection, addresses that change.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::testing::{World, ask_map, record};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_client_notices_that_another_node_answers() {
    let world = World::new();
    let node = world.node(1, &["meta"]).await;
    // The book says that node 5 is where node 1 is.
    world.root.put_node(record(5, &node.address, &["meta"]));
    let links = world.links(world.tls(Peer::Node(NodeId(2))));
    ask_map(links.channel(NodeId(1), Lane::Meta).unwrap())
        .await
        .unwrap();
    let said = ask_map(links.channel(NodeId(5), Lane::Meta).unwrap()).await;
    assert!(said.is_err());
    assert!(
        links.channel(NodeId(6), Lane::Meta).is_none(),
        "nobody knows it"
    );
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_removed_node_is_reached_for_consensus_only() {
    let world = World::new();
    let node = world.node(1, &["meta"]).await;
    let links = world.links(world.tls(Peer::Node(NodeId(2))));
    let lanes = [
        Lane::Control,
        Lane::Log,
        Lane::Snapshot,
        Lane::Meta,
        Lane::Bulk,
    ];
    for lane in lanes {
        assert!(links.channel(NodeId(1), lane).is_some());
    }
    let mut removed = record(1, &node.address, &["meta"]);
    removed.removed = true;
    world.root.put_node(removed);
    let map = world.root.map();
    links.book().take(map.epoch, &map.nodes);
    for (lane, reached) in lanes.into_iter().zip([true, true, true, false, false]) {
        let channel = links.channel(NodeId(1), lane);
        assert_eq!(channel.is_some(), reached, "{lane:?}");
        if let Some(channel) = channel {
            ask_map(channel).await.unwrap();
        }
    }
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_channel_that_is_kept_follows_a_node_that_moved() {
    let world = World::new();
    let before = world.node(1, &["meta"]).await;
    let links = world.links(world.tls(Peer::Node(NodeId(2))));
    let kept = links.channel(NodeId(1), Lane::Log).unwrap();
    ask_map(kept.clone()).await.unwrap();
    before.listener.stop().await;
    let _after = world.node(1, &["meta"]).await;
    let map = world.root.map();
    links.book().take(map.epoch, &map.nodes);
    let found = within(LIMIT, async {
        while ask_map(kept.clone()).await.is_err() {
            world.runtime.sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.expect("the kept channel finds the new address");
    ask_map(links.channel(NodeId(1), Lane::Log).unwrap())
        .await
        .unwrap();
    world.runtime.stop().await;
}

/// Passes bytes on between the client and `to` until it is told to swallow them.
async fn pass_on(world: &World, to: String, swallow: Arc<AtomicBool>) -> String {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let runtime = world.runtime.clone();
    let accepting = async move {
        while let Ok((client, _)) = socket.accept().await {
            let server = TcpStream::connect(&to).await.unwrap();
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            for (mut from, mut into) in [(client_in, server_out), (server_in, client_out)] {
                let swallow = Arc::clone(&swallow);
                let passing = async move {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut buffer).await {
                        if swallow.load(Ordering::SeqCst) {
                            continue;
                        }
                        if into.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                };
                let shutdown = runtime.shutdown().clone();
                runtime.spawn(async move {
                    let _ = shutdown.run_until_cancelled(passing).await;
                });
            }
        }
    };
    let shutdown = world.runtime.shutdown().clone();
    world.runtime.spawn(async move {
        let _ = shutdown.run_until_cancelled(accepting).await;
    });
    address
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed() {
    let world = World::new();
    let node = world.node(1, &["meta"]).await;
    let swallow = Arc::new(AtomicBool::new(false));
    let address = pass_on(&world, node.address.clone(), Arc::clone(&swallow)).await;
    world.root.put_node(record(1, &address, &["meta"]));
    let links = world.links(world.tls(Peer::Node(NodeId(2))));
    let channel = links.channel(NodeId(1), Lane::Control).unwrap();
    ask_map(channel.clone()).await.unwrap();
    swallow.store(true, Ordering::SeqCst);
    let began = world.runtime.monotonic();
    let asked = within(LIMIT, ask_map(channel.clone())).await;
    let noticed = world.runtime.monotonic() - began;
    assert!(asked.expect("the call does not hang").is_err());
    assert!(noticed < Duration::from_secs(5), "{noticed:?}");
    // And when it is back, so is the channel.
    swallow.store(false, Ordering::SeqCst);
    let back = within(LIMIT, async {
        while ask_map(channel.clone()).await.is_err() {
            world.runtime.sleep(Duration::from_millis(20)).await;
        }
    });
    back.await.expect("the channel connects anew");
    world.runtime.stop().await;
}
