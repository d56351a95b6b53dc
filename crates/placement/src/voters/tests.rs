//! Plans are carried out on a model, step by step, while nodes come and go.

use super::*;

const WANTED: usize = 3;

/// A small generator, so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

struct Model {
    seed: u64,
    dice: Dice,
    nodes: Vec<MetaMember>,
    shards: Vec<ShardReplicas>,
    zones: usize,
    /// Voters that changes brought in.
    moved: usize,
}

fn node(id: u64, zone: usize) -> MetaMember {
    MetaMember {
        id: NodeId(id),
        zone: format!("z{zone}"),
        removed: false,
        reachable: true,
    }
}

fn set(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn shard(id: u32, voters: &[u64]) -> ShardReplicas {
    ShardReplicas {
        shard: ShardId(id),
        leader: voters.first().copied().map(NodeId),
        voters: set(voters),
        learners: BTreeSet::new(),
        changing: false,
        open: set(voters),
        caught_up: set(voters),
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let zones = 1 + dice.below(4);
        let shards = 1 + dice.below(20);
        let shards = (0..shards).map(|id| shard(u32::try_from(id).unwrap(), &[1]));
        Self {
            seed,
            nodes: vec![node(1, 0)],
            shards: shards.collect(),
            zones,
            moved: 0,
            dice,
        }
    }

    fn add_node(&mut self) {
        let id = self.nodes.len() as u64 + 1;
        let zone = self.dice.below(self.zones);
        self.nodes.push(node(id, zone));
    }

    fn in_service(&self) -> BTreeSet<NodeId> {
        let nodes = self.nodes.iter().filter(|node| !node.removed);
        nodes.map(|node| node.id).collect()
    }

    fn alive(&self) -> BTreeSet<NodeId> {
        let nodes = self
            .nodes
            .iter()
            .filter(|node| !node.removed && node.reachable);
        nodes.map(|node| node.id).collect()
    }

    /// Gives up a node, unless a shard would lose its quorum with it.
    fn remove_node(&mut self) {
        let alive = self.alive();
        let nth = self.dice.below(alive.len());
        let id = alive.iter().copied().nth(nth).unwrap();
        let survives = self.shards.iter().all(|shard| {
            let left = shard
                .voters
                .iter()
                .filter(|v| **v != id && alive.contains(v));
            2 * left.count() > shard.voters.len() && !shard.changing
        });
        if alive.len() > 1 && survives {
            let node = self.nodes.iter_mut().find(|node| node.id == id).unwrap();
            node.removed = true;
            self.elect();
        }
    }

    /// Dead leaders are replaced, and members that are alive catch up some time.
    fn elect(&mut self) {
        let alive = self.alive();
        for shard in &mut self.shards {
            let fit = |id: &NodeId| alive.contains(id) && shard.caught_up.contains(id);
            if !shard.leader.is_some_and(|leader| fit(&leader)) {
                shard.leader = shard.voters.iter().copied().find(fit);
            }
        }
    }

    fn catch_up(&mut self) {
        let alive = self.alive();
        for shard in &mut self.shards {
            for id in shard.voters.union(&shard.learners) {
                if alive.contains(id) && shard.open.contains(id) && !self.dice.one_in(3) {
                    shard.caught_up.insert(*id);
                }
            }
        }
        self.elect();
    }

    fn check(&self, steps: &[VoterStep]) {
        let why = format!("seed {}: {steps:?}", self.seed);
        let mut shards = BTreeSet::new();
        let mut joining = BTreeMap::new();
        for shard in &self.shards {
            for learner in &shard.learners {
                *joining.entry(*learner).or_insert(0) += 1;
            }
        }
        for step in steps {
            assert!(shards.insert(step.shard()), "two steps of a shard, {why}");
            if let VoterStep::AddLearner { node, .. } = step {
                let count = joining.entry(*node).or_insert(0);
                *count += 1;
                assert!(*count <= 1, "node {node} joins twice, {why}");
            }
        }
    }

    fn apply(&mut self, step: &VoterStep) {
        let alive = self.alive();
        let why = format!("seed {}: {step:?}", self.seed);
        let in_service = self.in_service();
        let odd = in_service.len() - usize::from(in_service.len().is_multiple_of(2));
        let id = step.shard();
        let shard = self.shards.iter_mut().find(|s| s.shard == id).unwrap();
        match step {
            VoterStep::OpenReplica { node, .. } => {
                assert!(alive.contains(node), "{why}");
                shard.open.insert(*node);
            }
            VoterStep::AddLearner { node, .. } => {
                assert!(alive.contains(node) && shard.open.contains(node), "{why}");
                shard.learners.insert(*node);
            }
            VoterStep::TransferLeader { to, .. } => {
                assert!(
                    shard.voters.contains(to) && shard.caught_up.contains(to),
                    "{why}"
                );
                assert!(alive.contains(to), "{why}");
                shard.leader = Some(*to);
            }
            VoterStep::ChangeVoters { voters, .. } => {
                for new in voters.difference(&shard.voters) {
                    assert!(shard.learners.contains(new), "{why}");
                    assert!(shard.caught_up.contains(new), "{why}");
                }
                assert!(voters.len() % 2 == 1, "an even number, {why}");
                let healthy = |set: &BTreeSet<NodeId>| {
                    let able =
                        |id: &&NodeId| in_service.contains(id) && shard.caught_up.contains(id);
                    set.iter().filter(able).count()
                };
                let (before, after) = (healthy(&shard.voters), healthy(voters));
                let enough = after >= before || (shard.changing && after >= WANTED.min(odd));
                assert!(enough, "{before} healthy voters become {after}, {why}");
                let quorum = voters.iter().filter(|id| alive.contains(id)).count();
                assert!(2 * quorum > voters.len(), "no quorum is left, {why}");
                self.moved += voters.difference(&shard.voters).count();
                let left: Vec<NodeId> = shard.voters.difference(voters).copied().collect();
                for id in left {
                    shard.open.remove(&id);
                }
                if self.dice.one_in(5) && !shard.changing && *voters != shard.voters {
                    // The leader died in the middle: both sets agree from now on.
                    shard.voters.extend(voters.iter().copied());
                    shard.open.extend(shard.voters.iter().copied());
                    shard.changing = true;
                    shard.learners.clear();
                } else {
                    shard.voters.clone_from(voters);
                    shard.changing = false;
                    shard.learners.clear();
                }
                shard.caught_up.retain(|id| shard.voters.contains(id));
                self.elect();
            }
        }
    }

    fn plan(&self) -> Vec<VoterStep> {
        plan_voters(&self.nodes, &self.shards, WANTED)
    }

    /// Steps and time, until nothing is left to do.
    fn converge(&mut self) {
        for _ in 0..2000 {
            self.catch_up();
            let steps = self.plan();
            self.check(&steps);
            let lagging = self.shards.iter().any(|shard| {
                let members = shard.voters.union(&shard.learners);
                let alive = self.alive();
                members
                    .clone()
                    .any(|id| alive.contains(id) && !shard.caught_up.contains(id))
            });
            if steps.is_empty() && !lagging {
                return;
            }
            for step in &steps {
                if !self.dice.one_in(4) {
                    self.apply(step);
                }
            }
        }
        panic!("seed {}: no end, next {:?}", self.seed, self.plan());
    }

    fn check_converged(&self) {
        let seed = self.seed;
        let in_service = self.in_service();
        let zone = |id: &NodeId| &self.nodes.iter().find(|n| n.id == *id).unwrap().zone;
        let zones: BTreeSet<_> = in_service.iter().map(zone).collect();
        let odd = in_service.len() - usize::from(in_service.len().is_multiple_of(2));
        let mut load: BTreeMap<NodeId, usize> = in_service.iter().map(|id| (*id, 0)).collect();
        let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
        for shard in &self.shards {
            let voters = &shard.voters;
            assert!(
                !shard.changing && shard.learners.is_empty(),
                "seed {seed}: {shard:?}"
            );
            let kept = voters.iter().filter(|id| in_service.contains(id)).count();
            assert!(
                kept >= WANTED.min(odd),
                "seed {seed}: {shard:?}, {in_service:?}"
            );
            if voters.is_subset(&in_service) {
                let spread: BTreeSet<_> = voters.iter().map(zone).collect();
                assert_eq!(
                    spread.len(),
                    zones.len().min(voters.len()),
                    "seed {seed}: {shard:?}"
                );
            }
            for id in voters.iter().filter(|id| in_service.contains(id)) {
                *load.entry(*id).or_default() += 1;
                led.entry(*id).or_default();
            }
            *led.get_mut(&shard.leader.unwrap()).unwrap() += 1;
        }
        // Within a zone, or where there are not more zones than voters to choose from.
        if zones.len() == 1 && in_service.len() >= WANTED && self.whole() {
            let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
            assert!(most - least <= 1, "seed {seed}: {load:?}");
            let (least, most) = (led.values().min().unwrap(), led.values().max().unwrap());
            assert!(most - least <= 1, "seed {seed}: leaders {led:?}");
        }
    }

    fn whole(&self) -> bool {
        let in_service = self.in_service();
        let mut shards = self.shards.iter();
        shards.all(|shard| shard.voters.is_subset(&in_service))
    }
}

#[test]
fn whatever_comes_and_goes_it_converges_and_never_risks_a_quorum() {
    for seed in 0..300 {
        let mut model = Model::new(seed);
        model.converge();
        for _ in 0..12 {
            for _ in 0..model.dice.below(4) {
                match model.dice.below(3) {
                    0 => model.remove_node(),
                    _ => model.add_node(),
                }
            }
            // Some of the way, or all of it.
            if model.dice.one_in(3) {
                for _ in 0..model.dice.below(6) {
                    model.catch_up();
                    for step in model.plan() {
                        model.apply(&step);
                    }
                }
            } else {
                model.converge();
                model.check_converged();
            }
        }
        model.converge();
        model.check_converged();
    }
}

#[test]
fn a_removed_node_moves_its_own_places_and_no_others() {
    for seed in 0..50 {
        let mut model = Model::new(seed);
        for _ in 0..6 {
            model.add_node();
        }
        model.zones = 1;
        for node in &mut model.nodes {
            node.zone = "z0".to_owned();
        }
        model.converge();
        let (before, was) = (model.moved, model.shards.clone());
        let lost = NodeId(1 + model.dice.below(7) as u64);
        model
            .nodes
            .iter_mut()
            .find(|n| n.id == lost)
            .unwrap()
            .removed = true;
        model.elect();
        model.converge();
        let held = was
            .iter()
            .filter(|shard| shard.voters.contains(&lost))
            .count();
        let moved = model.moved - before;
        assert!(
            moved <= held + held / 2 + 1,
            "seed {seed}: {moved} for {held}"
        );
        assert!(model.whole(), "seed {seed}");
    }
}

/// One voter becomes three at once: two would be worse than one.
#[test]
fn the_number_of_voters_is_never_even() {
    let nodes = [node(1, 0), node(2, 1), node(3, 2)];
    let mut one = shard(0, &[1]);
    let step = |shard: &ShardReplicas| plan_voters(&nodes, std::slice::from_ref(shard), 3);
    let open = |node| VoterStep::OpenReplica {
        shard: ShardId(0),
        node: NodeId(node),
    };
    let add = |node| VoterStep::AddLearner {
        shard: ShardId(0),
        node: NodeId(node),
    };
    assert_eq!(step(&one), [open(2)]);
    one.open.insert(NodeId(2));
    assert_eq!(step(&one), [add(2)]);
    one.learners.insert(NodeId(2));
    one.caught_up.insert(NodeId(2));
    assert_eq!(step(&one), [open(3)]);
    one.open.insert(NodeId(3));
    assert_eq!(step(&one), [add(3)]);
    one.learners.insert(NodeId(3));
    assert_eq!(step(&one), [], "it has not caught up");
    one.caught_up.insert(NodeId(3));
    let all = VoterStep::ChangeVoters {
        shard: ShardId(0),
        voters: set(&[1, 2, 3]),
    };
    assert_eq!(step(&one), [all]);
    assert_eq!(
        plan_voters(&nodes[..2], &[shard(0, &[1])], 3),
        [],
        "two nodes: one voter"
    );
}

/// When a cluster has just begun, its nodes tell the root of themselves one after the other.
#[test]
fn voters_that_the_map_does_not_name_yet_stay() {
    let shards = vec![shard(0, &[1, 2, 3]), shard(1, &[1, 2, 3])];
    for known in [vec![], vec![node(1, 0)], vec![node(1, 0), node(3, 0)]] {
        let steps = plan_voters(&known, &shards, 3);
        let changes = |step: &VoterStep| !matches!(step, VoterStep::TransferLeader { .. });
        assert!(!steps.iter().any(changes), "{known:?}: {steps:?}");
    }
}

/// The last node that is up to date keeps the lead, and a removed one without a successor its vote.
#[test]
fn what_would_cost_a_copy_is_not_done() {
    let mut nodes = vec![node(1, 0), node(2, 0), node(3, 0)];
    let mut shards = vec![shard(0, &[1, 2, 3]), shard(1, &[1, 2, 3])];
    for shard in &mut shards {
        shard.caught_up = set(&[1]);
    }
    assert_eq!(plan_voters(&nodes, &shards, 3), []);
    shards[1].caught_up = set(&[1, 3]);
    let to = |to| VoterStep::TransferLeader {
        shard: ShardId(1),
        to: NodeId(to),
    };
    assert_eq!(plan_voters(&nodes, &shards, 3), [to(3)]);
    nodes[2].removed = true;
    let mut three = vec![shard(0, &[1, 2, 3])];
    assert_eq!(
        plan_voters(&nodes, &three, 3),
        [],
        "two healthy ones stay three"
    );
    nodes[1].removed = true;
    let one = VoterStep::ChangeVoters {
        shard: ShardId(0),
        voters: set(&[1]),
    };
    assert_eq!(plan_voters(&nodes, &three, 3), [one]);
    // A voter that never opened its replica opens it.
    nodes[1].removed = false;
    nodes[2].removed = false;
    three[0].open = set(&[1, 2]);
    let open = VoterStep::OpenReplica {
        shard: ShardId(0),
        node: NodeId(3),
    };
    assert_eq!(plan_voters(&nodes, &three, 3), [open]);
}
