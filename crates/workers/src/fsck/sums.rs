//! A sum over the chunk ids of each group: equal sums mean equal sets, but for one chance in 2^64.

use std::collections::BTreeMap;

use granary_types::{ChunkId, PgId};

/// Per group: how many ids, and their sum.
#[derive(Debug, Default)]
pub(super) struct GroupSums(BTreeMap<PgId, (u64, u64)>);

impl GroupSums {
    /// Counts an id in, once.
    pub(super) fn add(&mut self, id: ChunkId) {
        let (count, sum) = self.0.entry(id.pg()).or_default();
        *count += 1;
        *sum = sum.wrapping_add(mixed(id));
    }

    /// The groups that are not the same in both.
    pub(super) fn differing(&self, other: &Self) -> Vec<PgId> {
        let mut groups: Vec<PgId> = self.0.keys().chain(other.0.keys()).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        groups.retain(|pg| self.0.get(pg) != other.0.get(pg));
        groups
    }

    /// How many ids of a group were counted in.
    pub(super) fn count(&self, pg: PgId) -> u64 {
        self.0.get(&pg).map_or(0, |(count, _)| *count)
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
