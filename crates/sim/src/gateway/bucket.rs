//! Buckets as a gateway of the simulation makes, configures and deletes them.

use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state::bucket::State;
use granary_meta_api::pb::{self, state};
use granary_types::{BucketAcl, BucketId, Redundancy, StorageClass};

use super::{Gateway, NotDone};
use crate::cluster::OWNER;
use crate::history::ObjectName;
use crate::linearizability::Action;

/// A bucket as a gateway saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Identity.
    pub id: BucketId,
    /// Name.
    pub name: String,
    /// The generation that commits carry.
    pub generation: u64,
}

impl Bucket {
    fn of(record: &state::Bucket) -> Self {
        Self {
            id: BucketId(record.id),
            name: record.name.clone(),
            generation: record.generation,
        }
    }

    /// Where a command about a key acts.
    pub fn position(&self, key: &str) -> pb::Position {
        pb::Position {
            bucket_id: self.id.0,
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
            generation: self.generation,
        }
    }

    /// A key of this bucket in the history.
    pub fn object(&self, key: &str) -> ObjectName {
        (self.id.0, key.to_owned())
    }
}

impl Gateway {
    /// GetBucket: `None` when there is none, or not yet, or not for long.
    ///
    /// # Errors
    /// No answer.
    pub async fn find_bucket(&self, name: &str) -> Result<Option<Bucket>, NotDone> {
        let answer = self
            .meta
            .query(pb::GetBucket {
                name: name.to_owned(),
                ..Default::default()
            })
            .await;
        let answer = answer.map_err(|error| self.judge("look-up of a bucket", &error))?;
        let active = |record: &state::Bucket| answer.found && record.state() == State::Active;
        Ok(answer
            .bucket
            .as_ref()
            .filter(|record| active(record))
            .map(Bucket::of))
    }

    /// PutBucket.
    ///
    /// # Errors
    /// It was not done, or not in full.
    pub async fn create_bucket(&self, name: &str) -> Result<Bucket, NotDone> {
        let wanted = state::Bucket {
            name: name.to_owned(),
            owner: OWNER.0,
            storage_class: StorageClass::Standard.number(),
            redundancy: Redundancy::Lrs.number(),
            acl: BucketAcl::Private.number(),
            ..state::Bucket::default()
        };
        let command = pb::CreateBucket {
            bucket: Some(wanted),
            buckets_max: 0,
            acl_given: false,
        };
        match self.meta.create_bucket(command).await {
            Ok(Ok(record)) => {
                self.count("bucket created");
                Ok(Bucket::of(&record))
            }
            Ok(Err(no)) => Err(self.judge_rejection("bucket creation", &no)),
            Err(error) => Err(self.judge("bucket creation", &error)),
        }
    }

    /// DeleteBucket: true when it is gone, false when it is not empty. When it is gone, every key
    /// of it was absent: `keys` are noted so.
    ///
    /// # Errors
    /// It was not done, or not in full.
    pub async fn delete_bucket(&self, bucket: &Bucket, keys: &[String]) -> Result<bool, NotDone> {
        let called = self.record.history.call();
        match self.meta.delete_bucket(bucket.id).await {
            Ok(Ok(())) => {
                let names: Vec<ObjectName> = keys.iter().map(|key| bucket.object(key)).collect();
                let absent = names.iter().map(|name| (name, Action::Read(None)));
                self.record
                    .history
                    .answered_many(self.client(), called, absent);
                self.count("bucket deleted");
                Ok(true)
            }
            Ok(Err(no)) if no.reason() == Reason::BucketNotEmpty => {
                self.count("bucket not empty");
                Ok(false)
            }
            Ok(Err(no)) => Err(self.judge_rejection("bucket deletion", &no)),
            Err(error) => Err(self.judge("bucket deletion", &error)),
        }
    }

    /// Every bucket; an error while one is still being created or deleted.
    ///
    /// # Errors
    /// A sentence.
    pub async fn settled_buckets(&self) -> Result<Vec<Bucket>, String> {
        let query = pb::ListBuckets {
            owner: OWNER.0,
            limit: 100,
            ..pb::ListBuckets::default()
        };
        let listed = self
            .meta
            .query(query)
            .await
            .map_err(|error| error.to_string())?;
        let unfinished = pb::ListUnfinishedBuckets { limit: 100 };
        let unfinished = self
            .meta
            .query(unfinished)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(bucket) = unfinished.buckets.first() {
            return Err(format!("bucket {} stays {:?}", bucket.name, bucket.state()));
        }
        Ok(listed.buckets.iter().map(Bucket::of).collect())
    }
}
