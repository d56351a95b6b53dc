//! A sum over the chunk ids of each group: equal sums mean equal sets, but for one chance in 2^64.

use std::collections::BTreeMap;

use granary_types::{ChunkId, PgId};

/// How many ids of a group, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdSum {
    count: u64,
    sum: u64,
}

impl IdSum {
    /// Counts an id in, once.
    pub(crate) fn add(&mut self, id: ChunkId) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(mixed(id));
    }
}

/// The sums of groups.
#[derive(Debug, Default)]
pub(crate) struct GroupSums(BTreeMap<PgId, IdSum>);

impl GroupSums {
    /// Counts an id in, once.
    pub(crate) fn add(&mut self, id: ChunkId) {
        self.0.entry(id.pg()).or_default().add(id);
    }

    /// Counts ids of a group in that were summed elsewhere, each once.
    pub(crate) fn add_sum(&mut self, pg: PgId, part: IdSum) {
        let known = self.0.entry(pg).or_default();
        known.count += part.count;
        known.sum = known.sum.wrapping_add(part.sum);
    }

    /// The groups that are not the same in both.
    pub(crate) fn differing(&self, other: &Self) -> Vec<PgId> {
        let mut groups: Vec<PgId> = self.0.keys().chain(other.0.keys()).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        let of = |sums: &Self, pg: &PgId| sums.0.get(pg).copied().unwrap_or_default();
        groups.retain(|pg| of(self, pg) != of(other, pg));
        groups
    }

    /// How many ids of a group were counted in.
    pub(super) fn count(&self, pg: PgId) -> u64 {
        self.0.get(&pg).map_or(0, |sum| sum.count)
    }
}

/// The finaliser of SplitMix64 over both halves: ids that differ in a bit get unlike summands.
fn mixed(id: ChunkId) -> u64 {
    let fold = |mut value: u64| {
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    let (high, low) = ((id.0 >> 64) as u64, id.0 as u64);
    fold(high.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_add(fold(fold(low) ^ high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_one_id_more_or_less_does() {
        let id = |pg: u32, n: u128| ChunkId::new(PgId(pg), n);
        let (mut a, mut b) = (GroupSums::default(), GroupSums::default());
        for n in 0..1000 {
            a.add(id(n % 3, u128::from(n)));
            let back = 999 - n;
            b.add(id(back % 3, u128::from(back)));
        }
        assert!(a.differing(&b).is_empty());
        assert_eq!(a.count(PgId(0)), 334);
        b.add(id(1, 5000));
        assert_eq!(a.differing(&b), [PgId(1)]);
        a.add(id(1, 5001));
        a.add(id(7, 1));
        assert_eq!(a.differing(&b), [PgId(1), PgId(7)]);
    }
}
