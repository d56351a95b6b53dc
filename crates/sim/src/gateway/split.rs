//! A split, as an operator asks for it.

use bytes::Bytes;
use granary_meta_api::pb;

use super::{Bucket, Gateway, NotDone};

impl Gateway {
    /// Splits the range that holds a key at that key, into a new shard.
    ///
    /// # Errors
    /// It was not done, or the key is where a range starts already.
    pub async fn split(&self, bucket: &Bucket, key: &str) -> Result<(), NotDone> {
        let nonce = self.life.runtime.entropy().next_u128().to_be_bytes();
        let command = pb::AllocateShard {
            nonce: Bytes::copy_from_slice(&nonce),
        };
        let allocated = match self.meta.propose(command).await {
            Ok(Ok(allocated)) => allocated,
            Ok(Err(no)) => return Err(self.judge_rejection("shard allocation", &no)),
            Err(error) => return Err(self.judge("shard allocation", &error)),
        };
        let segments = self.meta.segments(bucket.id).await;
        let segments = segments.map_err(|error| self.judge("segments", &error))?;
        let key = Bytes::copy_from_slice(key.as_bytes());
        let holder = segments
            .iter()
            .rev()
            .find(|segment| segment.start_key <= key);
        let holder = holder
            .filter(|segment| segment.start_key < key)
            .ok_or(NotDone)?;
        let command = pb::SplitRange {
            split_bucket: bucket.id.0,
            split_key: key,
            child_shard: u32::try_from(allocated.id).unwrap_or(0),
            child_home_slab: allocated.slab,
            // The leader fills in its own.
            voters: Vec::new(),
            ..Default::default()
        };
        match self.meta.propose_to(holder.shard, command).await {
            Ok(Ok(_)) => {
                self.count("split");
                Ok(())
            }
            Ok(Err(no)) => Err(self.judge_rejection("split", &no)),
            Err(error) => Err(self.judge("split", &error)),
        }
    }
}
