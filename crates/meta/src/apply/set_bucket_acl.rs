//! SetBucketAcl: who may do what with a bucket. Gateways hear of it when their view ages.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_types::BucketAcl;

use super::root_rows::{get_bucket, put_bucket};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SetBucketAcl {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        if BucketAcl::from_number(self.acl).is_none() {
            return Err(Refusal::invalid("an unknown ACL"));
        }
        let mut bucket = get_bucket(tx, self.bucket_id)?;
        bucket.acl = self.acl;
        put_bucket(tx, &bucket)?;
        Ok(Reply::Bucket(bucket))
    }
}
