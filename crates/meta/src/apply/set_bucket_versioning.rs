//! SetBucketVersioning: a new generation of the bucket, which keeps old versions or no longer does.
//!
//! Shards decide by what they know, so every one of them has to be told before the caller is
//! answered; until FinishConfigureBucket the bucket counts as unfinished, and a worker tells them
//! when the caller has died.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state::bucket::State;

use super::root_rows::{get_bucket, put_bucket};
use super::versions::versioning;
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SetBucketVersioning {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        if !matches!(self.versioning, versioning::ENABLED | versioning::SUSPENDED) {
            return Err(Refusal::invalid("an unknown state of versioning"));
        }
        let mut bucket = get_bucket(tx, self.bucket_id)?;
        match bucket.state() {
            State::Active => {}
            State::Creating => return Err(Reason::NoSuchBucket.into()),
            // Whether it stays is being decided.
            State::Deleting => return Err(Reason::Stale.into()),
        }
        if bucket.hierarchical {
            return Err(Refusal::invalid(
                "a bucket with directories keeps no versions",
            ));
        }
        if bucket.versioning != self.versioning {
            bucket.versioning = self.versioning;
            bucket.generation += 1;
            bucket.settling = true;
            put_bucket(tx, &bucket)?;
        }
        Ok(Reply::Bucket(bucket))
    }
}
