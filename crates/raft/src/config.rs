//! Settings of every group of a node, in milliseconds, entries and bytes.

use std::sync::Arc;
use std::time::Duration;

use crate::RaftError;

/// How groups elect, replicate and compact. The defaults suit disks whose syncs take up to 10 ms
/// and nodes that are busy.
///
/// A follower campaigns one `election_max_ms` plus a random time from `election_min_ms` to
/// `election_max_ms` after the last heartbeat: a killed leader has a successor within two times the
/// longest timeout. Nodes may differ in these times; see `promise` for why reads stay true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// A leader's heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
    /// Shortest election timeout, in milliseconds.
    pub election_min_ms: u64,
    /// Longest election timeout, in milliseconds; also the length of the leader lease.
    pub election_max_ms: u64,
    /// Longest lease that any leader relies on, in milliseconds, and how long a restarted node
    /// therefore keeps out of elections. The same for every node and version of a cluster.
    pub lease_most_ms: u64,
    /// How many entries more than `keep_entries` the log may have before it is cut.
    pub snapshot_every_entries: u64,
    /// Applied entries kept in the log, so that a restarted peer catches up from it. A group
    /// without peers keeps none. While a peer is sent a snapshot, and until it has caught up, what
    /// it needs is kept as long as there is room (`RaftHost::set_log_room`).
    pub keep_entries: u64,
    /// Bytes of applied entries kept in the log for peers, per group; a sixteenth more before it is
    /// cut. Counts together with `keep_entries`: what exceeds either is cut.
    pub keep_bytes: u64,
    /// Entries a new learner may lag when [`Group::add_learner`](crate::Group::add_learner)
    /// takes it for caught up.
    pub lag_entries: u64,
    /// Longest wait for one answer while a received snapshot is installed, in milliseconds; a single
    /// chunk has a tenth of it. The whole transfer has no limit.
    pub snapshot_timeout_ms: u64,
    /// Longest wait for the answer to a message, in milliseconds (one batch's sync at the peer).
    pub message_timeout_ms: u64,
    /// Bytes of log entries in one message to a peer.
    pub message_bytes: usize,
    /// Entries proposed and not yet applied, per group; one in a group without peers.
    pub entries_in_flight: usize,
    /// Commands that may wait for their entry, per group.
    pub queue_commands: usize,
    /// Bytes of commands that may wait or be in flight, per group.
    pub queue_bytes: usize,
}

/// What nodes relied on that did not say how long their lease is.
pub(crate) const LEASE_MOST_MS: u64 = 3000;

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 300,
            election_min_ms: 750,
            election_max_ms: 1500,
            lease_most_ms: LEASE_MOST_MS,
            snapshot_every_entries: 20_000,
            keep_entries: 10_000,
            keep_bytes: 64 * 1024 * 1024,
            lag_entries: 50_000,
            snapshot_timeout_ms: 600_000,
            message_timeout_ms: 2000,
            message_bytes: 2 * 1024 * 1024,
            entries_in_flight: 8,
            queue_commands: 8192,
            queue_bytes: 16 * 1024 * 1024,
        }
    }
}

impl RaftConfig {
    /// The default settings with another longest election timeout and heartbeat, in milliseconds.
    #[must_use]
    pub fn with_election(election_timeout_ms: u64, heartbeat_ms: u64) -> Self {
        Self {
            heartbeat_ms,
            election_min_ms: election_timeout_ms / 2,
            election_max_ms: election_timeout_ms,
            ..Self::default()
        }
    }

    /// How long a leader may serve reads after a quorum has acknowledged it, by the quorum's clocks.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.election_max_ms.min(self.lease_most_ms))
    }

    /// How long a restarted node keeps out of elections.
    pub(crate) fn lease_most(&self) -> Duration {
        Duration::from_millis(self.lease_most_ms)
    }

    /// Checks the settings against each other; `may_campaign` is whether a new group may start an
    /// election by itself at once.
    ///
    /// # Errors
    /// [`RaftError::Config`] says which one is not usable.
    pub(crate) fn validated(&self, may_campaign: bool) -> Result<Arc<openraft::Config>, RaftError> {
        let positive = [
            ("entries_in_flight", self.entries_in_flight),
            ("queue_commands", self.queue_commands),
            ("queue_bytes", self.queue_bytes),
            ("message_bytes", self.message_bytes),
        ];
        if self.keep_bytes < 1024 {
            return Err(RaftError::Config("keep_bytes is below 1024".to_owned()));
        }
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(RaftError::Config(format!("{name} must not be 0")));
        }
        let config = openraft::Config {
            cluster_name: "granary".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            // Lease and leader changes are reasoned about with a heartbeat every interval.
            heartbeat_min_interval: Some(0),
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            install_snapshot_timeout: self.snapshot_timeout_ms,
            max_payload_entries: 256,
            max_append_entries: Some(256),
            replication_lag_threshold: self.lag_entries,
            // We cut the log ourselves, by bytes too (see `retention`).
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            enable_elect: may_campaign,
            enable_pre_vote: Some(true),
            // A log that goes backwards is lost data: never replicate over it silently.
            allow_log_reversion: Some(false),
            // The commit point is not synced, so a restarted leader may be behind what it served:
            // it has to be elected again, and applies its first entry before it serves.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        };
        config
            .validate()
            .map(Arc::new)
            .map_err(|error| RaftError::Config(error.to_string()))
    }
}
