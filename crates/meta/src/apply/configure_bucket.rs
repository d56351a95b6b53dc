//! ConfigureBucket: the shard learns of a bucket, or of a newer generation of it.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::bucket_rows::{check_segment, view_key};
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::rows::Rows;

impl Apply for pb::ConfigureBucket {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let Some(view) = self.view else {
            return Err(Refusal::invalid("no view"));
        };
        let bucket = BucketId(view.bucket_id);
        check_segment(tx, bucket, self.segment.as_ref())?;
        let segment = self.segment.unwrap_or_default();
        if view.hierarchical && (segment.bounded || !segment.start_key.is_empty()) {
            return Err(Refusal::invalid("a bucket with directories is one shard's"));
        }
        let row = view_key(tx, bucket);
        match tx.get(&row)? {
            Some(known) if known.dropped => return Err(Reason::NoSuchBucket.into()),
            Some(known) if known.generation > view.generation => return Err(Reason::Stale.into()),
            // The same generation again changes nothing, a fence least of all.
            Some(known) if known.generation == view.generation => {}
            _ => {
                let view = state::BucketView {
                    dropped: false,
                    ..view
                };
                tx.put(&row, &view)?;
            }
        }
        empty()
    }
}
