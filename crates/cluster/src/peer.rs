//! Who is at the other end of a connection, and the names by which certificates say so.
//!
//! A node is `node-<id>.<cluster id>.granary`, an operator is `admin.<cluster id>.granary`.

use std::fmt;

use granary_types::NodeId;

const SUFFIX: &str = ".granary";
/// Longest cluster id: it is one label of a DNS name.
const CLUSTER_ID_BYTES_MAX: usize = 63;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A node of this cluster.
    Node(NodeId),
    /// An operator with an admin certificate of this cluster.
    Admin,
    /// Anybody: showed nothing.
    Anonymous,
}

impl Peer {
    /// The name by which a certificate says so; `None` for [`Peer::Anonymous`].
    pub fn name(self, cluster_id: &str) -> Option<String> {
        match self {
            Self::Node(node) => Some(format!("node-{}.{cluster_id}{SUFFIX}", node.0)),
            Self::Admin => Some(format!("admin.{cluster_id}{SUFFIX}")),
            Self::Anonymous => None,
        }
    }

    /// Reads a name; `None` when it is not one of ours. The second value is the cluster id.
    pub fn of_name(name: &str) -> Option<(Self, &str)> {
        let (label, cluster_id) = name.strip_suffix(SUFFIX)?.split_once('.')?;
        check_cluster_id(cluster_id).ok()?;
        if label == "admin" {
            return Some((Self::Admin, cluster_id));
        }
        let digits = label.strip_prefix("node-")?;
        let node = digits.parse::<u64>().ok()?;
        // One spelling only: no sign, no leading zeros, and no node 0.
        let canonical = node != 0 && node.to_string() == digits;
        canonical.then_some((Self::Node(NodeId(node)), cluster_id))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Admin => f.write_str("an operator"),
            Self::Anonymous => f.write_str("a stranger"),
        }
    }
}

/// The text is no cluster id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id has 1 to 63 lower-case letters, digits and inner hyphens")]
pub struct InvalidClusterId;

/// Checks that a cluster id can stand in certificates: one label of a DNS name, lower case.
///
/// # Errors
/// It can't.
pub fn check_cluster_id(text: &str) -> Result<(), InvalidClusterId> {
    let sized = (1..=CLUSTER_ID_BYTES_MAX).contains(&text.len());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let inner = !text.starts_with('-') && !text.ends_with('-');
    if sized && inner && text.bytes().all(plain) {
        Ok(())
    } else {
        Err(InvalidClusterId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_who_and_of_which_cluster() {
        for peer in [
            Peer::Node(NodeId(1)),
            Peer::Node(NodeId(u64::MAX)),
            Peer::Admin,
        ] {
            let name = peer.name("c1").unwrap();
            assert_eq!(Peer::of_name(&name), Some((peer, "c1")));
        }
        assert_eq!(Peer::Anonymous.name("c1"), None);
        for other in [
            "",
            "granary",
            ".granary",
            "admin.granary",
            "admin..granary",
            "node-0.c1.granary",
            "node-01.c1.granary",
            "node-+1.c1.granary",
            "node-x.c1.granary",
            "node-1.c1.granary.example",
            "node-1.a.b.granary",
            "NODE-1.c1.granary",
            "*.c1.granary",
        ] {
            assert_eq!(Peer::of_name(other), None, "{other}");
        }
    }
}
