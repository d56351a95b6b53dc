//! Whether a group still runs on this node, and what stopped the first one of the node that failed.
//!
//! The first word counts: a group that was stopped does not fail afterwards, and one that failed
//! stays failed. Whoever notices a failure (log, state machine, consensus library) says so here.

use std::fmt::Display;
use std::sync::Arc;

use granary_types::ShardId;
use tokio::sync::watch;

use crate::ProposeError;

/// Why a node can't go on: its store, or one shard's log or state machine, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", shard.map(|shard| format!("shard {shard}: ")).unwrap_or_default())]
pub struct RaftFailure {
    /// Which shard noticed it first; `None` when the store's sync failed.
    pub shard: Option<ShardId>,
    /// What happened.
    pub reason: Arc<str>,
}

/// The first failure of a node. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct HostHealth {
    failure: watch::Sender<Option<RaftFailure>>,
}

impl HostHealth {
    pub(crate) fn fail(&self, shard: Option<ShardId>, reason: &dyn Display) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                let reason = reason.to_string().into();
                *failure = Some(RaftFailure { shard, reason });
            }
            first
        });
    }

    pub(crate) fn failure(&self) -> Option<RaftFailure> {
        self.failure.borrow().clone()
    }

    /// Waits for the first failure, for ever if there is none.
    pub(crate) async fn failed(&self) -> RaftFailure {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(failure) = failure.borrow_and_update().clone() {
                return failure;
            }
            if failure.changed().await.is_err() {
                // `self` holds the sender: it can't be dropped meanwhile.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What has become of a group on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// Stopped on purpose.
    Stopped,
    /// Its log or state machine failed.
    Failed,
}

/// One group's state. Clones share it.
#[derive(Clone)]
pub(crate) struct Health {
    shard: ShardId,
    state: watch::Sender<State>,
    host: HostHealth,
}

impl Health {
    pub(crate) fn new(shard: ShardId, host: HostHealth) -> Self {
        let state = watch::Sender::new(State::Running);
        Self { shard, state, host }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state() == State::Running
    }

    /// What a proposal is told that can't be taken any more.
    pub(crate) fn proposable(&self) -> Result<(), ProposeError> {
        match self.state() {
            State::Running => Ok(()),
            State::Stopped => Err(ProposeError::Stopped),
            State::Failed => Err(ProposeError::Failed),
        }
    }

    /// A receiver that sees the next change.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn stop(&self) {
        self.leave(State::Stopped);
    }

    pub(crate) fn fail(&self, reason: &dyn Display) {
        if self.leave(State::Failed) {
            self.host.fail(Some(self.shard), reason);
        }
    }

    fn leave(&self, to: State) -> bool {
        self.state.send_if_modified(|state| {
            let runs = *state == State::Running;
            if runs {
                *state = to;
            }
            runs
        })
    }
}
