//! Shards at a level below the newest do what the versions of that level do: their replicas run beside
//! these.

use std::sync::Arc;

use bytes::Bytes;
use granary_kv::MemoryKv;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{Meta, MetaControl as _, pb};
use granary_raft::NoPeers;
use granary_types::limits;

use super::super::{MetaConfig, MetaNode};
use super::{NODE, client, cluster, create_bucket, put, runtime};
use crate::FEATURE_LEVEL;
use crate::apply::PREFIXES;

const VERSIONING_ENABLED: u32 = 1;

/// The reason of a refused append above a delete marker, and whether a part has kept the digest that it
/// was sent with.
async fn done_today(meta: &Meta, bucket: &pb::state::Bucket, n: u32) -> (Option<Reason>, bool) {
    let at = put(bucket, n).at;
    meta.propose(put(bucket, n)).await.unwrap().unwrap();
    let delete = pb::DeleteObject {
        at: at.clone(),
        ..Default::default()
    };
    meta.propose(delete).await.unwrap().unwrap();
    let append = pb::AppendObject {
        at: at.clone(),
        payload: put(bucket, n).payload,
        ..Default::default()
    };
    let appended = meta.propose(append).await.unwrap();

    let (upload_id, _) = meta.begin_write(at.clone().unwrap()).await.unwrap();
    let initiate = pb::InitiateUpload {
        at: at.clone(),
        upload_id: upload_id.clone(),
        sequential: true,
        ..Default::default()
    };
    meta.propose(initiate).await.unwrap().unwrap();
    let digest = Bytes::from_static(&[7; 16]);
    let part = pb::PutPart {
        at: at.clone(),
        upload_id: upload_id.clone(),
        number: 1,
        payload: put(bucket, n).payload,
        prefix: Some(pb::state::PrefixDigest {
            before: digest.clone(),
            md5_state: Bytes::new(),
            md5: digest,
        }),
        ..Default::default()
    };
    meta.propose(part).await.unwrap().unwrap();
    let parts = pb::ListParts {
        at,
        upload_id,
        after: 0,
        limit: limits::PART_NUMBER_MAX,
    };
    let kept = meta.query(parts).await.unwrap();
    let refused = appended.err().map(|refused| refused.reason());
    (refused, kept.parts[0].prefix.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_shard_does_what_older_replicas_do_until_its_level_rises() {
    let runtime = runtime(11);
    let config = MetaConfig {
        data_shards: 1,
        first_feature_level: PREFIXES - 1,
        ..MetaConfig::default()
    };
    let kv = Arc::new(MemoryKv::new());
    let node = MetaNode::open(runtime.child(), NODE, kv, Arc::new(NoPeers), config);
    let node = node.await.unwrap();
    node.bootstrap(cluster()).await.unwrap();
    let meta = client(&node, &runtime);
    let bucket = create_bucket(&meta).await;
    let versioned = pb::SetBucketVersioning {
        bucket_id: bucket.id,
        versioning: VERSIONING_ENABLED,
    };
    let bucket = meta.set_bucket_versioning(versioned).await;
    let bucket = bucket.unwrap().unwrap();
    let before = done_today(&meta, &bucket, 1).await;
    assert_eq!(before, (Some(Reason::ObjectNotAppendable), false));

    let level = FEATURE_LEVEL;
    for replica in node.list_replicas().await.unwrap() {
        let shard = granary_types::ShardId(replica.shard);
        let raise = pb::ActivateFeature {
            level,
            nodes: Vec::new(),
        };
        let risen = meta.propose_to(shard, raise).await;
        risen.unwrap().unwrap();
    }
    assert_eq!(done_today(&meta, &bucket, 2).await, (None, true));
}
