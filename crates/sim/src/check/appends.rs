//! Invariant: what was appended to is the appends that were acknowledged, each where it said, and of
//! those without an answer some; whatever a reader saw is its beginning.

use std::time::Duration;

use super::{SOON, eventually};
use crate::Cluster;
use crate::gateway::{Bucket, Gateway};

/// How long a healed cluster may take to answer a read.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Reads every object that was appended to, and compares.
pub async fn check(cluster: &Cluster, reader: &Gateway, bucket: &Bucket) {
    for name in reader.record.appends.names() {
        if name.0 != bucket.id.0 {
            continue;
        }
        let bytes = parking_lot::Mutex::new(Vec::new());
        let read = eventually(cluster, ANSWER_WITHIN, SOON, || async {
            let read = reader.read_appended(bucket, &name.1).await;
            *bytes.lock() = read.map_err(|_| format!("{name:?} cannot be read"))?;
            Ok(())
        });
        if let Err(wrong) = read.await {
            cluster.findings().report(format!("after healing: {wrong}"));
            continue;
        }
        let bytes = bytes.into_inner();
        for violation in reader.record.appends.violations(&name, &bytes) {
            cluster.findings().report(violation);
        }
    }
}
