//! Metrics of what has no registry of its own: disks, shards and databases, read at each scrape.
//!
//! Labels are closed sets: data directories, disk ids and shard numbers, never buckets or keys.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use granary_blob_api::{BlobNode as _, DiskHealth, DiskStatus};
use granary_meta::BackupStatus;
use granary_raft::GroupMetrics;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tracing_appender::non_blocking::ErrorCounter;

use crate::roles::meta::MetaRole;
use crate::roles::storage::StorageRole;

/// What is read at a scrape.
pub(crate) struct Sources {
    /// The roles that the process has.
    meta: Option<Arc<MetaRole>>,
    storage: Option<Arc<StorageRole>>,
    /// Read asynchronously just before a scrape is written.
    disks: Mutex<Vec<DiskStatus>>,
    directories: Mutex<Vec<(PathBuf, bool)>>,
    dropped_lines: ErrorCounter,
}

impl Sources {
    /// Metrics of these roles.
    pub(crate) fn new(
        meta: Option<Arc<MetaRole>>,
        storage: Option<Arc<StorageRole>>,
        dropped_lines: ErrorCounter,
    ) -> Self {
        Self {
            meta,
            storage,
            disks: Mutex::default(),
            directories: Mutex::default(),
            dropped_lines,
        }
    }

    /// Reads what must be awaited.
    pub(crate) async fn refresh(&self) {
        let Some(storage) = &self.storage else {
            return;
        };
        if let Ok(disks) = storage.store.disks().await {
            *self.disks.lock() = disks;
        }
        let directories = storage.directories().await;
        *self.directories.lock() = directories;
    }
}

/// Adds the collector to a registry.
pub(crate) fn register(registry: &mut Registry, sources: Arc<Sources>) {
    registry.register_collector(Box::new(Process(sources)));
}

struct Process(Arc<Sources>);

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Process")
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(&mut encoder);
        if let Some(storage) = &self.0.storage {
            self.disks(storage, &mut page)?;
        }
        if let Some(meta) = &self.0.meta {
            shards(meta, &mut page)?;
            database(meta, &mut page)?;
        }
        let dropped = self.0.dropped_lines.dropped_lines() as u64;
        let lines = vec![("stderr".to_owned(), dropped)];
        let help = "Log lines dropped because their reader was too slow";
        page.counter("granary_log_dropped_lines", help, "log", lines)
    }
}

/// One value with its label.
type Sample = (String, u64);

/// Writes metrics with at most one label.
struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Page<'_, '_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        samples: Vec<Sample>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value_of, value) in samples {
            let labels = [(label, value_of)];
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
                .encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        samples: Vec<Sample>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value_of, value) in samples {
            let labels = [(label, value_of)];
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Process {
    fn disks(&self, storage: &StorageRole, page: &mut Page<'_, '_>) -> fmt::Result {
        let directories = self.0.directories.lock().clone();
        page.gauge(
            "granary_data_directory_in_service",
            "1 when the disk in the directory reads and writes, 0 when it holds no copies",
            "directory",
            directories
                .into_iter()
                .map(|(path, serves)| (path.display().to_string(), u64::from(serves)))
                .collect(),
        )?;
        let disks = self.0.disks.lock().clone();
        type Reader = fn(&DiskStatus) -> u64;
        let statuses: [(&str, &str, Reader); 6] = [
            ("granary_disk_total_bytes", "Size of the file system", |d| {
                d.total_bytes
            }),
            (
                "granary_disk_free_bytes",
                "Bytes free for new chunks",
                |d| d.free_bytes,
            ),
            ("granary_disk_live_bytes", "Bytes of live chunks", |d| {
                d.live_bytes
            }),
            (
                "granary_disk_reclaimable_bytes",
                "Bytes compaction can give back",
                |d| d.reclaimable_bytes,
            ),
            ("granary_disk_chunks", "Live chunks", |d| d.chunks),
            (
                "granary_disk_healthy",
                "1 when the disk reads and writes",
                |d| u64::from(d.health == DiskHealth::Healthy),
            ),
        ];
        for (name, help, read) in statuses {
            let samples = disks
                .iter()
                .map(|disk| (disk.id.to_string(), read(disk)))
                .collect();
            page.gauge(name, help, "disk", samples)?;
        }
        let metrics = storage.store.metrics();
        type Counter = fn(&granary_blob::DiskMetrics) -> u64;
        let counters: [(&str, &str, Counter); 12] = [
            ("granary_disk_puts", "Chunks put", |m| m.puts),
            ("granary_disk_put_bytes", "Object bytes put", |m| {
                m.put_bytes
            }),
            (
                "granary_disk_put_microseconds",
                "Time callers waited for puts",
                |m| m.put_micros,
            ),
            ("granary_disk_gets", "Reads answered", |m| m.gets),
            ("granary_disk_get_bytes", "Object bytes read", |m| {
                m.get_bytes
            }),
            (
                "granary_disk_get_microseconds",
                "Time callers waited for reads",
                |m| m.get_micros,
            ),
            ("granary_disk_deletes", "Chunks named by deletions", |m| {
                m.deletes
            }),
            ("granary_disk_syncs", "Syncs of volumes", |m| m.syncs),
            ("granary_disk_sync_microseconds", "Time in syncs", |m| {
                m.sync_micros
            }),
            (
                "granary_disk_corrupt_reads",
                "Reads that found damaged bytes",
                |m| m.corrupt,
            ),
            (
                "granary_disk_refused_full",
                "Requests refused by a full disk",
                |m| m.refused_full,
            ),
            (
                "granary_disk_compaction_freed_bytes",
                "Bytes compaction gave back",
                |m| m.compaction_freed_bytes,
            ),
        ];
        for (name, help, read) in counters {
            let samples = metrics
                .iter()
                .map(|(disk, m)| (disk.to_string(), read(m)))
                .collect();
            page.counter(name, help, "disk", samples)?;
        }
        Ok(())
    }
}

fn shards(role: &MetaRole, page: &mut Page<'_, '_>) -> fmt::Result {
    let meta = role.node.metrics();
    type Reader = fn(&GroupMetrics) -> u64;
    let gauges: [(&str, &str, Reader); 7] = [
        ("granary_raft_term", "Current term", |g| g.term),
        ("granary_raft_last_index", "Newest log entry", |g| {
            g.last_index.unwrap_or(0)
        }),
        ("granary_raft_applied_index", "Newest applied entry", |g| {
            g.applied_index.unwrap_or(0)
        }),
        ("granary_raft_purged_index", "Log entries cut off", |g| {
            g.purged_index.unwrap_or(0)
        }),
        (
            "granary_raft_queued_commands",
            "Commands waiting for an entry",
            |g| g.queued_commands as u64,
        ),
        (
            "granary_raft_healthy",
            "0 when the shard stopped after an error",
            |g| u64::from(g.healthy),
        ),
        (
            "granary_raft_wrong_clocks",
            "At the leader: voters whose clocks are far from those of the majority",
            |g| g.wrong_clocks.len() as u64,
        ),
    ];
    for (name, help, read) in gauges {
        let samples = meta
            .groups
            .iter()
            .map(|g| (g.shard.to_string(), read(g)))
            .collect();
        page.gauge(name, help, "shard", samples)?;
    }
    let backups = role.node.backup_status();
    type Backup = fn(&BackupStatus) -> u64;
    let gauges: [(&str, &str, Backup); 3] = [
        (
            "granary_meta_backup_lag_seconds",
            "For how long something of a shard led here has not been backed up",
            |b| b.lag.as_secs(),
        ),
        (
            "granary_meta_backup_index",
            "Newest log entry in the backup, of a shard led here",
            |b| b.backed_up.map_or(0, |at| at.index),
        ),
        (
            "granary_meta_backup_checkpoint_index",
            "Newest log entry in the newest checkpoint that this node wrote",
            |b| b.checkpoint.map_or(0, |at| at.index),
        ),
    ];
    for (name, help, read) in gauges {
        let samples = backups
            .iter()
            .map(|b| (b.shard.to_string(), read(b)))
            .collect();
        page.gauge(name, help, "shard", samples)?;
    }
    for (name, help, value) in [
        ("granary_meta_commands", "Commands decided", meta.commands),
        (
            "granary_meta_rejections",
            "Commands answered with no",
            meta.rejections,
        ),
        (
            "granary_meta_command_errors",
            "Commands not decided",
            meta.command_errors,
        ),
        ("granary_meta_queries", "Queries answered", meta.queries),
        (
            "granary_meta_query_errors",
            "Queries not answered",
            meta.query_errors,
        ),
    ] {
        page.counter(name, help, "node", vec![("local".to_owned(), value)])?;
    }
    Ok(())
}

fn database(role: &MetaRole, page: &mut Page<'_, '_>) -> fmt::Result {
    let stats = role.kv.stats();
    for (name, help, value) in [
        (
            "granary_rocksdb_disk_bytes",
            "Bytes of the metadata database",
            stats.disk_bytes,
        ),
        (
            "granary_rocksdb_memtable_bytes",
            "Bytes of unflushed writes",
            stats.memtable_bytes,
        ),
        (
            "granary_rocksdb_cache_bytes",
            "Bytes of block cache in use",
            stats.cache_bytes,
        ),
        (
            "granary_rocksdb_pending_compaction_bytes",
            "Bytes waiting for compaction",
            stats.pending_compaction_bytes,
        ),
    ] {
        page.gauge(name, help, "database", vec![("metadata".to_owned(), value)])?;
    }
    Ok(())
}
