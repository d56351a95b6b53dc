//! EndDeleteBucket: the bucket is dropped on every shard and goes, or it was not empty and stays.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state::bucket::State;

use super::root_rows::{get_bucket, put_bucket, remove_bucket};
use super::{Apply, ApplyContext, Refusal, Tx, empty};

impl Apply for pb::EndDeleteBucket {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let mut bucket = get_bucket(tx, self.bucket_id)?;
        if bucket.generation != self.generation || bucket.state() != State::Deleting {
            return Err(Reason::Stale.into());
        }
        if self.deleted {
            remove_bucket(tx, &bucket);
        } else {
            bucket.set_state(State::Active);
            // The shards have this generation from the fence, without what was being configured.
            bucket.generation += u64::from(bucket.settling);
            put_bucket(tx, &bucket)?;
        }
        empty()
    }
}
