//! How many copies must be durable before a chunk is acknowledged.

/// Copies that must be durable at least while members are out: all but one, and never none.
///
/// Three copies: 2. Two copies: 1, because such a store would otherwise stop writing with its first
/// lost disk, and its operator has chosen to run with less. One copy: 1.
/// It applies only while no group of the class is whole; otherwise every copy is written.
pub fn write_quorum(copies: usize) -> usize {
    copies.saturating_sub(1).max(1)
}

/// Acknowledgements a chunk needs in a group of which `healthy` members can be written.
///
/// All of them when the group is whole, the write quorum when it is not, `None` when the group
/// cannot take the chunk.
pub fn acks_needed(copies: usize, healthy: usize) -> Option<usize> {
    if copies > 0 && healthy >= copies {
        return Some(copies);
    }
    (healthy >= write_quorum(copies)).then(|| write_quorum(copies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_groups_need_all_and_broken_ones_the_quorum() {
        for (copies, healthy, expected) in [
            (1, 1, Some(1)),
            (1, 0, None),
            (2, 2, Some(2)),
            (2, 1, Some(1)),
            (2, 0, None),
            (3, 3, Some(3)),
            (3, 2, Some(2)),
            (3, 1, None),
            (0, 0, None),
        ] {
            assert_eq!(
                acks_needed(copies, healthy),
                expected,
                "{healthy} of {copies}"
            );
        }
    }
}
