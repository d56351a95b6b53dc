//! Where the nodes of the cluster are, from the newest cluster map seen, kept over restarts.
//!
//! It must not know how to connect. A node that was removed stays in the book, marked so: its
//! certificate still looks valid. What the root says replaces what anybody else told, whatever its
//! epoch: so nothing that was told wrongly outlives the next answer of the root.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use granary_meta_api::pb;
use granary_runtime::Runtime;
use granary_types::NodeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{StateDir, StateError};

/// How much newer than what is known a map may be that is not from the root.
const LEAP_MAX: u64 = 1 << 32;

/// What the book knows of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNode {
    /// Which one.
    pub node: u64,
    /// Its cluster address, host:port.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// gateway, meta, storage, worker.
    pub roles: Vec<String>,
    /// Where clients reach its gateway; empty without one.
    #[serde(default)]
    pub gateway: String,
    /// Given up for good.
    #[serde(default)]
    pub removed: bool,
}

impl PeerNode {
    /// Its id.
    pub fn id(&self) -> NodeId {
        NodeId(self.node)
    }

    /// Whether it has a role and is not removed.
    pub fn serves(&self, role: &str) -> bool {
        !self.removed && self.roles.iter().any(|known| known == role)
    }

    fn of(node: &pb::state::Node) -> Self {
        Self {
            node: node.id,
            address: node.address.clone(),
            zone: node.zone.clone(),
            roles: node.roles.clone(),
            gateway: node.gateway.clone(),
            removed: node.removed,
        }
    }
}

#[derive(Default)]
struct Pages {
    epoch: u64,
    /// Every book in memory has a greater one than the one before.
    serial: u64,
    /// The root has not said it since the process runs: a node or an operator did, or a file.
    hearsay: bool,
    nodes: BTreeMap<NodeId, PeerNode>,
    /// Where nodes were met that the map has elsewhere. In memory only.
    met: BTreeMap<NodeId, String>,
}

/// Where the nodes are. Reading it never waits.
pub struct AddressBook {
    pages: ArcSwap<Pages>,
    /// Held while a newer map is compared and taken.
    taking: Mutex<()>,
    /// Held while the file is written: an older book never replaces a newer one in it. The serial of
    /// the one in it.
    saving: tokio::sync::Mutex<u64>,
    kept_in: Option<(StateDir, String)>,
    seeds: Vec<String>,
}

impl std::fmt::Debug for AddressBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pages = self.pages.load();
        f.debug_struct("AddressBook")
            .field("epoch", &pages.epoch)
            .field("nodes", &pages.nodes.len())
            .finish_non_exhaustive()
    }
}

impl AddressBook {
    /// A book in memory only; `seeds` are addresses (host:port) of unnamed nodes.
    pub fn in_memory(seeds: Vec<String>) -> Self {
        Self {
            pages: ArcSwap::default(),
            taking: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            kept_in: None,
            seeds,
        }
    }

    /// The book kept in a state directory. Blocks.
    ///
    /// # Errors
    /// The file is damaged or newer than this program.
    pub fn open(
        state: &StateDir,
        cluster_id: &str,
        seeds: Vec<String>,
    ) -> Result<Self, StateError> {
        let mut book = Self::in_memory(seeds);
        if let Some((epoch, nodes)) = state.peers(cluster_id)? {
            let nodes = nodes.into_iter().map(|node| (node.id(), node)).collect();
            book.pages = ArcSwap::from_pointee(Pages {
                epoch,
                hearsay: true,
                nodes,
                ..Pages::default()
            });
        }
        book.kept_in = Some((state.clone(), cluster_id.to_owned()));
        Ok(book)
    }

    /// Takes over a cluster map that the root gave, unless it gave a newer one before, and keeps it
    /// when it says anything new about the nodes. Returns whether it did.
    ///
    /// # Errors
    /// The file cannot be written; the book in memory is new all the same.
    pub async fn learn(&self, runtime: &Runtime, map: &pb::ClusterMap) -> Result<bool, StateError> {
        if map.unchanged || map.nodes.is_empty() || !self.take(map.epoch, &map.nodes) {
            return Ok(false);
        }
        self.save(runtime).await?;
        Ok(true)
    }

    /// Takes over a cluster map that somebody else told, if it is newer than what is known, until
    /// the root says what is so. Returns whether the nodes are other than before.
    ///
    /// # Errors
    /// The file cannot be written; the book in memory is new all the same.
    pub async fn learn_told(
        &self,
        runtime: &Runtime,
        map: &pb::ClusterMap,
    ) -> Result<bool, StateError> {
        if map.nodes.is_empty() || !self.take_told(map.epoch, &map.nodes) {
            return Ok(false);
        }
        self.save(runtime).await?;
        Ok(true)
    }

    /// What the root says. True when the nodes are other than before.
    pub(crate) fn take(&self, epoch: u64, nodes: &[pb::state::Node]) -> bool {
        self.replace(epoch, nodes, false)
    }

    /// What somebody else says. True when the nodes are other than before.
    pub(crate) fn take_told(&self, epoch: u64, nodes: &[pb::state::Node]) -> bool {
        self.replace(epoch, nodes, true)
    }

    fn replace(&self, epoch: u64, nodes: &[pb::state::Node], hearsay: bool) -> bool {
        let _taking = self.taking.lock();
        let known = self.pages.load();
        let counts = match hearsay {
            true => epoch > known.epoch && epoch - known.epoch <= LEAP_MAX,
            false => epoch >= known.epoch || known.hearsay,
        };
        if !counts {
            return false;
        }
        let nodes: BTreeMap<_, _> = nodes
            .iter()
            .map(|node| (NodeId(node.id), PeerNode::of(node)))
            .collect();
        let news = nodes != known.nodes;
        // A map that has a node elsewhere than the one before knows better where it is.
        let mut met = known.met.clone();
        met.retain(|node, _| {
            let address = |nodes: &BTreeMap<NodeId, PeerNode>| {
                nodes.get(node).map(|known| known.address.clone())
            };
            address(&nodes) == address(&known.nodes)
        });
        self.pages.store(Arc::new(Pages {
            epoch,
            serial: known.serial + 1,
            hearsay,
            nodes,
            met,
        }));
        news
    }

    /// Notes that a node answers at an address: it counts until a map says something new of the
    /// node. Returns whether the book had it elsewhere.
    pub fn meet(&self, node: NodeId, address: &str) -> bool {
        let _taking = self.taking.lock();
        let known = self.pages.load();
        let elsewhere = known
            .nodes
            .get(&node)
            .is_some_and(|known| !known.removed && known.address != address);
        if !elsewhere || known.met.get(&node).is_some_and(|met| met == address) {
            return false;
        }
        let mut met = known.met.clone();
        met.insert(node, address.to_owned());
        self.pages.store(Arc::new(Pages {
            epoch: known.epoch,
            serial: known.serial + 1,
            hearsay: known.hearsay,
            nodes: known.nodes.clone(),
            met,
        }));
        true
    }

    async fn save(&self, runtime: &Runtime) -> Result<(), StateError> {
        let Some((state, cluster_id)) = self.kept_in.clone() else {
            return Ok(());
        };
        let mut saved = self.saving.lock().await;
        let pages = self.pages.load_full();
        if *saved > pages.serial {
            return Ok(());
        }
        let (epoch, serial) = (pages.epoch, pages.serial);
        let path = state.path().to_owned();
        let write = move || {
            let nodes = pages.nodes.values().cloned().collect();
            state.put_peers(&cluster_id, epoch, nodes)
        };
        match runtime.blocking(write).await {
            Ok(outcome) => outcome?,
            Err(cancelled) => {
                return Err(StateError::Io {
                    path,
                    doing: "write",
                    source: std::io::Error::other(cancelled),
                });
            }
        }
        *saved = serial;
        Ok(())
    }

    /// The epoch of the newest map seen; 0 before the first one.
    pub fn epoch(&self) -> u64 {
        self.pages.load().epoch
    }

    /// True until the root has said what is in the book.
    pub fn is_hearsay(&self) -> bool {
        self.pages.load().hearsay
    }

    /// What is known of a node.
    pub fn node(&self, node: NodeId) -> Option<PeerNode> {
        self.pages.load().nodes.get(&node).cloned()
    }

    /// Where a node is; `None` when it is unknown or was removed.
    pub fn address(&self, node: NodeId) -> Option<String> {
        let pages = self.pages.load();
        let known = pages.nodes.get(&node).filter(|known| !known.removed)?;
        let met = pages.met.get(&node);
        Some(met.unwrap_or(&known.address).clone())
    }

    /// True when the node was given up for good. A node that the book does not know was not.
    pub fn is_removed(&self, node: NodeId) -> bool {
        let pages = self.pages.load();
        pages.nodes.get(&node).is_some_and(|known| known.removed)
    }

    /// Whether a node has one of some roles, removed or not. One that the book does not know yet may
    /// have any, and one without any in its record has all.
    pub fn may_have_one_of(&self, node: NodeId, roles: &[&str]) -> bool {
        let pages = self.pages.load();
        pages.nodes.get(&node).is_none_or(|known| {
            known.roles.is_empty()
                || known
                    .roles
                    .iter()
                    .any(|role| roles.contains(&role.as_str()))
        })
    }

    /// The nodes with a role that were not removed, by id.
    pub fn with_role(&self, role: &str) -> Vec<NodeId> {
        let pages = self.pages.load();
        let serving = pages.nodes.values().filter(|known| known.serves(role));
        serving.map(PeerNode::id).collect()
    }

    /// All nodes, removed ones too.
    pub fn nodes(&self) -> Vec<PeerNode> {
        self.pages.load().nodes.values().cloned().collect()
    }

    /// Addresses to ask when the book does not help: those of the configuration.
    pub fn seeds(&self) -> &[String] {
        &self.seeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(epoch: u64, nodes: &[(u64, &str, bool)]) -> pb::ClusterMap {
        let node = |&(id, address, removed): &(u64, &str, bool)| pb::state::Node {
            id,
            address: address.to_owned(),
            roles: vec!["meta".to_owned()],
            removed,
            ..Default::default()
        };
        pb::ClusterMap {
            epoch,
            nodes: nodes.iter().map(node).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_node_that_was_met_elsewhere_is_there_until_a_map_says_something_new_of_it() {
        let book = AddressBook::in_memory(Vec::new());
        assert!(!book.meet(NodeId(2), "x:1"), "an unknown node");
        let first = map(1, &[(1, "a:1", false), (2, "b:1", false), (3, "c:1", true)]);
        book.take(first.epoch, &first.nodes);
        assert!(!book.meet(NodeId(2), "b:1") && !book.meet(NodeId(3), "x:3"));
        assert!(book.meet(NodeId(2), "x:2") && !book.meet(NodeId(2), "x:2"));
        assert_eq!(book.address(NodeId(2)).as_deref(), Some("x:2"));
        // Node 1 has told the root where it is by now, node 2 has not.
        let second = map(2, &[(1, "a:2", false), (2, "b:1", false)]);
        book.take(second.epoch, &second.nodes);
        assert_eq!(book.address(NodeId(2)).as_deref(), Some("x:2"));
        let third = map(3, &[(1, "a:2", false), (2, "b:2", false)]);
        book.take(third.epoch, &third.nodes);
        assert_eq!(book.address(NodeId(2)).as_deref(), Some("b:2"));
        assert!(book.meet(NodeId(2), "x:2"));
        let fourth = map(4, &[(1, "a:2", false), (2, "b:2", true)]);
        book.take(fourth.epoch, &fourth.nodes);
        assert_eq!(book.address(NodeId(2)), None);
    }

    #[tokio::test]
    async fn what_was_told_wrongly_ends_when_the_root_answers() {
        let runtime = Runtime::system();
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let book = AddressBook::open(&state, "c1", Vec::new()).unwrap();
        let real = map(7, &[(1, "a:1", false)]);
        assert!(book.learn(&runtime, &real).await.unwrap() && !book.is_hearsay());
        // Not newer, or from nowhere.
        for epoch in [6, 7, u64::MAX] {
            let told = map(epoch, &[(1, "evil:1", false)]);
            assert!(!book.learn_told(&runtime, &told).await.unwrap(), "{epoch}");
        }
        let told = map(1_000_000, &[(1, "evil:1", true)]);
        assert!(book.learn_told(&runtime, &told).await.unwrap() && book.is_hearsay());
        assert!(book.is_removed(NodeId(1)));
        // Also by a process that has it from the file.
        let again = AddressBook::open(&state, "c1", Vec::new()).unwrap();
        assert!(again.is_hearsay() && again.is_removed(NodeId(1)));
        for book in [&again, &book] {
            book.learn(&runtime, &real).await.unwrap();
            assert_eq!((book.epoch(), book.is_hearsay()), (7, false));
            assert_eq!(book.address(NodeId(1)).as_deref(), Some("a:1"));
        }
        let kept = AddressBook::open(&state, "c1", Vec::new()).unwrap();
        assert_eq!(kept.epoch(), 7, "the file has it too");
    }

    #[tokio::test]
    async fn the_newest_map_counts_and_is_there_after_a_restart() {
        let runtime = Runtime::system();
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let book = AddressBook::open(&state, "c1", vec!["seed:1".to_owned()]).unwrap();
        assert_eq!(book.epoch(), 0);
        assert_eq!(book.seeds(), ["seed:1"]);
        let second = map(2, &[(1, "a:1", false), (2, "b:1", false)]);
        assert!(book.learn(&runtime, &second).await.unwrap());
        // Late, the same again, and without nodes: nothing changes.
        let late = map(1, &[(1, "z:1", false)]);
        let unchanged = pb::ClusterMap {
            epoch: 2,
            unchanged: true,
            ..Default::default()
        };
        for old in [&late, &second, &unchanged] {
            assert!(!book.learn(&runtime, old).await.unwrap());
        }
        assert_eq!(book.address(NodeId(2)).as_deref(), Some("b:1"));
        let third = map(3, &[(1, "a:2", false), (2, "b:1", true)]);
        assert!(book.learn(&runtime, &third).await.unwrap());
        let again = AddressBook::open(&state, "c1", Vec::new()).unwrap();
        for book in [&book, &again] {
            assert_eq!(book.epoch(), 3);
            assert_eq!(book.address(NodeId(1)).as_deref(), Some("a:2"));
            assert_eq!(book.address(NodeId(2)), None);
            assert!(book.is_removed(NodeId(2)) && !book.is_removed(NodeId(9)));
            assert_eq!(book.with_role("meta"), [NodeId(1)]);
        }
    }
}
