//! A node of a cluster: `granary start`, and what makes and joins one.

mod admin;
mod follow;
mod herald;
mod hints;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod node;
pub(crate) mod progress;
mod proposers;
pub(crate) mod rebuild;
mod reports;
mod rotate;
mod seeds;
pub(crate) mod status;
mod wiring;
mod zones;

/// Messages of proto/admin.proto.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_imports,
    reason = "generated; documented in proto/admin.proto"
)]
pub(crate) mod pb {
    tonic::include_proto!("granary.admin");
}

use granary_types::NodeId;

use crate::start_config::StartConfig;

/// What the root keeps of a node.
pub(crate) fn record(config: &StartConfig, id: NodeId) -> granary_meta_api::pb::state::Node {
    let gateway = config.has(crate::start_config::Role::Gateway);
    granary_meta_api::pb::state::Node {
        id: id.0,
        zone: config.zone.clone(),
        address: config.cluster_address.clone(),
        roles: config
            .roles
            .iter()
            .map(|role| role.name().to_owned())
            .collect(),
        removed: false,
        feature_level: granary_meta::FEATURE_LEVEL,
        gateway: if gateway {
            config.listen.to_string()
        } else {
            String::new()
        },
    }
}
