//! Whether a disk is still there: asked now and then, before a volume is made, and when a read
//! fails.
//!
//! A directory can be unmounted, removed or replaced under the process: writes to open files then
//! succeed and are gone at the next start. And a device can die while it is only read, or hang.
//! Invariants: one question per disk is under way at a time, whoever asks, so a disk that does not
//! answer holds up one thread; a lack of descriptors or memory says nothing about a disk.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use granary_blob_api::BlobError;
use granary_runtime::within;
use granary_vfs::{Space, Vfs, VfsFile};
use parking_lot::Mutex;

use crate::disk::Disk;
use crate::error::{DiskError, classify};
use crate::format::{DiskIdentity, IDENTITY_BYTES_MAX, PAGE_BYTES};
use crate::identity::IDENTITY_FILE;

/// How often a disk is asked when nobody else does.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// How long a caller waits for an answer before it takes the last one.
const LOOK_WAIT: Duration = Duration::from_millis(500);
/// Questions that find the one before unanswered before a disk is given up: a machine that was
/// suspended as a whole asks fewer.
const UNANSWERED_MAX: u32 = 3;
/// How long a disk that was found to be well is believed to be.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A file that is written and removed to find out whether a disk can still be written.
const PROBE_FILE: &str = "probe";

/// What is known of a disk's file system.
pub(crate) struct Health {
    /// Held open, so that another file in its place is told apart.
    identity: Arc<dyn VfsFile>,
    /// Held while the file system is asked.
    asking: Arc<tokio::sync::Mutex<()>>,
    known: Mutex<Known>,
    /// When the disk was last found to be well; held while that is found out.
    probed: Mutex<Option<Duration>>,
}

struct Known {
    space: Space,
    /// When the question was asked that has no answer yet.
    asked_at: Option<Duration>,
    /// How often somebody wanted to ask since.
    unanswered: u32,
}

impl Health {
    /// Of a disk whose identity was just read. Blocks.
    pub(crate) fn open(vfs: &dyn Vfs, dir: &std::path::Path) -> io::Result<Self> {
        let space = vfs.space(dir)?;
        Ok(Self {
            identity: vfs.open(&dir.join(IDENTITY_FILE))?,
            asking: Arc::default(),
            known: Mutex::new(Known {
                space,
                asked_at: None,
                unanswered: 0,
            }),
            probed: Mutex::default(),
        })
    }

    /// The room there was when the file system was last asked.
    pub(crate) fn space(&self) -> Space {
        self.known.lock().space
    }

    pub(crate) fn set_space(&self, space: Space) {
        self.known.lock().space = space;
    }
}

/// Asks a disk how it does until it fails or its runtime stops.
pub(crate) async fn watch(disk: Arc<Disk>) {
    while !disk.is_failed() {
        tokio::select! {
            () = disk.runtime().sleep(WATCH_INTERVAL) => disk.look().await,
            () = disk.runtime().shutdown().cancelled() => return,
        }
    }
}

impl Disk {
    /// Asks the file system how the disk does and waits a little for the answer. While a question
    /// is under way nobody asks another.
    pub(crate) async fn look(self: &Arc<Self>) {
        if self.is_failed() {
            return;
        }
        let now = self.runtime().monotonic();
        let Ok(turn) = Arc::clone(&self.condition().asking).try_lock_owned() else {
            self.note_silence(now);
            return;
        };
        {
            let mut known = self.condition().known.lock();
            (known.asked_at, known.unanswered) = (Some(now), 0);
        }
        let asked = Arc::clone(self);
        let asking = self.runtime().blocking(move || {
            let _turn = turn;
            asked.refresh_space();
            if let Err(error) = asked.check_identity() {
                asked.doubt(error);
            }
            asked.condition().known.lock().asked_at = None;
        });
        // The call goes on without its caller.
        let _ = within(LOOK_WAIT, asking).await;
    }

    /// Gives a disk up that has not answered for too long.
    fn note_silence(&self, now: Duration) {
        let silent = {
            let mut known = self.condition().known.lock();
            known.unanswered += 1;
            let waited = known.asked_at.map(|asked_at| now.saturating_sub(asked_at));
            known.unanswered >= UNANSWERED_MAX
                && waited.is_some_and(|waited| waited >= self.config().silent_after)
        };
        if silent {
            self.fail(&DiskError::Silent);
        }
    }

    /// Takes the disk out, unless the error says nothing about it. What it was is returned.
    pub(crate) fn doubt(&self, error: DiskError) -> BlobError {
        match error {
            DiskError::Shortage(error) => {
                tracing::debug!(disk = self.id().0, %error, "a call found no descriptor or memory");
                BlobError::Busy(self.id())
            }
            DiskError::NoSpace => BlobError::DiskFull(self.id()),
            error => {
                self.fail(&error);
                self.out_of_service()
            }
        }
    }

    /// Looks at the file system's room and sets whether the disk is full. Blocks.
    pub(crate) fn refresh_space(&self) {
        match self.vfs().space(self.dir()) {
            Ok(space) => {
                self.condition().set_space(space);
                self.judge_space(&space);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                self.doubt(classify(error));
            }
        }
    }

    /// Whether the directory is still the one that was opened. Blocks.
    pub(crate) fn check_identity(&self) -> Result<(), DiskError> {
        let found = || -> io::Result<bool> {
            let file = self.vfs().open(&self.dir().join(IDENTITY_FILE))?;
            let bytes = file.read_at(0, IDENTITY_BYTES_MAX)?;
            let named = DiskIdentity::decode(&bytes).is_ok_and(|found| found.disk == self.id());
            Ok(named && file.file_id()? == self.condition().identity.file_id()?)
        };
        match found() {
            Ok(true) => Ok(()),
            Ok(false) => Err(DiskError::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DiskError::Gone),
            Err(error) => Err(classify(error)),
        }
    }

    /// A read failed: finds out whether the disk did, and takes it out then. Blocks.
    pub(crate) fn probe(&self) -> Result<(), BlobError> {
        let mut probed = self.condition().probed.lock();
        self.check_usable()?;
        let now = self.runtime().monotonic();
        if probed.is_some_and(|at| now.saturating_sub(at) < PROBE_INTERVAL) {
            return Ok(());
        }
        let outcome = self
            .check_identity()
            .and_then(|()| self.try_writing().map_err(classify));
        match outcome {
            // What the cache holds can be read from a dead device; what is synced is on a live one.
            Ok(()) => *probed = Some(now),
            // A disk that has no room answers.
            Err(DiskError::NoSpace | DiskError::Shortage(_)) => {}
            Err(error) => return Err(self.doubt(error)),
        }
        Ok(())
    }

    fn try_writing(&self) -> io::Result<()> {
        let path = self.dir().join(PROBE_FILE);
        let file = match self.vfs().create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.vfs().open(&path)?,
            outcome => outcome?,
        };
        file.write_at(0, &[IoSlice::new(&[0; PAGE_BYTES as usize])])?;
        file.sync_data()?;
        self.vfs().remove(&path)
    }
}
