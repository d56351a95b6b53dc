//! Every metric of the way of bytes.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::budget::BufferBudget;

/// Counters of one data path. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) bytes_written: Counter,
    pub(crate) bytes_read: Counter,
    pub(crate) chunks_written: Counter,
    pub(crate) chunks_rewritten: Counter,
    pub(crate) chunks_degraded: Counter,
    pub(crate) chunks_copied: Counter,
    pub(crate) reads_hedged: Counter,
    pub(crate) copies_corrupt: Counter,
    pub(crate) overloaded: Counter,
}

impl Metrics {
    pub(crate) fn register(
        &self,
        registry: &mut Registry,
        write: &BufferBudget,
        read: &BufferBudget,
    ) {
        let registry = registry.sub_registry_with_prefix("granary_datapath");
        for (name, help, counter) in [
            ("written", "Object bytes made durable", &self.bytes_written),
            ("read", "Object bytes read from disks", &self.bytes_read),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        for (name, help, counter) in [
            (
                "chunks_written",
                "Chunks made durable",
                &self.chunks_written,
            ),
            (
                "chunks_rewritten",
                "Chunks written again to another group",
                &self.chunks_rewritten,
            ),
            (
                "chunks_degraded",
                "Chunks stored below their redundancy",
                &self.chunks_degraded,
            ),
            (
                "chunks_copied",
                "Chunks copied from disk to disk",
                &self.chunks_copied,
            ),
            (
                "reads_hedged",
                "Reads that asked a second copy for slowness",
                &self.reads_hedged,
            ),
            (
                "copies_corrupt",
                "Copies found damaged by a read",
                &self.copies_corrupt,
            ),
            (
                "overloaded",
                "Requests refused for want of buffer memory",
                &self.overloaded,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register_collector(Box::new(Buffers {
            write: write.clone(),
            read: read.clone(),
        }));
    }
}

/// Buffer use, read when it is asked for.
#[derive(Debug)]
struct Buffers {
    write: BufferBudget,
    read: BufferBudget,
}

impl Collector for Buffers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (write, read) = (&self.write, &self.read);
        for (name, help, bytes) in [
            (
                "write_buffer",
                "Bytes on their way to disks",
                write.used_bytes(),
            ),
            (
                "write_buffer_peak",
                "The most there were at once",
                write.peak_bytes(),
            ),
            (
                "read_buffer",
                "Bytes on their way to clients",
                read.used_bytes(),
            ),
            (
                "read_buffer_peak",
                "The most there were at once",
                read.peak_bytes(),
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            let metric =
                encoder.encode_descriptor(name, help, Some(&Unit::Bytes), gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
