//! Links into a bucket that is replaced while one is being followed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use granary_meta_api::{MetaError, MetaService, pb};
use granary_types::{BucketAcl, ObjectAcl, ObjectType, Redundancy, ShardId, StorageClass};

use super::client::Sign;
use super::fixture::{Served, map};

/// A bucket of account 1 with a public link and its public target. After `looks` look-ups of its
/// objects it is gone, and account 2 has a bucket of that name, where the target is private.
struct Replaced {
    looks: u32,
    seen: AtomicU32,
}

const OLD: u64 = 1;
const NEW: u64 = 2;

impl Replaced {
    fn current(&self) -> u64 {
        match self.seen.load(Ordering::SeqCst) < self.looks {
            true => OLD,
            false => NEW,
        }
    }

    fn bucket(&self) -> pb::BucketResult {
        let bucket = pb::state::Bucket {
            id: self.current(),
            name: "site".to_owned(),
            owner: self.current(),
            storage_class: StorageClass::Standard.number(),
            redundancy: Redundancy::Lrs.number(),
            acl: BucketAcl::PublicRead.number(),
            state: pb::state::bucket::State::Active.into(),
            generation: 1,
            ..Default::default()
        };
        pb::BucketResult {
            found: true,
            bucket: Some(bucket),
            configs: Vec::new(),
        }
    }

    fn version(&self, at: &pb::Position) -> pb::VersionResult {
        if at.bucket_id != self.current() {
            return pb::VersionResult {
                bucket_unknown: true,
                ..Default::default()
            };
        }
        let mut version = pb::state::Version {
            object_type: ObjectType::Symlink.number(),
            symlink_target: "target".to_owned(),
            ..Default::default()
        };
        self.seen.fetch_add(1, Ordering::SeqCst);
        let mut inline = Bytes::new();
        if at.key.as_ref() == b"target" {
            inline = Bytes::from_static(b"secret");
            version = pb::state::Version {
                object_type: ObjectType::Normal.number(),
                size: 6,
                ..Default::default()
            };
            if at.bucket_id == NEW {
                version.acl = ObjectAcl::Private.number();
            }
        }
        pb::VersionResult {
            found: true,
            version: Some(version),
            inline,
            ..Default::default()
        }
    }
}

#[async_trait]
impl MetaService for Replaced {
    async fn propose(&self, _: ShardId, _: pb::Command) -> Result<pb::CommandReply, MetaError> {
        Err(MetaError::Invalid("nothing changes here".to_owned()))
    }

    async fn query(&self, _: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        use pb::query::Query as Q;
        use pb::query_reply::Reply as R;
        let reply = match query.query {
            Some(Q::GetBucket(_)) => R::Bucket(self.bucket()),
            Some(Q::GetVersion(query)) => R::Version(self.version(&query.at.unwrap_or_default())),
            Some(Q::GetClusterMap(_)) => R::ClusterMap(map()),
            _ => return Err(MetaError::Invalid("no answer here".to_owned())),
        };
        Ok(pb::QueryReply { reply: Some(reply) })
    }
}

#[tokio::test]
async fn a_link_leads_into_its_own_bucket_only() {
    // Never replaced, and between the look-ups of the link and of its target.
    for (looks, status) in [(u32::MAX, 200), (1, 503)] {
        let service = Arc::new(Replaced {
            looks,
            seen: AtomicU32::new(0),
        });
        let served = Served::answering(service, |_| ()).await;
        let anyone = served.client().signing(Sign::Anonymous);
        assert_eq!(anyone.head("site/link").await.status, status, "{looks}");
    }
}
