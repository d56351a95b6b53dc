//! SetBucketTags: replaces a bucket's tags, or removes some of them.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_types::limits;

use super::root_rows::{get_bucket, put_bucket};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SetBucketTags {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let mut bucket = get_bucket(tx, self.bucket_id)?;
        if self.only_named {
            let named = |key: &str| self.tags.iter().any(|tag| tag.key == key);
            bucket.tags.retain(|tag| !named(&tag.key));
        } else {
            if self.tags.len() > limits::BUCKET_TAGS_MAX {
                return Err(Refusal::invalid("too many tags"));
            }
            bucket.tags = self.tags;
        }
        put_bucket(tx, &bucket)?;
        Ok(Reply::Bucket(bucket))
    }
}
