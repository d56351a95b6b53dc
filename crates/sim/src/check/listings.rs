//! Invariant: listings show exactly the keys that point reads find, whatever the page size and
//! the delimiter, across ranges that were split.
//!
//! Every page joins the keys' histories as reads, so the comparison itself is the check of the
//! histories; this one makes sure that there are such pages of the final state.

use std::time::Duration;

use super::{SOON, eventually};
use crate::Cluster;
use crate::gateway::{Bucket, Gateway, ListOptions};
use crate::workload::keys;

const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Lists every bucket in several ways.
pub async fn list_all(cluster: &Cluster, reader: &Gateway, buckets: &[Bucket]) {
    for bucket in buckets {
        for (prefix, delimiter, limit) in [
            ("", "", 1000),
            ("", "", 1),
            ("", "/", 2),
            ("b/", "/", 1),
            ("a", "", 3),
        ] {
            let options = ListOptions {
                prefix: prefix.to_owned(),
                delimiter: delimiter.to_owned(),
                limit,
            };
            let listed = eventually(cluster, ANSWER_WITHIN, SOON, || async {
                let listed = reader.list(bucket, &keys(), &options).await;
                listed.map_err(|_| format!("{} cannot be listed", bucket.name))
            });
            if let Err(wrong) = listed.await {
                cluster.findings().report(format!("after healing: {wrong}"));
            }
        }
    }
}
