//! The gateway's view of buckets: a bounded cache with a short life.
//!
//! Invariant: a missing bucket is never remembered, so what was just created is found at once. An
//! old view can make a request late, never destructive: commits carry the bucket's id and
//! generation, and shards refuse those they do not know.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::{Meta, MetaError, pb};
use granary_oss::xml::CorsConfiguration;
use granary_runtime::Runtime;
use granary_types::{
    AccountId, BucketAcl, BucketId, BucketName, ObjectKey, Redundancy, StorageClass, Timestamp,
};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

/// Views kept at most.
const VIEWS_MAX: usize = 16 * 1024;

/// Whether a bucket keeps old versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versioning {
    /// Never configured.
    Unset,
    /// On.
    Enabled,
    /// Off again.
    Suspended,
}

/// A bucket as the gateway saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) id: BucketId,
    pub(crate) name: BucketName,
    pub(crate) owner: AccountId,
    pub(crate) created: Timestamp,
    pub(crate) storage_class: StorageClass,
    pub(crate) redundancy: Redundancy,
    pub(crate) acl: BucketAcl,
    pub(crate) versioning: Versioning,
    /// Keys are paths through directories.
    pub(crate) hierarchical: bool,
    pub(crate) generation: u64,
    /// Being deleted: commits are refused until that is decided.
    pub(crate) deleting: bool,
    pub(crate) resource_group: String,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) cors: Option<Arc<CorsConfiguration>>,
}

/// Names of the configurations that stand in rows of their own.
pub(crate) mod config {
    /// Rules of [`granary_oss::xml::CorsConfiguration`].
    pub(crate) const CORS: &str = "cors";
}

impl Bucket {
    /// Where a command or a query about a key acts.
    pub(crate) fn position(&self, key: &ObjectKey) -> pb::Position {
        pb::Position {
            bucket_id: self.id.0,
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
            generation: self.generation,
        }
    }

    /// Reads a record; `None` for one that has no value of this version in a closed set, and for
    /// a bucket whose creation is not finished. Rules that cannot be read grant nothing.
    pub(crate) fn from_record(
        record: &pb::state::Bucket,
        configs: &[pb::BucketConfig],
    ) -> Option<Self> {
        use pb::state::bucket::State;
        let state = State::try_from(record.state).ok()?;
        if state == State::Creating {
            return None;
        }
        Some(Self {
            id: BucketId(record.id),
            name: BucketName::try_from(record.name.as_str()).ok()?,
            owner: AccountId(record.owner),
            created: Timestamp(record.created_ms),
            storage_class: StorageClass::from_number(record.storage_class)?,
            redundancy: Redundancy::from_number(record.redundancy)?,
            acl: BucketAcl::from_number(record.acl)?,
            versioning: match record.versioning {
                0 => Versioning::Unset,
                1 => Versioning::Enabled,
                _ => Versioning::Suspended,
            },
            hierarchical: record.hierarchical,
            generation: record.generation,
            deleting: state == State::Deleting,
            resource_group: record.resource_group.clone(),
            tags: record
                .tags
                .iter()
                .map(|tag| (tag.key.clone(), tag.value.clone()))
                .collect(),
            cors: configs
                .iter()
                .find(|known| known.name == config::CORS)
                .and_then(|known| CorsConfiguration::parse(&known.config).ok())
                .map(Arc::new),
        })
    }
}

/// The cache.
pub(crate) struct BucketViews {
    runtime: Runtime,
    meta: Meta,
    life: Duration,
    lookups: Counter,
    views: Mutex<HashMap<BucketName, View>>,
}

struct View {
    bucket: Arc<Bucket>,
    dies_at: Duration,
}

impl BucketViews {
    pub(crate) fn new(runtime: Runtime, meta: Meta, life: Duration, lookups: Counter) -> Self {
        Self {
            runtime,
            meta,
            life,
            lookups,
            views: Mutex::default(),
        }
    }

    /// A bucket as it is, or was a moment ago.
    ///
    /// # Errors
    /// The root gave no answer.
    pub(crate) async fn find(&self, name: &BucketName) -> Result<Option<Arc<Bucket>>, MetaError> {
        let now = self.runtime.monotonic();
        let known = self
            .views
            .lock()
            .get(name)
            .and_then(|view| (view.dies_at > now).then(|| Arc::clone(&view.bucket)));
        match known {
            Some(bucket) => Ok(Some(bucket)),
            None => self.find_now(name).await,
        }
    }

    /// A bucket as it is.
    ///
    /// # Errors
    /// The root gave no answer.
    pub(crate) async fn find_now(
        &self,
        name: &BucketName,
    ) -> Result<Option<Arc<Bucket>>, MetaError> {
        // The view lives from before the question, so that it is never older than it says.
        let asked_at = self.runtime.monotonic();
        self.lookups.inc();
        let answer = self
            .meta
            .query(pb::GetBucket {
                name: name.as_str().to_owned(),
                configs: vec![config::CORS.to_owned()],
            })
            .await?;
        let record = answer.bucket.filter(|_| answer.found);
        let bucket = record
            .and_then(|record| Bucket::from_record(&record, &answer.configs))
            .map(Arc::new);
        let mut views = self.views.lock();
        match &bucket {
            None => {
                views.remove(name);
            }
            Some(bucket) => {
                if views.len() >= VIEWS_MAX {
                    views.retain(|_, view| view.dies_at > asked_at);
                }
                if views.len() >= VIEWS_MAX {
                    views.clear();
                }
                let dies_at = asked_at + self.life;
                views.insert(
                    name.clone(),
                    View {
                        bucket: Arc::clone(bucket),
                        dies_at,
                    },
                );
            }
        }
        Ok(bucket)
    }

    /// Forgets a bucket: this gateway has changed it.
    pub(crate) fn forget(&self, name: &BucketName) {
        self.views.lock().remove(name);
    }
}
