//! What clients ask for: a few keys, so that they meet, and every operation that changes or shows
//! them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::within;
use granary_types::ByteRange;
use granary_types::limits::PART_BYTES_MIN;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::Cluster;
use crate::content::{Content, Lengths};
use crate::gateway::{Bucket, Gateway, ListOptions, NotDone, UploadEnd};
use crate::net::Endpoint;
use crate::scenario::{Stream, stream};

/// Buckets that live through the run.
pub const BUCKETS: [&str; 2] = ["granary-sim-one", "granary-sim-two"];
/// The bucket whose objects are appended to.
pub const LOGS: &str = "granary-sim-logs";
/// Its objects.
const LOG_KEYS: [&str; 2] = ["a", "z"];
/// The bucket that comes and goes.
pub const FLEETING: &str = "granary-sim-fleeting";

/// The endpoint of the first client; nodes are below.
pub const FIRST_CLIENT: u64 = 101;
/// The endpoint of the operator.
pub const OPERATOR: Endpoint = Endpoint(90);

/// Every key that a run may write, in byte order.
pub fn keys() -> Vec<String> {
    let keys = [
        "a", "a/1", "a/2", "b", "b/x/1", "b/x/2", "b/y", "c", "d/1/2/3", "e", "z",
    ];
    keys.map(str::to_owned).to_vec()
}

/// Lengths of bodies that travel inside the commit.
const INLINE: Lengths = Lengths {
    least: 1,
    most: 900,
};
/// Lengths of bodies that become chunks.
const CHUNKED: Lengths = Lengths {
    least: 1200,
    most: 40_000,
};
/// The last part of an upload.
const LAST_PART: Lengths = Lengths {
    least: 1,
    most: 20_000,
};

/// Lengths of small appends: long enough that no two have the same bytes.
const APPENDED: Lengths = Lengths {
    least: 16,
    most: 900,
};
/// Lengths of appends that become chunks.
const APPENDED_CHUNKS: Lengths = Lengths {
    least: 1200,
    most: 9000,
};

/// The operations that only read, among the hundred.
const READS: Range<u32> = 50..88;
/// How often a client dies in the middle of an operation, of a hundred.
const DEATHS_PERCENT: u32 = 2;

/// One client's work until the run says stop: it starts again, with an empty memory, when it dies.
pub async fn work(cluster: Arc<Cluster>, number: u64) {
    let endpoint = Endpoint(FIRST_CLIENT + number);
    let mut rng = stream(cluster.scenario().seed, Stream::Client, number);
    // The last one only reads: no failed write tells it that its leader is none any more.
    let writes = number + 1 < cluster.scenario().clients;
    while !cluster.stopping() {
        let gateway = cluster.start_gateway(endpoint).await;
        live(&cluster, &gateway, writes, &mut rng).await;
        cluster.net().end_life(&gateway.life);
        cluster
            .runtime()
            .sleep(Duration::from_millis(rng.random_range(1..500)))
            .await;
    }
}

async fn live(cluster: &Cluster, gateway: &Gateway, writes: bool, rng: &mut StdRng) {
    let names = [BUCKETS[0], BUCKETS[1], LOGS];
    let mut buckets: [Option<Bucket>; 3] = [None, None, None];
    while !cluster.stopping() {
        let index = rng.random_range(0..names.len());
        let Some(bucket) = buckets[index].clone() else {
            buckets[index] = gateway.find_bucket(names[index]).await.ok().flatten();
            if buckets[index].is_none() {
                cluster.runtime().sleep(Duration::from_millis(100)).await;
            }
            continue;
        };
        let dies = rng.random_range(0..100) < DEATHS_PERCENT;
        let life = Duration::from_micros(rng.random_range(100..400_000));
        let operation = Box::pin(async {
            match names[index] {
                LOGS => append_or_read(gateway, &bucket, writes, rng).await,
                _ => operate(gateway, &bucket, writes, rng).await,
            }
        });
        let outcome = match dies {
            true => within(life, operation).await,
            false => Ok(operation.await),
        };
        match outcome {
            Err(_) => {
                gateway.count("gateway died");
                return;
            }
            Ok(Ok(())) => {}
            // Perhaps its view of the bucket is old.
            Ok(Err(NotDone)) => buckets[index] = None,
        }
        let pause = Duration::from_millis(rng.random_range(0..150));
        cluster.runtime().sleep(pause).await;
    }
}

/// Half of the time one of two keys, so that clients meet.
fn any_key(rng: &mut StdRng) -> String {
    let keys = keys();
    let hot = rng.random_bool(0.5);
    let count = if hot { 2 } else { keys.len() };
    keys[rng.random_range(0..count)].clone()
}

fn any_content(gateway: &Gateway, rng: &mut StdRng) -> Content {
    let lengths = if rng.random_bool(0.5) {
        INLINE
    } else {
        CHUNKED
    };
    gateway.record.contents.draw(rng, lengths)
}

fn any_range(length: u64, rng: &mut StdRng) -> ByteRange {
    let start = rng.random_range(0..length);
    ByteRange {
        start,
        end: rng.random_range(start..length) + 1,
    }
}

async fn operate(
    gateway: &Gateway,
    bucket: &Bucket,
    writes: bool,
    rng: &mut StdRng,
) -> Result<(), NotDone> {
    let key = any_key(rng);
    let choices = if writes { 0..100 } else { READS };
    match rng.random_range(choices) {
        0..30 => {
            gateway
                .put(bucket, &key, any_content(gateway, rng), false)
                .await
        }
        30..38 => {
            gateway
                .put(bucket, &key, any_content(gateway, rng), true)
                .await
        }
        38..50 => gateway.delete(bucket, &key).await,
        50..65 => gateway.get(bucket, &key, ByteRange::whole).await,
        65..73 => {
            gateway
                .get(bucket, &key, |length| any_range(length, rng))
                .await
        }
        73..78 => gateway.head(bucket, &key).await,
        78..88 => {
            let options = ListOptions {
                prefix: ["", "", "a", "b/", "b/x/"][rng.random_range(0..5)].to_owned(),
                delimiter: ["", "/"][rng.random_range(0..2)].to_owned(),
                limit: rng.random_range(1..20),
            };
            gateway.list(bucket, &keys(), &options).await
        }
        88..94 => gateway.copy(bucket, &key, &any_key(rng)).await,
        _ => upload(gateway, bucket, &key, rng).await,
    }
}

async fn append_or_read(
    gateway: &Gateway,
    bucket: &Bucket,
    writes: bool,
    rng: &mut StdRng,
) -> Result<(), NotDone> {
    let key = LOG_KEYS[rng.random_range(0..LOG_KEYS.len())];
    if !writes || rng.random_bool(0.3) {
        return gateway.read_appended(bucket, key).await.map(|_| ());
    }
    let lengths = match rng.random_bool(0.7) {
        true => APPENDED,
        false => APPENDED_CHUNKS,
    };
    let length = rng.random_range(lengths.least..=lengths.most);
    gateway.append(bucket, key, length).await
}

async fn upload(
    gateway: &Gateway,
    bucket: &Bucket,
    key: &str,
    rng: &mut StdRng,
) -> Result<(), NotDone> {
    // All parts but the last have the smallest size that is allowed.
    let full_parts = rng.random_range(0..3);
    let ends: Vec<u64> = (1..=full_parts).map(|n| n * PART_BYTES_MIN).collect();
    let full_bytes = full_parts * PART_BYTES_MIN;
    let lengths = Lengths {
        least: full_bytes + LAST_PART.least,
        most: full_bytes + LAST_PART.most,
    };
    let content = gateway.record.contents.draw(rng, lengths);
    let ends: Vec<u64> = ends.into_iter().chain([content.length]).collect();
    let end = match rng.random_range(0..10) {
        0 => UploadEnd::Abort,
        1 => UploadEnd::Abandon,
        _ => UploadEnd::Complete,
    };
    gateway.upload(bucket, key, content, &ends, end).await
}

/// The operator's work: a bucket that comes and goes, and ranges that are split.
pub async fn operate_cluster(cluster: Arc<Cluster>) {
    let mut rng = stream(cluster.scenario().seed, Stream::Operator, 0);
    let gateway = cluster.start_gateway(OPERATOR).await;
    let mut splits = cluster.scenario().splits;
    while !cluster.stopping() {
        let pause = Duration::from_millis(rng.random_range(100..6000));
        cluster.runtime().sleep(pause).await;
        if splits > 0 && rng.random_bool(0.4) {
            let keys = keys();
            let at = &keys[rng.random_range(1..keys.len())];
            let names = [BUCKETS[0], BUCKETS[1], LOGS];
            if split(&gateway, names[rng.random_range(0..names.len())], at)
                .await
                .is_ok()
            {
                splits -= 1;
            }
        } else {
            // Whatever stays undone is taken up by the next round, or by a worker.
            let _ = fleeting(&gateway, &mut rng).await;
        }
    }
    cluster.net().end_life(&gateway.life);
}

/// One step in the life of the fleeting bucket.
async fn fleeting(gateway: &Gateway, rng: &mut StdRng) -> Result<(), NotDone> {
    let keys = keys();
    let Some(bucket) = gateway.find_bucket(FLEETING).await? else {
        let bucket = gateway.create_bucket(FLEETING).await?;
        gateway
            .put(&bucket, &any_key(rng), any_content(gateway, rng), false)
            .await?;
        return gateway
            .list(
                &bucket,
                &keys,
                &ListOptions {
                    limit: 7,
                    ..ListOptions::default()
                },
            )
            .await;
    };
    match rng.random_range(0..4) {
        0 => {
            gateway
                .put(&bucket, &any_key(rng), any_content(gateway, rng), false)
                .await
        }
        1 => gateway.get(&bucket, &any_key(rng), ByteRange::whole).await,
        2 => gateway.delete_bucket(&bucket, &keys).await.map(|_| ()),
        _ => {
            for key in &keys {
                gateway.delete(&bucket, key).await?;
            }
            gateway.delete_bucket(&bucket, &keys).await.map(|_| ())
        }
    }
}

/// Splits the range that holds a key of a bucket, at that key.
async fn split(gateway: &Gateway, bucket: &str, key: &str) -> Result<(), NotDone> {
    let bucket = gateway.find_bucket(bucket).await?.ok_or(NotDone)?;
    gateway.split(&bucket, key).await
}
