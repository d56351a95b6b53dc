//! The life of buckets.

use granary_types::{BucketAcl, BucketId, Redundancy};

use super::{Suite, bucket_record, inline};
use crate::pb;
use crate::pb::rejection::Reason;
use crate::pb::state::bucket::State;

async fn reason_of_create(suite: &Suite, command: pb::CreateBucket) -> Reason {
    let decision = suite.meta.create_bucket(command).await.unwrap();
    decision.map_or_else(|rejection| rejection.reason(), |_| Reason::None)
}

fn create(name: &str) -> pb::CreateBucket {
    pb::CreateBucket {
        bucket: Some(bucket_record(name)),
        ..Default::default()
    }
}

/// A name belongs to one account; its owner may create it again, with the same configuration.
pub async fn created_once_by_one_owner(suite: Suite) {
    let bucket = suite.bucket("mine").await;
    assert_eq!(suite.bucket("mine").await.id, bucket.id);
    let mut public = create("mine");
    public.acl_given = true;
    public.bucket.as_mut().unwrap().acl = BucketAcl::PublicRead.number();
    let changed = suite.meta.create_bucket(public).await.unwrap().unwrap();
    assert_eq!(changed.acl, BucketAcl::PublicRead.number());
    assert_eq!(
        suite
            .meta
            .create_bucket(create("mine"))
            .await
            .unwrap()
            .unwrap()
            .acl,
        changed.acl
    );
    let mut other = create("mine");
    other.bucket.as_mut().unwrap().owner = 2;
    assert_eq!(
        reason_of_create(&suite, other).await,
        Reason::BucketExistsOtherOwner
    );
    let mut zrs = create("mine");
    zrs.bucket.as_mut().unwrap().redundancy = Redundancy::Zrs.number();
    assert_eq!(
        reason_of_create(&suite, zrs).await,
        Reason::BucketExistsOtherConfig
    );
    let mut limited = create("too-many");
    limited.buckets_max = 1;
    assert_eq!(
        reason_of_create(&suite, limited).await,
        Reason::TooManyBuckets
    );
    suite.bucket("also-mine").await;
    let list = pb::ListBuckets {
        owner: super::OWNER,
        limit: 1,
        ..Default::default()
    };
    let page = suite.meta.query(list.clone()).await.unwrap();
    assert!(page.more && page.buckets[0].name == "also-mine");
    let list = pb::ListBuckets {
        marker: page.next_marker,
        ..list
    };
    let page = suite.meta.query(list).await.unwrap();
    assert!(!page.more && page.buckets[0].name == "mine");
    // Buckets do not all land on one shard.
    let mut shards = Vec::new();
    for n in 0..4 {
        let bucket = suite.bucket(&format!("spread-{n}")).await;
        shards.push(suite.shard_of(bucket, "a").await);
    }
    shards.sort_unstable();
    shards.dedup();
    assert!(shards.len() > 1, "{shards:?}");
}

/// A bucket that holds objects or uploads is not deleted; an empty one is, and its name is free.
pub async fn a_bucket_with_contents_stays(suite: Suite) {
    let bucket = suite.bucket("full").await;
    suite.put(bucket, "a", "x").await;
    let refused = suite
        .meta
        .delete_bucket(bucket.id)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (refused.reason(), refused.detail.as_str()),
        (Reason::BucketNotEmpty, "objects")
    );
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("x"));
    suite.put(bucket, "b", "still open").await;
    suite.delete(bucket, "a").await;
    suite.delete(bucket, "b").await;
    let upload_id = suite.begin_write(bucket, "u").await;
    let initiate = pb::InitiateUpload {
        at: Some(bucket.at("u")),
        upload_id: upload_id.clone(),
        ..Default::default()
    };
    suite.accepted(initiate).await;
    let refused = suite
        .meta
        .delete_bucket(bucket.id)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (refused.reason(), refused.detail.as_str()),
        (Reason::BucketNotEmpty, "uploads")
    );
    suite
        .accepted(pb::AbortUpload {
            at: Some(bucket.at("u")),
            upload_id,
        })
        .await;
    suite.meta.delete_bucket(bucket.id).await.unwrap().unwrap();
    let gone = suite
        .meta
        .query(pb::GetBucket {
            name: "full".to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(!gone.found);
    let put = pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(inline("too late")),
        ..Default::default()
    };
    assert_eq!(suite.rejected(put).await, Reason::NoSuchBucket);
    assert_eq!(
        suite
            .meta
            .delete_bucket(bucket.id)
            .await
            .unwrap()
            .unwrap_err()
            .reason(),
        Reason::NoSuchBucket
    );
    assert_ne!(suite.bucket("full").await.id, bucket.id);
}

/// What a client left half done is found and finished.
pub async fn unfinished_buckets_are_finished(suite: Suite) {
    let created = suite.accepted(create("half-made")).await;
    assert_eq!(created.state(), State::Creating);
    let doomed = suite.bucket("half-deleted").await;
    suite
        .accepted(pb::BeginDeleteBucket {
            bucket_id: doomed.id.0,
        })
        .await;
    let kept = suite.bucket("not-empty").await;
    suite.put(kept, "a", "x").await;
    suite
        .accepted(pb::BeginDeleteBucket {
            bucket_id: kept.id.0,
        })
        .await;
    let unfinished = pb::ListUnfinishedBuckets { limit: 10 };
    let found = suite.meta.query(unfinished).await.unwrap().buckets;
    assert_eq!(found.len(), 3);
    for bucket in found {
        suite.meta.finish_bucket(bucket).await.unwrap().unwrap();
    }
    assert!(
        suite
            .meta
            .query(unfinished)
            .await
            .unwrap()
            .buckets
            .is_empty()
    );
    let made = suite.bucket("half-made").await;
    assert_eq!(made.id.0, created.id);
    suite.put(made, "a", "usable").await;
    let gone = suite
        .meta
        .query(pb::GetBucketById { id: doomed.id.0 })
        .await
        .unwrap();
    assert!(!gone.found);
    // The attempt raised the generation: a gateway looks the bucket up again and goes on.
    let known = suite
        .meta
        .query(pb::GetBucketById { id: kept.id.0 })
        .await
        .unwrap()
        .bucket
        .unwrap();
    let kept = super::TestBucket {
        id: BucketId(known.id),
        generation: known.generation,
    };
    assert_eq!(known.state(), State::Active);
    suite.put(kept, "b", "usable").await;
    assert_eq!(suite.get(kept, "a").await.as_deref(), Some("x"));
}

/// Of two attempts to delete a bucket the later one counts; the earlier can neither lift its fence
/// nor drop what was written after it.
pub async fn attempts_to_delete_do_not_mix(suite: Suite) {
    use pb::fence_bucket::Action;
    let bucket = suite.bucket("contested").await;
    let shard = suite.shard_of(bucket, "a").await;
    let begin = pb::BeginDeleteBucket {
        bucket_id: bucket.id.0,
    };
    let first = suite.accepted(begin).await.generation;
    let second = suite.accepted(begin).await.generation;
    let meta = suite.meta.clone();
    let fence = |generation: u64, action: Action| {
        let command = pb::FenceBucket {
            bucket_id: bucket.id.0,
            generation,
            action: action.into(),
            segment: None,
        };
        let meta = meta.clone();
        async move {
            let decision = meta.propose_to(shard, command).await.unwrap();
            decision.map(|reply| reply.empty).map_err(|no| no.reason())
        }
    };
    assert_eq!(fence(first, Action::Fence).await, Ok(true));
    assert_eq!(fence(second, Action::Fence).await, Ok(true));
    assert_eq!(fence(first, Action::Unfence).await, Err(Reason::Stale));
    assert_eq!(fence(first, Action::Drop).await, Err(Reason::Stale));
    assert_eq!(fence(second, Action::Unfence).await, Ok(true));
    let after = super::TestBucket {
        generation: second,
        ..bucket
    };
    suite.put(after, "a", "acknowledged").await;
    assert_eq!(fence(second, Action::Drop).await, Err(Reason::Stale));
    assert_eq!(
        fence(second, Action::Fence).await,
        Err(Reason::Stale),
        "it gave up"
    );
    let end = |generation: u64, deleted: bool| pb::EndDeleteBucket {
        bucket_id: bucket.id.0,
        deleted,
        generation,
    };
    assert_eq!(suite.rejected(end(first, true)).await, Reason::Stale);
    suite.accepted(end(second, false)).await;
    assert_eq!(suite.get(after, "a").await.as_deref(), Some("acknowledged"));
}
