//! Which node may have what decided. A node with the role storage alone holds no secret of the cluster,
//! and whoever takes its disks away must get none: it says where it and its disks are, nothing else.
//!
//! It goes by the roles in the address book. Whether a node has one that needs the master key does not
//! change after it has joined, so a book that is behind refuses nobody who may.

use granary_cluster::{AddressBook, KEY_ROLES, Peer};
use granary_meta_api::disk_state::IN;
use granary_meta_api::pb::command::Command;
use granary_meta_api::{MetaError, pb};

/// Refuses what a node may not propose.
///
/// # Errors
/// `Invalid`: repeating it cannot help.
pub(super) fn check(
    book: &AddressBook,
    peer: Peer,
    command: &pb::Command,
) -> Result<(), MetaError> {
    let Peer::Node(node) = peer else {
        return refused(format!("{peer} may not propose commands"));
    };
    let trusted = book.may_have_one_of(node, &KEY_ROLES);
    match command.command.as_ref() {
        Some(Command::RegisterNode(pb::RegisterNode { node: Some(record) })) => {
            let wants = |role: &String| KEY_ROLES.contains(&role.as_str());
            if record.id != node.0 {
                return refused(format!("{peer} may not register node {}", record.id));
            }
            if !trusted && (record.roles.is_empty() || record.roles.iter().any(wants)) {
                return refused(format!(
                    "{peer} joined with the role storage alone: to have others, join it as a new node"
                ));
            }
            Ok(())
        }
        // A disk of its own, and no word about the groups that the disk is a member of.
        Some(Command::RegisterDisk(pb::RegisterDisk {
            disk: Some(disk),
            state_only: false,
            groups,
            keep_state: _,
        })) if groups.is_empty() && disk.node == node.0 && disk.state == IN => Ok(()),
        _ if trusted => Ok(()),
        _ => refused(format!(
            "{peer} has the role storage alone and may not change that: ask a gateway, meta or \
             worker node"
        )),
    }
}

fn refused(said: String) -> Result<(), MetaError> {
    Err(MetaError::Invalid(said))
}

#[cfg(test)]
mod tests {
    use granary_meta_api::pb::state;
    use granary_runtime::Runtime;
    use granary_types::NodeId;

    use super::*;

    fn node(id: u64, roles: &[&str]) -> state::Node {
        state::Node {
            id,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn register(id: u64, roles: &[&str]) -> Command {
        Command::RegisterNode(pb::RegisterNode {
            node: Some(node(id, roles)),
        })
    }

    fn disk(node: u64, state: u32) -> Command {
        Command::RegisterDisk(pb::RegisterDisk {
            disk: Some(state::Disk {
                id: 50,
                node,
                state,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[tokio::test]
    async fn a_storage_node_speaks_of_itself_and_decides_nothing_else() {
        let book = AddressBook::in_memory(Vec::new());
        let map = pb::ClusterMap {
            epoch: 1,
            nodes: vec![
                node(1, &["meta", "storage"]),
                node(2, &["storage"]),
                node(3, &["gateway"]),
                node(4, &["worker", "storage"]),
                node(5, &[]),
            ],
            ..Default::default()
        };
        book.learn(&Runtime::system(), &map).await.unwrap();
        let peer = |id| Peer::Node(NodeId(id));
        let may = |who: Peer, command: &Command| {
            let command = pb::Command {
                command: Some(command.clone()),
                ..Default::default()
            };
            check(&book, who, &command).is_ok()
        };
        for command in [
            Command::PutAccessKey(pb::PutAccessKey::default()),
            Command::PutJoinToken(pb::PutJoinToken::default()),
            Command::PutTrust(pb::PutTrust::default()),
            Command::RemoveNode(pb::RemoveNode { node: 1 }),
            Command::PutObject(pb::PutObject::default()),
            disk(2, 1),
        ] {
            // Node 9 has joined so lately that the book does not know it.
            for trusted in [1, 3, 4, 5, 9] {
                assert!(may(peer(trusted), &command), "{trusted}: {command:?}");
            }
            for other in [peer(2), Peer::Admin, Peer::Anonymous] {
                assert!(!may(other, &command), "{other}: {command:?}");
            }
        }
        for (who, command, allowed) in [
            (2, register(2, &["storage"]), true),
            (2, register(2, &["storage", "worker"]), false),
            (2, register(2, &[]), false),
            (2, register(1, &["storage"]), false),
            (1, register(2, &["storage"]), false),
            (3, register(3, &["gateway", "meta"]), true),
            (9, register(9, &["meta"]), true),
            (2, disk(2, 0), true),
            (2, disk(1, 0), false),
            (2, disk(2, 2), false),
            (2, disk(2, 3), false),
        ] {
            assert_eq!(may(peer(who), &command), allowed, "{who}: {command:?}");
        }
    }
}
