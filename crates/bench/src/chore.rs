//! Storing what is read and deleting what was stored: all keys of a set, over all connections, tried again for a while.
//!
//! Not measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use granary_runtime::{Backoff, CancellationToken};
use parking_lot::Mutex;

use crate::connection::{Connection, Store};
use crate::content::Content;
use crate::failure::Failure;
use crate::load::together;
use crate::objects::ObjectSet;
use crate::progress::Progress;
use crate::request::{Call, perform};
use crate::workload::Operation;

/// How long one key is tried again after its first failure, besides the time that a request may stand still, before the
/// chore is given up.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// What is done with every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Store it, unless it is stored.
    Store,
    /// Delete it, unless it was never stored.
    Delete,
}

struct Work {
    store: Arc<Store>,
    content: Content,
    chore: Chore,
    set: Arc<ObjectSet>,
    next: AtomicUsize,
    done: AtomicU64,
    /// The failure that ended it.
    failure: Mutex<Option<Failure>>,
    /// Asked by the user to end, or given up.
    over: CancellationToken,
}

/// Does it, until all is done or `stop` says so.
///
/// # Errors
/// A key that could not be stored or deleted; the others are left as they are then.
pub(crate) async fn run(
    store: &Arc<Store>,
    content: &Content,
    chore: Chore,
    set: Arc<ObjectSet>,
    connections: usize,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let (total, what) = match chore {
        Chore::Store => (set.len() - set.count_stored(), "storing"),
        Chore::Delete => (set.count_existing(), "deleting"),
    };
    if total == 0 {
        return Ok(());
    }
    let work = Arc::new(Work {
        store: Arc::clone(store),
        content: content.clone(),
        chore,
        set,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        failure: Mutex::new(None),
        over: stop.child_token(),
    });
    let progress = Progress::counting(format!("{what} objects"), total as u64);
    let workers = (0..connections.min(total))
        .map(|_| store.runtime.spawn(work_off(Arc::clone(&work))))
        .collect();
    together(&store.runtime, workers, || {
        progress.set_count(work.done.load(Ordering::Relaxed));
    })
    .await;
    let failure = work.failure.lock().take();
    failure.map_or(Ok(()), Err)
}

async fn work_off(work: Arc<Work>) {
    let mut connection = Connection::new(Arc::clone(&work.store));
    while !work.over.is_cancelled() {
        let index = work.next.fetch_add(1, Ordering::Relaxed);
        if index >= work.set.len() {
            return;
        }
        let is_to_do = match work.chore {
            Chore::Store => work.set.known(index).is_none(),
            Chore::Delete => work.set.may_exist(index),
        };
        if !is_to_do {
            continue;
        }
        match work.try_one(&mut connection, index).await {
            Ok(()) => {
                work.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                work.failure.lock().get_or_insert(failure);
                work.over.cancel();
            }
        }
    }
}

impl Work {
    async fn try_one(&self, connection: &mut Connection, index: usize) -> Result<(), Failure> {
        let call = Call {
            operation: match self.chore {
                Chore::Store => Operation::Put,
                Chore::Delete => Operation::Delete,
            },
            set: &self.set,
            index,
            number: self.set.number(index),
            page: 0,
        };
        let runtime = &self.store.runtime;
        let patience = self.store.timeout + PATIENCE;
        let mut backoff = None;
        loop {
            let failure = match perform(connection, &self.content, &call).await {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            let new = || Backoff::new(runtime, PAUSE_FIRST, PAUSE_MOST, patience);
            let backoff = backoff.get_or_insert_with(new);
            let goes_on = failure.may_pass() && !self.over.is_cancelled();
            if !goes_on || !backoff.wait(runtime).await {
                return Err(failure);
            }
        }
    }
}
