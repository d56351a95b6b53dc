//! SetBucketConfig: stores one configuration of a bucket, or removes it. Gateways hear of it when
//! their view ages; what stands in it is theirs to understand.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;
use granary_types::limits;

use super::root_rows::{config_of, get_bucket};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::SetBucketConfig {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let bucket = get_bucket(tx, self.bucket_id)?;
        if self.name.is_empty() || self.name.len() > limits::BUCKET_CONFIG_NAME_BYTES_MAX {
            return Err(Refusal::invalid("not the name of a configuration"));
        }
        let row = config_of(tx, bucket.id, &self.name);
        if self.config.is_empty() {
            tx.delete(&row);
        } else {
            let config = state::ConfigRow {
                config: self.config,
            };
            tx.put_config(&row, &config)?;
        }
        Ok(Reply::Bucket(bucket))
    }
}
