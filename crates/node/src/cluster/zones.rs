//! Names of zones: what a new one may be called, and whether one is new, which a typing error is.

use anyhow::bail;
use granary_types::NodeId;

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// Refuses a name that a node may not begin with. One that is in another zone already, under an older
/// version's rules, stays there.
///
/// # Errors
/// It is not made of 1 to 63 letters, digits, `-`, `_` and `.`.
pub(crate) fn check_name(zone: &str) -> anyhow::Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if zone.is_empty() || zone.len() > NAME_BYTES_MAX || !zone.chars().all(fits) {
        bail!(
            "zone = {zone:?}: the name of a zone has 1 to {NAME_BYTES_MAX} letters (a to z), digits, -, _ \
             and ."
        );
    }
    Ok(())
}

/// What to say of a node in a zone that no other node is in; nothing of the cluster's first node.
/// `others` are the nodes in service and their zones.
pub(crate) fn said_of_new<'a>(
    own: NodeId,
    zone: &str,
    others: impl Iterator<Item = (NodeId, &'a str)>,
) -> Option<String> {
    let others = others.filter(|(node, _)| *node != own);
    let mut zones: Vec<&str> = others.map(|(_, zone)| zone).collect();
    zones.sort_unstable();
    zones.dedup();
    if zones.is_empty() || zones.contains(&zone) {
        return None;
    }
    let there = match zones.len() {
        1 => "there is",
        _ => "there are",
    };
    Some(format!("zone {zone} is new: {there} {}", zones.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        let longest = "z".repeat(63);
        for good in ["z1", "default", "rack-7_b.Paris", &longest] {
            check_name(good).unwrap();
        }
        let too_long = "z".repeat(64);
        for bad in ["", "z 2", "z2é", "z/1", "z\n", &too_long] {
            let said = check_name(bad).unwrap_err().to_string();
            assert!(said.contains("letters"), "{said}");
        }
    }

    #[test]
    fn a_zone_that_nobody_else_is_in_is_told() {
        let said = |own, zone, others: &[(u64, &'static str)]| {
            let others = others.iter().map(|(node, zone)| (NodeId(*node), *zone));
            said_of_new(NodeId(own), zone, others)
        };
        let all = [(1, "z1"), (3, "z3"), (2, "z2"), (4, "z2"), (5, "Z2")];
        assert_eq!(said(6, "z2", &all), None);
        assert_eq!(
            said(5, "Z2", &all).unwrap(),
            "zone Z2 is new: there are z1, z2, z3"
        );
        assert_eq!(
            said(2, "b", &[(1, "a"), (2, "b")]).unwrap(),
            "zone b is new: there is a"
        );
        assert_eq!(said(1, "a", &[(1, "a")]), None);
    }
}
