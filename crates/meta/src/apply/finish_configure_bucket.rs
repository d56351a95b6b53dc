//! FinishConfigureBucket: every owning shard knows the bucket's generation.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::{get_bucket, put_bucket};
use super::{Apply, ApplyContext, Refusal, Tx, empty};

impl Apply for pb::FinishConfigureBucket {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let mut bucket = get_bucket(tx, self.bucket_id)?;
        // A later change is somebody else's to finish.
        if bucket.settling && bucket.generation == self.generation {
            bucket.settling = false;
            put_bucket(tx, &bucket)?;
        }
        empty()
    }
}
