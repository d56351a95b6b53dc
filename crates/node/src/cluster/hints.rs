//! Carries what this process has found out about copies, by reading and by writing fewer of them than
//! there should be, to the process that counts all copies: the number of chunks below their redundancy
//! must not be called current by somebody who has not heard of it.

use std::sync::Arc;
use std::time::Duration;

use granary_cluster::{Lane, Links};
use granary_datapath::{RepairHint, RepairHints};
use granary_meta_api::pb as meta;
use granary_runtime::{Runtime, within};
use granary_types::{ChunkId, DiskId, NodeId};
use tokio::sync::watch;

use super::pb::admin_client::AdminClient;
use super::pb::{CopyHint, TakeHintsRequest};
use crate::roles::worker::WorkerRole;

/// Between two looks for something to carry.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Hints carried at once.
const HINTS_MAX: usize = 256;

/// Whoever carries them.
pub(super) struct HintCarrier {
    pub(super) runtime: Runtime,
    pub(super) links: Arc<Links>,
    pub(super) map: watch::Receiver<Arc<meta::ClusterMap>>,
    pub(super) hints: RepairHints,
    pub(super) workers: Option<Arc<WorkerRole>>,
}

impl HintCarrier {
    /// Carries until the shutdown.
    pub(super) fn start(self) {
        let runtime = self.runtime.clone();
        runtime.clone().spawn(async move {
            let mut load = Load::new(self.hints.clone());
            loop {
                tokio::select! {
                    () = runtime.sleep(INTERVAL) => {}
                    () = runtime.shutdown().cancelled() => return,
                }
                if counts_here(self.workers.as_deref()) {
                    load.is_here();
                    continue;
                }
                let map = self.map.borrow().clone();
                let own = self.links.security().local_node();
                let others = map.nodes.iter().filter(|node| is_worker(node));
                let others = others.map(|node| NodeId(node.id));
                let others: Vec<NodeId> = others.filter(|id| Some(*id) != own).collect();
                load.carry(&others, &self).await;
            }
        });
    }
}

/// Other nodes, as whoever carries something sees them.
trait Others: Sync {
    /// True when a node counts the copies and has heard it now.
    fn give(&self, node: NodeId, request: TakeHintsRequest) -> impl Future<Output = bool> + Send;
}

impl Others for HintCarrier {
    async fn give(&self, node: NodeId, request: TakeHintsRequest) -> bool {
        let Some(channel) = self.links.channel(node, Lane::Meta) else {
            return false;
        };
        let mut client = AdminClient::new(channel);
        let answer = within(ANSWER_LIMIT, client.take_hints(request)).await;
        // A node of an older version does not know of it.
        answer.is_ok_and(|reply| reply.is_ok_and(|reply| reply.into_inner().taken))
    }
}

fn is_worker(node: &meta::state::Node) -> bool {
    !node.removed && (node.roles.is_empty() || node.roles.iter().any(|role| role == "worker"))
}

/// Whether the copies are counted in this process.
pub(super) fn counts_here(workers: Option<&WorkerRole>) -> bool {
    workers.is_some_and(|role| {
        let mut handles = role.handles().iter();
        handles.any(|handle| handle.name() == "redundancy" && handle.state().leads)
    })
}

/// Takes what another process has carried here.
pub(super) fn take(hints: &RepairHints, request: TakeHintsRequest) {
    for hint in request.hints.into_iter().take(HINTS_MAX) {
        if let Some(chunk) = ChunkId::from_slice(&hint.chunk) {
            let disk = DiskId(hint.disk);
            hints.add(RepairHint { chunk, disk });
        }
    }
    if request.uncounted {
        hints.note_uncounted();
    }
}

/// What is to be carried.
struct Load {
    hints: RepairHints,
    /// [`RepairHints::uncounted`] as it was told last.
    told: u64,
    /// Who took it last: asked first.
    taker: Option<NodeId>,
}

impl Load {
    fn new(hints: RepairHints) -> Self {
        Self {
            hints,
            told: 0,
            taker: None,
        }
    }

    /// The copies are counted here: nothing needs to be carried.
    fn is_here(&mut self) {
        self.told = self.hints.uncounted();
        self.taker = None;
    }

    /// Gives what there is to the one of some nodes that takes it. Otherwise it stays for later.
    async fn carry(&mut self, others: &[NodeId], them: &impl Others) {
        let uncounted = self.hints.uncounted();
        let taken = self.hints.take(HINTS_MAX);
        if taken.is_empty() && uncounted == self.told {
            return;
        }
        let copy = |hint: &RepairHint| CopyHint {
            chunk: hint.chunk.to_bytes().to_vec(),
            disk: hint.disk.0,
        };
        let request = TakeHintsRequest {
            hints: taken.iter().map(copy).collect(),
            uncounted: uncounted != self.told,
        };
        let first = self.taker.filter(|taker| others.contains(taker));
        let rest = others.iter().copied().filter(|node| Some(*node) != first);
        for node in first.into_iter().chain(rest) {
            if them.give(node, request.clone()).await {
                (self.told, self.taker) = (uncounted, Some(node));
                return;
            }
        }
        self.taker = None;
        for hint in taken {
            self.hints.add(hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use granary_types::PgId;
    use parking_lot::Mutex;

    use super::*;

    struct Nodes {
        counts: Mutex<NodeId>,
        asked: Mutex<Vec<NodeId>>,
        hints: RepairHints,
    }

    impl Others for Nodes {
        async fn give(&self, node: NodeId, request: TakeHintsRequest) -> bool {
            self.asked.lock().push(node);
            let counts = *self.counts.lock() == node;
            if counts {
                take(&self.hints, request);
            }
            counts
        }
    }

    fn hint(n: u128) -> RepairHint {
        RepairHint {
            chunk: ChunkId::new(PgId(1), n),
            disk: DiskId(7),
        }
    }

    #[tokio::test]
    async fn what_is_known_here_reaches_who_counts_and_is_told_once() {
        let (here, there) = (RepairHints::default(), RepairHints::default());
        let mut load = Load::new(here.clone());
        let nodes = Nodes {
            counts: Mutex::new(NodeId(3)),
            asked: Mutex::default(),
            hints: there.clone(),
        };
        let others = [NodeId(1), NodeId(2), NodeId(3)];
        load.carry(&others, &nodes).await;
        assert!(nodes.asked.lock().is_empty(), "nothing to tell");
        here.add(hint(1));
        here.note_uncounted();
        load.carry(&others, &nodes).await;
        assert_eq!(*nodes.asked.lock(), others);
        assert_eq!((there.take(9), there.uncounted()), (vec![hint(1)], 1));
        // Told is told, and who took it is asked first.
        nodes.asked.lock().clear();
        load.carry(&others, &nodes).await;
        assert!(nodes.asked.lock().is_empty() && there.uncounted() == 1);
        here.add(hint(2));
        load.carry(&others, &nodes).await;
        assert_eq!(*nodes.asked.lock(), [NodeId(3)]);
        assert_eq!((there.take(9), there.uncounted()), (vec![hint(2)], 1));
        // Nobody takes it: it is kept.
        *nodes.counts.lock() = NodeId(9);
        here.add(hint(3));
        here.note_uncounted();
        load.carry(&others, &nodes).await;
        assert!(there.take(9).is_empty());
        *nodes.counts.lock() = NodeId(2);
        load.carry(&others, &nodes).await;
        assert_eq!((there.take(9), there.uncounted()), (vec![hint(3)], 2));
        // Counted here since: nobody else needs to hear it.
        here.note_uncounted();
        load.is_here();
        load.carry(&others, &nodes).await;
        assert_eq!(there.uncounted(), 2);
    }
}
