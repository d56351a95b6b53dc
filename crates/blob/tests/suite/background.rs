//! Copies that restore redundancy leave a disk to the clients that use it.

use std::time::Duration;

use futures_util::future::{join, join_all};
use granary_blob::BlobConfig;
use granary_blob_api::{BlobNode, GetChunk, PutChunk};

use crate::support::{Machine, chunk, config, content, id, simulate};

const MIB: usize = 1 << 20;
/// Copies that are written, and as many that are read.
const COPIES: usize = 32;

/// What a repair does, all at once; how long it takes.
async fn repair(machine: &Machine, first: u128) -> Duration {
    let disk = machine.disk();
    let began = machine.runtime.monotonic();
    let writes = (0..COPIES as u128).map(|n| {
        let id = id(first + n);
        let put = PutChunk {
            background: true,
            ..chunk(id, &content(id, 0, MIB))
        };
        machine.store.put(disk, put)
    });
    let reads = (0..COPIES as u128).map(|n| {
        let range = GetChunk {
            id: id(n),
            offset: 0,
            length: MIB as u32,
            background: true,
        };
        machine.store.get(disk, range)
    });
    let (written, read) = join(join_all(writes), join_all(reads)).await;
    written.into_iter().for_each(|outcome| outcome.unwrap());
    read.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    machine.runtime.monotonic() - began
}

#[test]
fn a_repair_is_slow_only_beside_clients_and_they_do_not_wait_for_it() {
    simulate(1, |runtime| async move {
        let roomy = BlobConfig {
            volume_bytes: 1 << 30,
            queue_bytes: 64 << 20,
            ..config()
        };
        let rate = roomy.repair_bytes_per_sec_beside_clients;
        let machine = Machine::new(&runtime, roomy, 1).await;
        for n in 0..COPIES as u128 {
            machine
                .put(0, id(n), &content(id(n), 0, MIB))
                .await
                .unwrap();
        }
        let paced = Duration::from_millis((2 * COPIES * MIB) as u64 * 1000 / rate);
        // Those that were put a moment ago were a client's.
        runtime.sleep(Duration::from_secs(2)).await;
        let alone = repair(&machine, 1000).await;
        assert!(alone < paced / 4, "alone: {alone:?}");
        for n in 5000..5020 {
            let body = content(id(n), 0, 4096);
            machine.put(0, id(n), &body).await.unwrap();
        }
        let mut slowest = Duration::ZERO;
        let repairing = repair(&machine, 2000);
        let mut repairing = std::pin::pin!(repairing);
        let mut n = 10_000;
        let beside = loop {
            let client = async {
                let began = machine.runtime.monotonic();
                let body = content(id(n), 0, 4096);
                machine.put(0, id(n), &body).await.unwrap();
                assert_eq!(machine.get(0, id(n), 4096).await.unwrap(), body);
                slowest = slowest.max(machine.runtime.monotonic() - began);
                machine.runtime.sleep(Duration::from_millis(20)).await;
            };
            tokio::select! {
                biased;
                took = &mut repairing => break took,
                () = client => n += 1,
            }
        };
        assert!(beside >= paced * 3 / 4, "beside clients: {beside:?}");
        assert!(beside <= paced * 2, "beside clients: {beside:?}");
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");
    });
}
