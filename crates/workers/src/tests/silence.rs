//! A process that reaches the root and not the storage nodes takes nothing out of service, and lets
//! another one have a look; what may really be gone is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::growth::keep_on;
use super::world::{World, simulated};
use crate::{RunnerConfig, Silence, Tick, Worker, WorkerError, start};

/// Nodes of disks that are out of service after some nodes were silent for twenty minutes.
async fn given_up(silent: &[u64], then: impl AsyncFnOnce(&World)) -> Vec<u64> {
    let mut world = World::start(1).await;
    for (node, zone) in (2..).zip(["a", "a", "b", "b", "b", "c", "c", "c"]) {
        world.add_node_in(zone, node, 10 * node as usize).await;
    }
    keep_on(&mut world, 1).await;
    for &node in silent {
        world.nodes.stop(node);
    }
    keep_on(&mut world, 20).await;
    let map = world.view.map();
    let out = map.disks().filter(|disk| disk.state != 0);
    let mut out: Vec<u64> = out.map(|disk| disk.node).collect();
    out.sort_unstable();
    then(&world).await;
    out
}

#[test]
fn whoever_is_cut_off_from_most_storage_nodes_gives_up_none_of_them() {
    simulated(async {
        let out = given_up(&[2, 3, 5, 6, 8, 9], async |world| {
            let silence = Silence {
                silent: 6,
                disks: 9,
            };
            assert_eq!(world.keeper.silence()(), Some(silence));
            assert!(world.keeper.gives_way(), "nobody else has a look");
        });
        assert!(out.await.is_empty());
    });
}

#[test]
fn a_zone_and_a_node_beside_it_are_given_up() {
    for silent in [&[4, 5, 6][..], &[4, 5, 6, 9], &[2]] {
        simulated(async {
            let out = given_up(silent, async |world| {
                assert_eq!(world.keeper.silence()(), None);
                assert!(!world.keeper.gives_way());
            });
            assert_eq!(out.await, silent);
        });
    }
}

/// Counts its ticks, and may think that another one does better.
struct Modest {
    ticks: Arc<AtomicU64>,
    gives_way: bool,
}

impl Worker for Modest {
    const NAME: &'static str = "modest";

    async fn tick(&mut self, _: u64) -> Result<Tick, WorkerError> {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        Ok(Tick::Done)
    }

    fn gives_way(&self) -> bool {
        self.gives_way
    }
}

#[test]
fn a_worker_that_gives_way_leads_again_only_when_nobody_else_does() {
    simulated(async {
        let world = World::start(1).await;
        let begin = |holder: &str, gives_way| {
            let runtime = world.runtime.child();
            let ticks = Arc::default();
            let config = RunnerConfig::every(holder, Duration::from_secs(5));
            let worker = Modest {
                ticks: Arc::clone(&ticks),
                gives_way,
            };
            let (meta, metrics) = (world.meta.clone(), world.metrics.clone());
            let handle = start(&runtime, meta, metrics, config, worker);
            (runtime, handle, ticks)
        };
        let ticks = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed);
        let (_first_runtime, first, first_ticks) = begin("first", true);
        world.runtime.sleep(Duration::from_secs(600)).await;
        assert!(ticks(&first_ticks) > 2, "alone it goes on");
        let (_second_runtime, second, second_ticks) = begin("second", false);
        world.runtime.sleep(Duration::from_secs(300)).await;
        assert!(second.state().leads && !first.state().leads);
        let before = (ticks(&first_ticks), ticks(&second_ticks));
        world.runtime.sleep(Duration::from_secs(300)).await;
        assert_eq!(ticks(&first_ticks), before.0);
        assert!(ticks(&second_ticks) > before.1 + 10);
    });
}
