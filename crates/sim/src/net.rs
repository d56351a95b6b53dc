//! Messages between endpoints, one fault decision per message, all from the seed.
//!
//! A message is a request that is executed at the receiver and answered; what a caller sees of a
//! lost request and of a lost reply is the same: nothing, until its own limit. Requests may be
//! delivered twice, and out of order. An endpoint lives several lives ([`Life`]); what a dead life
//! sends is dropped, and what it was executing ends with it.
//!
//! It knows the three services by name only ([`Services`]); what they say is not its business.

mod blob_link;
mod control_link;
mod meta_link;
mod raft_link;

pub use blob_link::BlobLinks;
pub use control_link::ControlLinks;
pub use meta_link::MetaLink;
pub use raft_link::RaftLink;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use granary_blob_api::BlobNode;
use granary_meta_api::{MetaControl, MetaService};
use granary_raft::RaftHost;
use granary_runtime::{CancellationToken, Runtime, within};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Findings;
use crate::trace::Trace;

/// A node (its node id) or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(pub u64);

/// One life of an endpoint: from a start to the next crash.
#[derive(Clone, Debug)]
pub struct Life {
    /// Whose.
    pub endpoint: Endpoint,
    /// The first is 1.
    pub number: u64,
    /// Clock, entropy and tasks of this life.
    pub runtime: Runtime,
    dead: CancellationToken,
}

impl Life {
    /// Completes when the life ends.
    pub fn ended(&self) -> &CancellationToken {
        &self.dead
    }
}

/// What an endpoint serves, as far as it is up.
#[derive(Clone, Default)]
pub struct Services {
    /// Its Raft groups.
    pub raft: Option<Arc<RaftHost>>,
    /// Its part of the metadata service.
    pub meta: Option<Arc<dyn MetaService>>,
    /// Its replicas of the shards.
    pub control: Option<Arc<dyn MetaControl>>,
    /// Its disks.
    pub blob: Option<Arc<dyn BlobNode>>,
}

/// Why a message has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetError {
    /// Nobody listens there: nothing was executed.
    Refused,
    /// Whether it was executed is unknown.
    NoAnswer,
}

/// What the links do to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkQuality {
    /// Shortest way of a message, in microseconds.
    pub latency_us: u64,
    /// What is added to it at random, in microseconds.
    pub jitter_us: u64,
    /// One message in a thousand times this many is slow.
    pub slow_per_mille: u32,
    /// What is added to a slow message at random, in microseconds.
    pub slow_us: u64,
    /// Requests and replies lost, of a thousand.
    pub loss_per_mille: u32,
    /// Requests delivered twice, of a thousand.
    pub duplicate_per_mille: u32,
}

/// A message about to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// What it is, for the trace.
    pub label: &'static str,
    /// Anything that tells two of them apart, for the trace.
    pub detail: u64,
    /// How long its sender waits for the answer.
    pub timeout: Duration,
}

struct State {
    rng: StdRng,
    quality: LinkQuality,
    degraded: BTreeMap<(Endpoint, Endpoint), LinkQuality>,
    blocked: BTreeSet<(Endpoint, Endpoint)>,
    stalled: BTreeMap<Endpoint, Instant>,
    lives: BTreeMap<Endpoint, (Life, Services)>,
    born: BTreeMap<Endpoint, u64>,
}

/// Every link of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct SimNet {
    runtime: Runtime,
    trace: Arc<Trace>,
    findings: Findings,
    state: Arc<Mutex<State>>,
}

/// The longest a duplicate of a request is under way.
const DUPLICATE_DELAY_MS_MAX: u64 = 4000;

struct Plan {
    delay: Duration,
    lost: bool,
    duplicate: Option<Duration>,
    /// Losing its caller ends the execution, as an aborted stream does.
    ends_with_caller: bool,
    /// A receiver that is down says so, instead of saying nothing.
    resets: bool,
}

impl SimNet {
    /// A network of links that are all alike.
    pub fn new(
        runtime: Runtime,
        trace: Arc<Trace>,
        findings: Findings,
        seed: u64,
        quality: LinkQuality,
    ) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            quality,
            degraded: BTreeMap::new(),
            blocked: BTreeSet::new(),
            stalled: BTreeMap::new(),
            lives: BTreeMap::new(),
            born: BTreeMap::new(),
        };
        Self {
            runtime,
            trace,
            findings,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Where events are noted.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    /// Where broken promises are reported.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Starts an endpoint's next life, under a runtime of its own.
    pub fn begin_life(&self, endpoint: Endpoint, runtime: Runtime) -> Life {
        let mut state = self.state.lock();
        let number = state.born.entry(endpoint).or_default();
        *number += 1;
        let life = Life {
            endpoint,
            number: *number,
            runtime,
            dead: CancellationToken::new(),
        };
        state
            .lives
            .insert(endpoint, (life.clone(), Services::default()));
        life
    }

    /// Ends a life: nothing it sends arrives any more, and nothing sent to it is executed.
    pub fn end_life(&self, life: &Life) {
        let mut state = self.state.lock();
        if state
            .lives
            .get(&life.endpoint)
            .is_some_and(|(other, _)| other.number == life.number)
        {
            state.lives.remove(&life.endpoint);
        }
        drop(state);
        life.dead.cancel();
        life.runtime.shutdown().cancel();
    }

    /// Makes services reachable for the rest of a life.
    pub fn serve(&self, life: &Life, services: Services) {
        if let Some((current, served)) = self.state.lock().lives.get_mut(&life.endpoint)
            && current.number == life.number
        {
            *served = services;
        }
    }

    /// Cuts messages from one endpoint to another.
    pub fn block(&self, from: Endpoint, to: Endpoint) {
        self.state.lock().blocked.insert((from, to));
    }

    /// Gives one direction of a link another quality.
    pub fn degrade(&self, from: Endpoint, to: Endpoint, quality: LinkQuality) {
        self.state.lock().degraded.insert((from, to), quality);
    }

    /// Holds everything to and from an endpoint back for a while; nothing is lost.
    pub fn stall(&self, endpoint: Endpoint, duration: Duration) {
        self.state
            .lock()
            .stalled
            .insert(endpoint, Instant::now() + duration);
    }

    /// Takes back every fault of one endpoint's links.
    pub fn heal(&self, endpoint: Endpoint) {
        let mut state = self.state.lock();
        let touches = |link: &(Endpoint, Endpoint)| link.0 == endpoint || link.1 == endpoint;
        state.blocked.retain(|link| !touches(link));
        state.degraded.retain(|link, _| !touches(link));
        state.stalled.remove(&endpoint);
    }

    /// Takes back every fault, and gives every link this quality.
    pub fn heal_all(&self, quality: LinkQuality) {
        let mut state = self.state.lock();
        state.quality = quality;
        state.blocked.clear();
        state.degraded.clear();
        state.stalled.clear();
    }

    /// Sends a request that `serve` executes at the receiver, and waits for the answer.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn call<T, S, F>(
        &self,
        from: &Life,
        to: Endpoint,
        message: Message,
        serve: S,
    ) -> Result<T, NetError>
    where
        S: Fn(Services) -> F + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let plan = self.plan(from.endpoint, to);
        let ends_with_caller = plan.ends_with_caller;
        let delivery = self
            .clone()
            .deliver(from.clone(), to, message, plan, serve, answer);
        let task = self.runtime.spawn(delivery);
        let _guard = ends_with_caller.then(|| AbortOnDrop(task.abort_handle()));
        match within(message.timeout, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(NetError::NoAnswer),
        }
    }

    fn plan(&self, from: Endpoint, to: Endpoint) -> Plan {
        let mut state = self.state.lock();
        let quality = state.quality(from, to);
        let delay = state.delay(quality);
        Plan {
            delay,
            lost: state.one_of_mille(quality.loss_per_mille),
            duplicate: state
                .one_of_mille(quality.duplicate_per_mille)
                .then(|| Duration::from_millis(state.rng.random_range(0..DUPLICATE_DELAY_MS_MAX))),
            ends_with_caller: state.one_of_mille(300),
            resets: state.one_of_mille(500),
        }
    }

    async fn deliver<T, S, F>(
        self,
        from: Life,
        to: Endpoint,
        message: Message,
        plan: Plan,
        serve: S,
        mut answer: oneshot::Sender<Result<T, NetError>>,
    ) where
        S: Fn(Services) -> F + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        if plan.lost || !self.travel(&from, from.endpoint, to, plan.delay).await {
            return answer.closed().await;
        }
        let Some((life, services)) = self.receiver(to) else {
            if plan.resets {
                let _ = answer.send(Err(NetError::Refused));
                return;
            }
            return answer.closed().await;
        };
        self.trace.record(
            message.label,
            &[
                from.endpoint.0,
                from.number,
                to.0,
                life.number,
                message.detail,
            ],
        );
        if let Some(later) = plan.duplicate {
            self.repeat(&from, &life, message, later, serve(services.clone()));
        }
        let served = tokio::select! {
            biased;
            () = life.dead.cancelled() => None,
            served = serve(services) => Some(served),
        };
        let Some(served) = served else {
            if !plan.resets {
                answer.closed().await;
            }
            return;
        };
        let back = self.plan(to, from.endpoint);
        if back.lost || !self.travel(&life, to, from.endpoint, back.delay).await {
            self.trace.count("reply lost");
            return answer.closed().await;
        }
        let _ = answer.send(Ok(served));
    }

    /// Delivers a request once more, later; its answer finds nobody.
    fn repeat<F>(&self, from: &Life, to: &Life, message: Message, later: Duration, serve: F)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let (net, to, from) = (self.clone(), to.clone(), from.endpoint);
        self.runtime.spawn(async move {
            let served = async {
                net.runtime.sleep(later).await;
                net.trace
                    .record("repeat", &[from.0, to.endpoint.0, message.detail]);
                serve.await;
            };
            tokio::select! {
                biased;
                () = to.dead.cancelled() => {}
                () = served => {}
            }
        });
    }

    /// The way of one message; false when it does not arrive.
    async fn travel(&self, sender: &Life, from: Endpoint, to: Endpoint, delay: Duration) -> bool {
        if sender.dead.is_cancelled() || self.is_blocked(from, to) {
            return false;
        }
        self.runtime.sleep(delay).await;
        while let Some(until) = self.stalled(from).max(self.stalled(to)) {
            tokio::time::sleep_until(until).await;
        }
        !self.is_blocked(from, to)
    }

    fn is_blocked(&self, from: Endpoint, to: Endpoint) -> bool {
        self.state.lock().blocked.contains(&(from, to))
    }

    fn stalled(&self, endpoint: Endpoint) -> Option<Instant> {
        let until = self.state.lock().stalled.get(&endpoint).copied();
        until.filter(|until| *until > Instant::now())
    }

    fn receiver(&self, to: Endpoint) -> Option<(Life, Services)> {
        self.state.lock().lives.get(&to).cloned()
    }

    /// A choice of the network's own, from the seed.
    pub(crate) fn one_of(&self, mille: u32) -> bool {
        self.state.lock().one_of_mille(mille)
    }

    /// A number below `bound`, from the seed.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.state.lock().rng.random_range(0..bound.max(1))
    }
}

impl State {
    fn quality(&self, from: Endpoint, to: Endpoint) -> LinkQuality {
        if from == to {
            // The same process: no network.
            return LinkQuality {
                latency_us: 1,
                jitter_us: 20,
                slow_per_mille: 0,
                slow_us: 0,
                loss_per_mille: 0,
                duplicate_per_mille: 0,
            };
        }
        self.degraded
            .get(&(from, to))
            .copied()
            .unwrap_or(self.quality)
    }

    fn delay(&mut self, quality: LinkQuality) -> Duration {
        let mut micros = quality.latency_us + self.rng.random_range(0..=quality.jitter_us);
        if self.one_of_mille(quality.slow_per_mille) {
            micros += self.rng.random_range(0..=quality.slow_us);
        }
        Duration::from_micros(micros)
    }

    fn one_of_mille(&mut self, mille: u32) -> bool {
        self.rng.random_range(0..1000) < mille
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
