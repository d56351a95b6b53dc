//! FinishCreateBucket: every owning shard knows the bucket; from now on it exists.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state::bucket::State;

use super::root_rows::{get_bucket, put_bucket};
use super::{Apply, ApplyContext, Refusal, Tx, empty};

impl Apply for pb::FinishCreateBucket {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let mut bucket = get_bucket(tx, self.bucket_id)?;
        match bucket.state() {
            State::Active => {}
            State::Creating => {
                bucket.set_state(State::Active);
                put_bucket(tx, &bucket)?;
            }
            State::Deleting => return Err(Reason::Stale.into()),
        }
        empty()
    }
}
