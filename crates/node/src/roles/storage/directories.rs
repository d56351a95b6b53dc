//! Work on data directories: all are opened at once when a node starts, and those that are out are
//! looked at again and again.
//!
//! Invariants: each directory has a task of its own, one at a time, so one that hangs holds up
//! nobody but itself, and one thread; a task ends with the role, whatever it waits for.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use granary_blob_api::{BlobNode, DiskHealth};
use granary_runtime::within;
use granary_types::DiskId;
use tokio::sync::mpsc;

use super::{
    Directory, Found, MAP_LIMIT, OPENING_LIMIT, StorageRole, Wanted, is_mistake, may_pass,
};

/// How often directories whose disk is out are looked at: the operator may have replaced one.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a disk that failed stays out before it is opened again; doubles with each attempt.
const REOPEN_FIRST: Duration = Duration::from_secs(30);
/// The longest pause between two attempts; a disk that served this long is as good as new.
const REOPEN_MOST: Duration = Duration::from_secs(600);

/// What became of a directory that was to be opened.
type Opened = (PathBuf, anyhow::Result<DiskId>);

impl StorageRole {
    /// Opens every data directory that can be opened. One that takes long is not waited for, as
    /// long as there is what is wanted: it serves as soon as it is open, and the root hears of it.
    /// Nor is one that failed, where others serve meanwhile: it is looked at again.
    ///
    /// # Errors
    /// A directory that the operator has to look at, or none that can be opened where one is needed.
    pub(crate) async fn open_all(self: &Arc<Self>, wanted: Wanted) -> anyhow::Result<()> {
        self.open_within(wanted, OPENING_LIMIT).await
    }

    pub(super) async fn open_within(
        self: &Arc<Self>,
        wanted: Wanted,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let paths: Vec<PathBuf> = {
            let mut directories = self.directories.lock();
            let taken = directories.iter_mut().map(|directory| {
                directory.busy = true;
                directory.path.clone()
            });
            taken.collect()
        };
        // Only a warning: disks are opened whether or not somebody knows what was there.
        let _ = within(MAP_LIMIT, self.warn_of_empty(&paths)).await;
        let (done, mut outcomes) = mpsc::channel(paths.len().max(1));
        for path in paths {
            self.begin_to_open(path, done.clone());
        }
        drop(done);
        let (mut open, mut hope, mut last_error) = (0, false, None);
        let until = self.runtime.monotonic() + limit;
        loop {
            let left = if open > 0 || wanted == Wanted::Hope {
                until.saturating_sub(self.runtime.monotonic())
            } else {
                Duration::MAX
            };
            match within(left, outcomes.recv()).await {
                Ok(Some((_, Ok(_)))) => open += 1,
                Ok(Some((_, Err(error)))) if is_mistake(&error) => return Err(error),
                Ok(Some((path, Err(error)))) => {
                    tracing::error!(directory = %path.display(), error = format!("{error:#}"), "data directory is out of service");
                    hope |= wanted == Wanted::Hope && may_pass(&error);
                    last_error = Some(error);
                }
                Ok(None) if open == 0 && !hope => {
                    return Err(last_error.context("at least one data directory is needed")?);
                }
                Ok(None) => return Ok(()),
                Err(_) => break,
            }
        }
        let directories = self.directories.lock();
        for waiting in directories.iter().filter(|directory| directory.busy) {
            let path = waiting.path.display();
            tracing::warn!(directory = %path, "data directory is still being opened and is not waited for");
        }
        Ok(())
    }

    fn begin_to_open(self: &Arc<Self>, path: PathBuf, done: mpsc::Sender<Opened>) {
        let role = Arc::clone(self);
        self.work_on(path.clone(), async move {
            let outcome = role.open_disk(&path).await;
            let Err(late) = done.try_send((path, outcome)) else {
                return;
            };
            // The start went on without it.
            let (path, outcome) = late.into_inner();
            let shown = path.display();
            match outcome {
                Ok(_) => tracing::info!(directory = %shown, "disk is open at last"),
                Err(error) => {
                    tracing::error!(directory = %shown, error = format!("{error:#}"), "data directory is out of service");
                }
            }
        });
    }

    /// Works on a directory that was marked as busy, in a task of its own.
    fn work_on(self: &Arc<Self>, path: PathBuf, work: impl Future<Output = ()> + Send + 'static) {
        let role = Arc::clone(self);
        self.work.spawn(async move {
            let shutdown = role.work.shutdown().clone();
            // A call that hangs is left behind with its thread.
            let _ = shutdown.run_until_cancelled(work).await;
            role.update(&path, |directory| directory.busy = false);
        });
    }

    /// Watches for directories that were replaced, until the shutdown.
    pub(crate) fn watch(self: &Arc<Self>) {
        let role = Arc::clone(self);
        self.work.spawn(async move {
            loop {
                tokio::select! {
                    () = role.work.sleep(LOOK_INTERVAL) => role.look().await,
                    () = role.work.shutdown().cancelled() => return,
                }
            }
        });
    }

    /// Begins to open directories that are out and hold an empty, new disk or one that came back,
    /// and tells the root of disks that it does not know yet.
    pub(super) async fn look(self: &Arc<Self>) {
        let Ok(statuses) = self.store.disks().await else {
            return;
        };
        let serves = |disk: DiskId| {
            statuses
                .iter()
                .any(|status| status.id == disk && status.health != DiskHealth::Failed)
        };
        let now = self.runtime.monotonic();
        let concerned: Vec<(Directory, bool)> = {
            let mut directories = self.directories.lock();
            let idle = directories.iter_mut().filter(|directory| !directory.busy);
            let concerned = idle.filter_map(|directory| {
                let serves = directory.disk.is_some_and(serves);
                if serves {
                    directory.note_service(now);
                }
                directory.busy = !serves || !directory.enrolled;
                directory.busy.then(|| (directory.clone(), serves))
            });
            concerned.collect()
        };
        for (directory, serves) in concerned {
            let role = Arc::clone(self);
            self.work_on(directory.path.clone(), async move {
                match directory.disk {
                    Some(disk) if serves => role.introduce(&directory, disk).await,
                    _ => role.look_into(&directory, now).await,
                }
            });
        }
    }

    /// Tells the root of a disk that was open too late for the start, or that it did not hear of.
    async fn introduce(&self, directory: &Directory, disk: DiskId) {
        if let Err(error) = self.enrol_disk(&directory.path, disk).await {
            let shown = directory.path.display();
            tracing::warn!(directory = %shown, error = format!("{error:#}"), "the cluster does not know the disk yet");
        }
    }

    async fn look_into(&self, directory: &Directory, now: Duration) {
        let (vfs, cluster) = (Arc::clone(&self.vfs), self.cluster_id.clone());
        let looked_at = directory.clone();
        let found = self
            .runtime
            .blocking(move || looked_at.find(vfs.as_ref(), &cluster))
            .await
            .unwrap_or(Found::Nothing);
        self.take_up(directory, found, now).await;
    }

    /// Opens a directory that was out, when it is time.
    async fn take_up(&self, directory: &Directory, found: Found, now: Duration) {
        let path = &directory.path;
        let shown = path.display();
        let due = match (found, directory.due) {
            (Found::Nothing, _) => return,
            (Found::NotMounted, due) => {
                if due.is_none() {
                    tracing::warn!(directory = %shown, "data directory is empty and no mount point any more: mount its file system");
                }
                self.update(path, |directory| directory.due = Some(now));
                return;
            }
            (_, Some(due)) => due,
            // Somebody put an empty directory there, or a disk that never served is there now.
            (Found::Empty, None) => now,
            (Found::Disk(_), None) if directory.disk.is_none() => now,
            (Found::Disk(_), None) => now + REOPEN_FIRST,
        };
        if now < due {
            self.update(path, |directory| directory.due = Some(due));
            return;
        }
        let pause = REOPEN_FIRST.saturating_mul(1 << directory.attempts.min(8));
        self.update(path, |directory| {
            directory.attempts += 1;
            directory.due = Some(now + pause.min(REOPEN_MOST));
            directory.disk = None;
        });
        if let Some(disk) = directory.disk {
            self.store.remove_disk(disk).await;
        }
        match self.open(path).await {
            Ok(()) if found == Found::Empty => {
                tracing::info!(directory = %shown, "new disk in service");
            }
            Ok(()) => tracing::info!(directory = %shown, "disk is back in service"),
            Err(error) => {
                tracing::warn!(directory = %shown, error = format!("{error:#}"), "disk cannot be used yet");
            }
        }
    }
}

impl Directory {
    /// The disk serves: after a while what happened before is forgotten.
    fn note_service(&mut self, now: Duration) {
        if self.due.is_some_and(|due| now >= due + REOPEN_MOST) {
            (self.attempts, self.due) = (0, None);
        }
    }
}
