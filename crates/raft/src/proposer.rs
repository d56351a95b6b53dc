//! Batches a group's commands into log entries.
//!
//! An entry takes what is queued when there is room for one more entry in flight, up to its
//! limits; there is no timer, so an idle group adds no delay and a busy one fills its entries. With
//! peers several entries are in flight, or each would wait for the way to them and back of the one
//! before. Without peers there is one: an entry that is written while the disk syncs another waits for
//! that sync all the same, so it may as well take along what comes meanwhile.
//! Order: commands enter the log in the order in which they were queued.
//!
//! When the group is stopped, what waits for an entry is refused at once, and what is in an entry
//! is still answered while [`Proposer::drained`] waits for it.
//!
//! The leader stamps each entry with a time that never goes backwards, across leaders too: before
//! it stamps, it has applied everything earlier leaders stamped. One whose clock is far from its
//! quorum's (`clocks`) stamps nothing: it refuses what is queued and hands over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_runtime::{Runtime, within};
use granary_types::{NodeId, limits};
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::clocks::{is_right, is_wrong};
use crate::health::State;
use crate::lease::{Role, Standing};
use crate::types::{Batch, Callback, Clid, Types};
use crate::{NotLeader, ProposeError, RaftConfig};

/// Commands of one entry at most.
const ENTRY_COMMANDS_MAX: usize = 512;
/// What a command costs in an entry beside its bytes, rounded up.
const COMMAND_OVERHEAD_BYTES: usize = 8;
/// Pause between two attempts to hand over because of the clock: as long as an election may take
/// that such an attempt leads to when the other voter does not take over.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(5);

struct Pending {
    command: Bytes,
    /// It gets an entry of its own.
    alone: bool,
    answer: oneshot::Sender<Result<Bytes, ProposeError>>,
    /// Its share of the queue's bytes, given back with the answer.
    _room: OwnedSemaphorePermit,
}

/// The way into a group's log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Pending>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    standing: Standing,
}

impl Proposer {
    pub(crate) fn start(runtime: &Runtime, standing: Standing, config: &RaftConfig) -> Self {
        let (queue, commands) = mpsc::channel(config.queue_commands);
        let in_flight = Arc::new(Semaphore::new(config.entries_in_flight));
        let entries = Entries {
            runtime: runtime.clone(),
            standing: standing.clone(),
            commands,
            in_flight: Arc::clone(&in_flight),
            in_flight_max: config.entries_in_flight,
            carried: None,
            stamped_ms: 0,
            clock_is_wrong: false,
            hand_over_from: Duration::ZERO,
        };
        runtime.spawn(entries.run());
        let room = Arc::new(Semaphore::new(config.queue_bytes));
        Self {
            queue,
            room,
            room_bytes: config.queue_bytes,
            in_flight,
            in_flight_max: config.entries_in_flight,
            standing,
        }
    }

    /// Waits until no entry is in flight, nor will be; for a group that takes no more commands.
    pub(crate) async fn drained(&self) {
        for _ in 0..self.in_flight_max {
            match self.in_flight.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return,
            }
        }
        self.in_flight.close();
    }

    /// Commands that wait for an entry.
    pub(crate) fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub(crate) async fn propose(
        &self,
        command: Bytes,
        alone: bool,
        deadline: Duration,
    ) -> Result<Bytes, ProposeError> {
        let bytes = command.len();
        if bytes > limits::LOG_ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes });
        }
        if let Role::Following(leader) = self.standing.role() {
            self.standing.health().proposable()?;
            return Err(NotLeader { leader }.into());
        }
        let share = (bytes + COMMAND_OVERHEAD_BYTES).min(self.room_bytes);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(share);
        let room = room.map_err(|_| ProposeError::Busy)?;
        let (answer, answered) = oneshot::channel();
        self.queue
            .try_send(Pending {
                command,
                alone,
                answer,
                _room: room,
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
                mpsc::error::TrySendError::Closed(_) => {
                    let stopped = self.standing.health().proposable();
                    stopped.err().unwrap_or(ProposeError::Stopped)
                }
            })?;
        match within(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            // Dropped unanswered: the group stopped with the entry in flight.
            Ok(Err(_)) => Err(match self.standing.health().state() {
                State::Failed => ProposeError::Failed,
                State::Running | State::Stopped => ProposeError::Unknown,
            }),
            Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// The task that makes entries.
struct Entries {
    runtime: Runtime,
    standing: Standing,
    commands: mpsc::Receiver<Pending>,
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    /// A command that did not fit into the last entry.
    carried: Option<Pending>,
    stamped_ms: u64,
    /// As of the last look; for the log.
    clock_is_wrong: bool,
    /// When to try it again (monotonic).
    hand_over_from: Duration,
}

impl Entries {
    async fn run(mut self) {
        let shutdown = self.runtime.shutdown().clone();
        let mut state = self.standing.health().watch();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            // An error: the group is gone. What is in flight is answered all the same.
            _ = state.wait_for(|state| *state != State::Running) => {}
            () = self.propose_all() => {}
        }
        self.commands.close();
        let stopped = self.standing.health().proposable();
        let outcome = stopped.err().unwrap_or(ProposeError::Stopped);
        let carried = self.carried.take();
        refuse(carried, &outcome);
        while let Ok(pending) = self.commands.try_recv() {
            refuse([pending], &outcome);
        }
    }

    /// Returns when the group has stopped.
    async fn propose_all(&mut self) {
        loop {
            let share = match self.standing.votes_alone() {
                true => self.in_flight_max,
                false => 1,
            };
            let share = u32::try_from(share).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.in_flight).acquire_many_owned(share);
            let Ok(permit) = permit.await else {
                return;
            };
            if self.carried.is_none() {
                let Some(first) = self.commands.recv().await else {
                    return;
                };
                self.carried = Some(first);
            }
            match self.leading().await {
                Ok(Some(_)) if self.may_not_stamp().await => {
                    // Not this node, whoever it will be.
                    let refused = ProposeError::NotLeader(NotLeader { leader: None });
                    refuse(self.collect(), &refused);
                }
                Ok(Some(term)) => {
                    let batch = self.collect();
                    if !batch.is_empty() && self.propose(batch, term, permit).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {
                    let refused = ProposeError::NotLeader(self.standing.not_leader());
                    refuse(self.collect(), &refused);
                }
                Err(Stopped) => return,
            }
        }
    }

    /// The term this node leads, once its first entry is applied; `None` when it does not lead.
    async fn leading(&mut self) -> Result<Option<u64>, Stopped> {
        loop {
            if !self.standing.health().is_running() {
                return Err(Stopped);
            }
            match self.standing.role() {
                Role::Leading(term) => return Ok(Some(term)),
                Role::Following(_) => return Ok(None),
                Role::Starting => {
                    if !self.standing.changed().await {
                        return Err(Stopped);
                    }
                }
            }
        }
    }

    /// True when this node's clock is too far from what a majority's clocks show. It then hands
    /// over: nobody else may lead, and it stamps nothing itself.
    async fn may_not_stamp(&mut self) -> bool {
        let off = self.standing.clocks_off().unwrap_or_default();
        let own = off.get(&self.standing.node()).copied().unwrap_or(0);
        let wrong = is_wrong(own);
        if wrong && !self.clock_is_wrong {
            let shard = self.standing.health().shard().0;
            tracing::warn!(
                shard,
                ahead_ms = own,
                "this node's clock is far from those of the other voters: it hands the shard over; check its time synchronisation"
            );
        }
        self.clock_is_wrong = wrong;
        let now = self.runtime.monotonic();
        if wrong && now >= self.hand_over_from {
            self.hand_over_from = now + HAND_OVER_PAUSE;
            let right = |node: NodeId| off.get(&node).is_some_and(|off_ms| is_right(*off_ms));
            self.standing.hand_over(right).await;
        }
        wrong
    }

    /// Takes what is queued, up to the limits of one entry. Callers that gave up are left out.
    fn collect(&mut self) -> Vec<Pending> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < ENTRY_COMMANDS_MAX {
            let Some(pending) = self
                .carried
                .take()
                .or_else(|| self.commands.try_recv().ok())
            else {
                break;
            };
            if pending.answer.is_closed() {
                continue;
            }
            let cost = match pending.alone {
                true => limits::LOG_ENTRY_BYTES_MAX,
                false => pending.command.len() + COMMAND_OVERHEAD_BYTES,
            };
            if !batch.is_empty() && bytes + cost > limits::LOG_ENTRY_BYTES_MAX {
                self.carried = Some(pending);
                break;
            }
            bytes += cost;
            batch.push(pending);
        }
        batch
    }

    async fn propose(
        &mut self,
        batch: Vec<Pending>,
        term: u64,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Stopped> {
        let now_ms = self.runtime.now().as_millis();
        self.stamped_ms = now_ms
            .max(self.stamped_ms)
            .max(self.standing.applied().time_ms);
        let entry = Batch {
            time_ms: self.stamped_ms,
            entropy: self.runtime.entropy().next_u64(),
            commands: batch
                .iter()
                .map(|pending| pending.command.clone())
                .collect(),
        };
        let answer = Callback::new(move |outcome| {
            answer(batch, outcome);
            drop(permit);
        });
        // The library refuses the entry when the term is over: the stamps are this term's.
        let written = self
            .standing
            .raft()
            .write(entry)
            .with_leader(Clid::new(term));
        written.responder(answer).await.map_err(|_| Stopped)
    }
}

/// The group no longer runs.
struct Stopped;

fn refuse(batch: impl IntoIterator<Item = Pending>, error: &ProposeError) {
    for pending in batch {
        // A caller that gave up does not care.
        let _ = pending.answer.send(Err(error.clone()));
    }
}

fn answer(batch: Vec<Pending>, outcome: ClientWriteResult<Types>) {
    match outcome {
        Ok(response) => {
            for (pending, answer) in batch.into_iter().zip(response.data) {
                let _ = pending.answer.send(Ok(answer));
            }
        }
        Err(ClientWriteError::ForwardToLeader(forward)) => {
            let leader = forward.leader_id.map(NodeId);
            refuse(batch, &ProposeError::NotLeader(NotLeader { leader }));
        }
        Err(_) => refuse(batch, &ProposeError::Unknown),
    }
}
