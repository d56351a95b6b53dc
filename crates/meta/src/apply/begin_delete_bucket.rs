//! BeginDeleteBucket: starts an attempt to delete a bucket.
//!
//! Every attempt has a generation of its own. A later attempt takes over: the shards and the root
//! refuse what an earlier one still sends.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state::bucket::State;

use super::root_rows::{get_bucket, put_bucket};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::BeginDeleteBucket {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let mut bucket = get_bucket(tx, self.bucket_id)?;
        bucket.set_state(State::Deleting);
        bucket.generation += 1;
        put_bucket(tx, &bucket)?;
        Ok(Reply::Bucket(bucket))
    }
}
