//! The consensus library's view of a [`StateMachine`]: applies, snapshots, restores.
//!
//! Invariants: entries are applied in order without a gap, each exactly once as far as the
//! bookkeeping tells; every command is answered by position; the first error stops the group, is
//! logged here and told to its [`Health`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use granary_runtime::Runtime;
use granary_types::ShardId;
use openraft::entry::RaftEntry;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{mpsc, watch};

use crate::format::Bookkeeping;
use crate::health::Health;
use crate::log_store::LogStore;
use crate::snapshot::{self, SnapshotData, Stage, decode_books};
use crate::types::{
    Entry, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, Types, io_error,
};
use crate::{Committed, StateMachine, StateMachineError};

/// Entries of one write batch at most.
const APPLY_ENTRIES_MAX: usize = 256;
/// Weight of commands (see [`StateMachine::weigh`]) after which a write batch is closed.
const APPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Weight of commands that are applied on an async thread at most, where memory suffices: changing
/// threads twice would take longer, and other tasks wait no longer than about a millisecond.
const AT_ONCE_BYTES_MAX: usize = 128 * 1024;
/// Their number at most.
const AT_ONCE_COMMANDS_MAX: usize = 32;

/// How far the state machine is, as readers and the proposer see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) id: Option<LogId>,
    /// The newest leader's time among the applied entries.
    pub(crate) time_ms: u64,
}

impl Applied {
    fn of(books: &Bookkeeping) -> Self {
        Self {
            id: books.applied,
            time_ms: books.time_ms,
        }
    }
}

/// One shard's state machine, driven by the consensus library.
pub(crate) struct Machine {
    shard: ShardId,
    inner: Arc<dyn StateMachine>,
    runtime: Runtime,
    stage: Stage,
    books: Bookkeeping,
    applied: watch::Sender<Applied>,
    health: Health,
    log: LogStore,
    alive: mpsc::Sender<()>,
    /// The library's own suite applies entries from the middle of nowhere.
    #[cfg(any(test, feature = "testsuite"))]
    pub(crate) gaps_allowed: bool,
}

/// What the rest of the group sees of its state machine.
pub(crate) struct MachineView {
    pub(crate) applied: watch::Receiver<Applied>,
    /// Ends when the library has let go of the state machine: nothing is applied any more.
    pub(crate) alive: mpsc::Receiver<()>,
}

impl Machine {
    /// Loads the bookkeeping, after finishing an interrupted restore. Blocks.
    pub(crate) fn open(
        shard: ShardId,
        inner: Arc<dyn StateMachine>,
        log: LogStore,
        stage: Stage,
    ) -> Result<(Self, MachineView), StateMachineError> {
        stage.recover(inner.as_ref())?;
        let books = load(inner.as_ref())?;
        let (applied, watcher) = watch::channel(Applied::of(&books));
        let (alive, ended) = mpsc::channel(1);
        let machine = Self {
            shard,
            inner,
            runtime: log.runtime().clone(),
            stage,
            books,
            applied,
            health: log.health().clone(),
            log,
            alive,
            #[cfg(any(test, feature = "testsuite"))]
            gaps_allowed: false,
        };
        let view = MachineView {
            applied: watcher,
            alive: ended,
        };
        Ok((machine, view))
    }

    fn fail(&self, doing: &'static str, error: StateMachineError) -> io::Error {
        if self.health.is_running() {
            tracing::error!(shard = %self.shard, %error, "{doing} failed, the shard stops on this node");
        }
        self.health.fail(&error);
        io_error(error)
    }

    /// Refuses an entry that is not the next one: what is skipped or applied twice is never found
    /// out later.
    fn check_follows(&self, applied: Option<LogId>, entry: &Entry) -> io::Result<()> {
        let expected = applied.map_or(0, |id| id.index + 1);
        let index = entry.log_id.index;
        if index == expected {
            return Ok(());
        }
        #[cfg(any(test, feature = "testsuite"))]
        if self.gaps_allowed {
            return Ok(());
        }
        let error = StateMachineError::Corrupt {
            what: "the log",
            reason: format!("entry {index} was given to be applied where {expected} is next"),
        };
        Err(self.fail("applying", error))
    }

    /// Nobody reads applied entries again in a group of one.
    fn release_applied(&self) {
        let membership = self.books.membership.membership();
        if membership.nodes().count() <= 1
            && let Some(id) = self.books.applied
        {
            self.log.forget_recent(id.index);
        }
    }

    async fn blocking<T, F>(&self, doing: &'static str, call: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, StateMachineError> + Send + 'static,
    {
        let outcome = self.runtime.blocking(call).await.map_err(io_error)?;
        outcome.map_err(|error| self.fail(doing, error))
    }

    fn set_books(&mut self, books: Bookkeeping) {
        self.applied.send_replace(Applied::of(&books));
        self.books = books;
    }

    /// Has the state machine apply the entries: here when there are few and memory suffices.
    async fn answers_of(
        &self,
        entries: Vec<Committed>,
        bookkeeping: Bytes,
        few: bool,
    ) -> io::Result<Vec<Vec<Bytes>>> {
        if few {
            let applied = self.inner.apply_at_once(&entries, &bookkeeping);
            let applied = applied.map_err(|error| self.fail("applying", error))?;
            if let Some(answers) = applied {
                return Ok(answers);
            }
        }
        let inner = Arc::clone(&self.inner);
        self.blocking("applying", move || inner.apply(entries, bookkeeping))
            .await
    }

    async fn apply_chunk(
        &mut self,
        entries: Vec<Entry>,
        responders: Vec<Option<ApplyResponder<Types>>>,
        bytes: usize,
    ) -> io::Result<()> {
        let mut books = self.books.clone();
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            committed.push(commit(&mut books, entry));
        }
        let expected: Vec<usize> = committed.iter().map(|entry| entry.commands.len()).collect();
        let few =
            bytes <= AT_ONCE_BYTES_MAX && expected.iter().sum::<usize>() <= AT_ONCE_COMMANDS_MAX;
        let answers = self.answers_of(committed, books.encode(), few).await?;
        check_answers(&answers, &expected).map_err(|error| self.fail("applying", error))?;
        // Before the answers, so that whoever got one can read it.
        self.set_books(books);
        self.release_applied();
        for (responder, answers) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        Ok(())
    }
}

fn load(inner: &dyn StateMachine) -> Result<Bookkeeping, StateMachineError> {
    match inner.load_bookkeeping()? {
        Some(bytes) => decode_books(&bytes),
        None => Ok(Bookkeeping::default()),
    }
}

/// Moves the bookkeeping past `entry`.
pub(crate) fn commit(books: &mut Bookkeeping, entry: Entry) -> Committed {
    let log_id = entry.log_id;
    books.applied = Some(log_id);
    if let Some(membership) = entry.get_membership() {
        books.membership = StoredMembership::new(Some(log_id), membership);
    }
    let (entropy, commands) = match entry.payload {
        Payload::Normal(batch) => {
            books.time_ms = books.time_ms.max(batch.time_ms);
            (batch.entropy, batch.commands)
        }
        Payload::Blank | Payload::Membership(_) => (0, Vec::new()),
    };
    Committed {
        index: log_id.index,
        term: log_id.leader_id.term,
        time_ms: books.time_ms,
        entropy,
        commands,
    }
}

fn check_answers(answers: &[Vec<Bytes>], expected: &[usize]) -> Result<(), StateMachineError> {
    if answers.iter().map(Vec::len).eq(expected.iter().copied()) {
        Ok(())
    } else {
        Err(StateMachineError::Corrupt {
            what: "the state machine's answer",
            reason: "not every command was answered".to_owned(),
        })
    }
}

/// A view of the state machine as a snapshot; its position is `None` when nothing was applied yet.
fn view(inner: &dyn StateMachine) -> Result<Snapshot, StateMachineError> {
    let reader = inner.snapshot()?;
    let books = reader
        .bookkeeping()
        .map(|bytes| decode_books(&bytes))
        .transpose()?;
    let meta = snapshot::meta(&books.unwrap_or_default());
    Ok(Snapshot {
        meta,
        snapshot: SnapshotData::View(reader),
    })
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.books.applied, self.books.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut chunk, mut responders, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut last = self.books.applied;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.check_follows(last, &entry)?;
            last = Some(entry.log_id);
            if let Payload::Normal(batch) = &entry.payload {
                let weights = batch
                    .commands
                    .iter()
                    .map(|command| self.inner.weigh(command));
                bytes += weights.sum::<usize>();
            }
            chunk.push(entry);
            responders.push(responder);
            if chunk.len() >= APPLY_ENTRIES_MAX || bytes >= APPLY_BYTES_MAX {
                let (chunk, responders) =
                    (std::mem::take(&mut chunk), std::mem::take(&mut responders));
                self.apply_chunk(chunk, responders, std::mem::take(&mut bytes))
                    .await?;
            }
        }
        if chunk.is_empty() {
            Ok(())
        } else {
            self.apply_chunk(chunk, responders, bytes).await
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            inner: Arc::clone(&self.inner),
            runtime: self.runtime.clone(),
            health: self.health.clone(),
            _alive: self.alive.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (inner, stage) = (Arc::clone(&self.inner), self.stage.clone());
        let install = move || {
            match snapshot {
                SnapshotData::Staged {
                    chunks,
                    bookkeeping,
                    claim,
                } => {
                    stage.install(inner.as_ref(), chunks, &bookkeeping, claim)?;
                }
                SnapshotData::View(reader) => {
                    let bookkeeping = reader.bookkeeping().unwrap_or_default();
                    snapshot::copy(reader, inner.restore()?, bookkeeping)?;
                }
            }
            load(inner.as_ref())
        };
        let books = self.blocking("installing a snapshot", install).await?;
        self.set_books(books);
        Ok(())
    }

    /// The state machine is its own snapshot: a view of it, as of now, is always there. Its
    /// position may be newer than the one the library remembers, which only shortens catching up.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let inner = Arc::clone(&self.inner);
        let view = self
            .blocking("opening a snapshot", move || view(inner.as_ref()))
            .await?;
        Ok(view.meta.last_log_id.is_some().then_some(view))
    }
}

/// "Builds" a snapshot: nothing is copied, a view is opened and its position reported.
pub(crate) struct Builder {
    inner: Arc<dyn StateMachine>,
    runtime: Runtime,
    health: Health,
    _alive: mpsc::Sender<()>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let inner = Arc::clone(&self.inner);
        let view = self
            .runtime
            .blocking(move || view(inner.as_ref()))
            .await
            .map_err(io_error)?;
        view.map_err(|error| {
            self.health.fail(&error);
            io_error(error)
        })
    }
}
