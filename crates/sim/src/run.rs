//! One seed, from the first start to the last check.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::within;

use crate::cluster::Cluster;
use crate::gateway::{Bucket, Gateway};
use crate::logs::{ErrorLines, report_panics};
use crate::net::Endpoint;
use crate::scenario::Scenario;
use crate::{Findings, check, nemesis, workload};

/// What a run ended with.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Equal for equal runs.
    pub digest: u64,
    /// What was wrong; empty: the seed is green.
    pub findings: Vec<String>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// Operations in the histories, and how many of them have an unknown outcome.
    pub operations: (usize, usize),
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
}

/// The endpoint that looks at the result.
const READER: Endpoint = Endpoint(91);
/// How long the cluster may take to form, and each step after the workload to end.
const STEP_WITHIN: Duration = Duration::from_secs(300);

/// Runs one seed to its end. Takes the process for itself: logging and the panic hook are set
/// here, and two runs in one process are not the same run (see tests/seeds.rs).
pub fn run(seed: u64, findings: Findings) -> Report {
    report_panics(findings.clone());
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing that could be missing");
    tokio.block_on(Box::pin(run_in(Scenario::of(seed), findings)))
}

/// A layer that makes ERROR lines findings; for the process's subscriber.
pub fn error_lines(findings: Findings) -> ErrorLines {
    ErrorLines::new(findings)
}

async fn run_in(scenario: Scenario, findings: Findings) -> Report {
    let cluster = Arc::new(Cluster::new(scenario, findings.clone()));
    let formed = within(STEP_WITHIN, cluster.form()).await;
    match formed {
        Ok(Ok(())) => live_and_check(&cluster).await,
        Ok(Err(why)) => findings.report(format!("the cluster did not form: {why}")),
        Err(_) => findings.report("the cluster did not form in time"),
    }
    let trace = cluster.net().trace();
    trace.record("end", &[cluster.record().history.digest()]);
    Report {
        seed: cluster.scenario().seed,
        digest: trace.digest(),
        findings: findings.all(),
        counts: trace.counts(),
        operations: cluster.record().history.size(),
        simulated_ms: trace.elapsed_ms(),
    }
}

async fn live_and_check(cluster: &Arc<Cluster>) {
    let scenario = cluster.scenario();
    let runtime = cluster.runtime();
    let mut workers = vec![
        runtime.spawn(nemesis::torment(Arc::clone(cluster))),
        runtime.spawn(workload::operate_cluster(Arc::clone(cluster))),
    ];
    for number in 0..scenario.clients {
        workers.push(runtime.spawn(workload::work(Arc::clone(cluster), number)));
    }
    runtime.sleep(scenario.workload).await;
    cluster.stop_workload();
    cluster.heal().await;
    for worker in workers {
        if within(STEP_WITHIN, worker).await.is_err() {
            cluster
                .findings()
                .report("a client does not come back after healing");
            return;
        }
    }
    let reader = cluster.start_gateway(READER).await;
    let Some(buckets) = buckets(cluster, &reader).await else {
        return;
    };
    let (logs, others): (Vec<_>, Vec<_>) = buckets
        .iter()
        .cloned()
        .partition(|bucket| bucket.name == workload::LOGS);
    check::listings::list_all(cluster, &reader, &others).await;
    check::histories::check(cluster, &reader, &others).await;
    for bucket in &logs {
        check::appends::check(cluster, &reader, bucket).await;
    }
    check::chunks::check(cluster, &reader, &buckets).await;
    check::replicas::check(cluster).await;
}

/// Every bucket that is left, once none of them is on its way in or out.
async fn buckets(cluster: &Cluster, reader: &Gateway) -> Option<Vec<Bucket>> {
    let found = check::eventually(cluster, STEP_WITHIN, check::SOON, || async {
        reader.settled_buckets().await.map(|_| ())
    });
    if let Err(wrong) = found.await {
        cluster.findings().report(format!("after healing: {wrong}"));
        return None;
    }
    reader.settled_buckets().await.ok()
}
