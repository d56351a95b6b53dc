//! Choosing a placement group for a chunk: random, weighted by free space.

use granary_types::PgId;

/// Draws that are tried before every group is looked at.
const DRAWS: u64 = 16;

/// Groups with weights, prepared for many choices.
#[derive(Clone, Debug, Default)]
pub struct GroupChooser {
    groups: Vec<PgId>,
    /// Running sums of the weights; the last one is the total.
    sums: Vec<u64>,
}

impl GroupChooser {
    /// A chooser over (group, weight); the weight is the free space of the group's fullest disk.
    /// A group of weight zero is chosen only when no other is accepted.
    pub fn new(candidates: impl IntoIterator<Item = (PgId, u64)>) -> Self {
        let mut chooser = Self::default();
        let mut sum = 0u64;
        for (group, weight) in candidates {
            // Sums of more than 2^64 bytes do not exist; saturating keeps them sorted regardless.
            sum = sum.saturating_add(weight);
            chooser.groups.push(group);
            chooser.sums.push(sum);
        }
        chooser
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// True without any group.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A group that `accept` takes, at random under `seed`; `None` when it takes none.
    ///
    /// Cheap while most groups are acceptable, and complete when few are.
    pub fn choose(&self, seed: u64, mut accept: impl FnMut(PgId) -> bool) -> Option<PgId> {
        let total = *self.sums.last()?;
        if total > 0 {
            for draw in 0..DRAWS {
                let point = mix(seed.wrapping_add(draw)) % total;
                let index = self.sums.partition_point(|&sum| sum <= point);
                let group = *self.groups.get(index)?;
                if accept(group) {
                    return Some(group);
                }
            }
        }
        let start = (mix(seed) % self.groups.len() as u64) as usize;
        let (before, after) = self.groups.split_at(start);
        after
            .iter()
            .chain(before)
            .copied()
            .find(|&group| accept(group))
    }
}

/// SplitMix64's output function: neighbouring seeds give unrelated numbers.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_the_weights() {
        let chooser = GroupChooser::new([(PgId(1), 1), (PgId(2), 3), (PgId(3), 0)]);
        let mut counts = [0u32; 4];
        for seed in 0..40_000 {
            let group = chooser.choose(mix(seed), |_| true).unwrap();
            counts[group.0 as usize] += 1;
        }
        assert_eq!(counts[3], 0);
        let share = f64::from(counts[2]) / 40_000.0;
        assert!(
            (share - 0.75).abs() < 0.02,
            "group 2 got {share} of the chunks"
        );
    }

    #[test]
    fn finds_the_only_acceptable_group() {
        let chooser = GroupChooser::new((0..1000).map(|n| (PgId(n), u64::from(n != 7))));
        for seed in 0..100 {
            assert_eq!(
                chooser.choose(seed, |group| group == PgId(7)),
                Some(PgId(7))
            );
        }
        assert_eq!(chooser.choose(1, |_| false), None);
        assert_eq!(GroupChooser::default().choose(1, |_| true), None);
    }
}
