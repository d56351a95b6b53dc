//! One measurement: connections that send the requests of a workload, one after the other, until it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use granary_runtime::{CancellationToken, Runtime, Task, within};

use crate::connection::{Connection, Store};
use crate::content::Content;
use crate::failure::UNREACHABLE;
use crate::measure::{Recorder, Round, Window};
use crate::objects::ObjectSet;
use crate::progress::Progress;
use crate::request::{Call, perform};
use crate::workload::{Operation, Workload};

/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);
/// How long a connection waits before it is tried again.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// The objects that requests are about.
pub(crate) struct Sets {
    pub(crate) read: Option<Arc<ObjectSet>>,
    pub(crate) written: Option<Arc<ObjectSet>>,
    pub(crate) deleted: Option<Arc<ObjectSet>>,
}

/// When it is over.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) window: Window,
    /// Requests that begin within the window.
    pub(crate) requests_max: Option<u64>,
}

/// A measurement.
pub(crate) struct Load {
    store: Arc<Store>,
    content: Content,
    workload: Workload,
    sets: Sets,
    /// The number of the next body, of the whole run.
    numbers: Arc<AtomicU64>,
    requests_max: Option<u64>,
    begun: AtomicU64,
    next_written: AtomicU64,
    next_deleted: AtomicU64,
    recorder: Recorder,
}

impl Load {
    pub(crate) fn new(
        store: Arc<Store>,
        content: Content,
        workload: Workload,
        sets: Sets,
        numbers: Arc<AtomicU64>,
        limits: Limits,
    ) -> Arc<Self> {
        let operations = workload.shares.iter().map(|(operation, _)| *operation);
        let recorder = Recorder::new(limits.window, operations);
        Arc::new(Self {
            store,
            content,
            workload,
            sets,
            numbers,
            requests_max: limits.requests_max,
            begun: AtomicU64::new(0),
            next_written: AtomicU64::new(0),
            next_deleted: AtomicU64::new(0),
            recorder,
        })
    }

    /// Runs it to its end, or until `stop` says so; requests under way are waited for.
    pub(crate) async fn run(
        self: Arc<Self>,
        name: String,
        connections: Vec<Connection>,
        stop: &CancellationToken,
    ) -> Round {
        let runtime = self.store.runtime.clone();
        let window = self.recorder.window();
        let began_at = runtime.monotonic();
        let progress = match (self.requests_max, window.ends) {
            (Some(requests), _) => Progress::counting(name, requests),
            (None, ends) => {
                Progress::timing(name, ends.unwrap_or_default().saturating_sub(began_at))
            }
        };
        let workers = connections
            .into_iter()
            .map(|connection| runtime.spawn(work(Arc::clone(&self), connection, stop.clone())))
            .collect();
        together(&runtime, workers, || self.show(&progress, began_at)).await;
        self.recorder.finish(runtime.monotonic())
    }

    fn show(&self, progress: &Progress, began_at: Duration) {
        let (now, begins) = (
            self.store.runtime.monotonic(),
            self.recorder.window().begins,
        );
        let (good, errors) = self.recorder.so_far();
        match self.requests_max {
            Some(_) => progress.set_count(good + errors),
            None => progress.set_time(now.saturating_sub(began_at)),
        }
        let seconds = now.saturating_sub(begins).as_secs_f64();
        progress.say(match seconds > 0.0 {
            true => format!("{:.0} requests/s, {errors} errors", good as f64 / seconds),
            false => "warm-up".to_owned(),
        });
    }

    /// The next request; nothing when it is over.
    fn next(&self, now: Duration) -> Option<Call<'_>> {
        let window = self.recorder.window();
        if window.ends.is_some_and(|ends| now >= ends) {
            return None;
        }
        if let Some(most) = self.requests_max
            && now >= window.begins
            && self.begun.fetch_add(1, Ordering::Relaxed) >= most
        {
            return None;
        }
        let entropy = self.store.runtime.entropy();
        let operation = match self.workload.shares.as_slice() {
            [(only, _)] => *only,
            _ => self.workload.pick(entropy.below(100)),
        };
        let page = usize::try_from(self.workload.page).unwrap_or(usize::MAX);
        let (set, index) = match operation {
            Operation::Put => {
                let set = self.sets.written.as_deref()?;
                let turn = self.next_written.fetch_add(1, Ordering::Relaxed);
                (set, turn % set.len() as u64)
            }
            Operation::Delete => {
                let set = self.sets.deleted.as_deref()?;
                (set, self.next_deleted.fetch_add(1, Ordering::Relaxed))
            }
            Operation::Get | Operation::Head => {
                let set = self.sets.read.as_deref()?;
                (set, entropy.below(set.len() as u64))
            }
            // Any that a whole page begins with.
            Operation::List => {
                let set = self.sets.read.as_deref()?;
                let pages = (set.len() + 1).saturating_sub(page);
                (set, entropy.below(pages as u64))
            }
        };
        let index = usize::try_from(index)
            .ok()
            .filter(|index| *index < set.len())?;
        Some(Call {
            operation,
            set,
            index,
            number: match operation {
                Operation::Put => self.numbers.fetch_add(1, Ordering::Relaxed),
                _ => set.number(index),
            },
            page,
        })
    }
}

/// Connections that are open before anything is measured, as far as the store lets them be.
pub(crate) async fn dial(store: &Arc<Store>, connections: usize) -> Vec<Connection> {
    let new = || Connection::new(Arc::clone(store));
    let dialling: Vec<Task<Connection>> = (0..connections)
        .map(|_| {
            let (mut connection, limit) = (new(), store.timeout);
            store.runtime.spawn(async move {
                // One that cannot be made is tried again, and counted, by its first request.
                let _ = within(limit, connection.dial()).await;
                connection
            })
        })
        .collect();
    let mut open = Vec::with_capacity(connections);
    for task in dialling {
        open.push(task.await.unwrap_or_else(|_| new()));
    }
    open
}

/// What one connection does.
async fn work(load: Arc<Load>, mut connection: Connection, stop: CancellationToken) {
    let runtime = load.store.runtime.clone();
    while !stop.is_cancelled() {
        let began_at = runtime.monotonic();
        let Some(call) = load.next(began_at) else {
            return;
        };
        let outcome = perform(&mut connection, &load.content, &call).await;
        let is_unreachable = outcome
            .as_ref()
            .is_err_and(|failure| failure.code == UNREACHABLE);
        let ended_at = match &outcome {
            Ok(good) => good.ended_at,
            Err(_) => runtime.monotonic(),
        };
        load.recorder
            .note(call.operation, began_at, ended_at, outcome);
        if is_unreachable {
            runtime.sleep(REDIAL_PAUSE).await;
        }
    }
}

/// Waits for all workers, and looks at them now and then.
pub(crate) async fn together(runtime: &Runtime, workers: Vec<Task<()>>, look: impl Fn()) {
    let all = async {
        for worker in workers {
            if let Err(error) = worker.await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    };
    let mut all = std::pin::pin!(all);
    loop {
        tokio::select! {
            () = &mut all => return,
            () = runtime.sleep(TICK) => look(),
        }
    }
}
