//! Invariant: every key is linearizable, and what was acknowledged is there at the end.
//!
//! The last reads of every key join the history, so that a lost acknowledged write is a history
//! that no order explains. Their bytes are compared as those of every other read.

use std::time::Duration;

use granary_types::ByteRange;

use super::{SOON, eventually};
use crate::Cluster;
use crate::gateway::{Bucket, Gateway};
use crate::workload::keys;

/// How long a healed cluster may take to answer a read.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Reads every key to the end, then checks every history.
pub async fn check(cluster: &Cluster, reader: &Gateway, buckets: &[Bucket]) {
    for bucket in buckets {
        for key in keys() {
            let read = eventually(cluster, ANSWER_WITHIN, SOON, || async {
                let read = reader.get(bucket, &key, ByteRange::whole).await;
                read.map_err(|_| format!("{:?} cannot be read", bucket.object(&key)))
            });
            if let Err(wrong) = read.await {
                cluster.findings().report(format!("after healing: {wrong}"));
            }
        }
    }
    for violation in reader.record.history.violations() {
        cluster.findings().report(violation);
    }
}
