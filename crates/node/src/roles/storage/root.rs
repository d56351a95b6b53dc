//! A root that takes every disk.

use std::collections::BTreeMap;

use async_trait::async_trait;
use granary_meta_api::pb::command::Command;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::query_reply::Reply as Answer;
use granary_meta_api::{MetaError, MetaService, pb};
use granary_types::ShardId;
use parking_lot::Mutex;

/// The disks that it was told of.
#[derive(Default)]
pub(super) struct Root {
    pub(super) disks: Mutex<BTreeMap<u64, pb::state::Disk>>,
}

#[async_trait]
impl MetaService for Root {
    async fn propose(
        &self,
        _: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        match command.command {
            Some(Command::RegisterDisk(register)) => {
                let disks = register.disk.map(|disk| (disk.id, disk));
                self.disks.lock().extend(disks);
            }
            other => return Err(MetaError::Invalid(format!("{other:?}"))),
        }
        Ok(pb::CommandReply {
            reply: Some(Reply::Empty(pb::Empty {})),
            rejection: None,
        })
    }

    async fn query(&self, _: ShardId, _: pb::Query) -> Result<pb::QueryReply, MetaError> {
        let disks = self.disks.lock().values().cloned().collect();
        Ok(pb::QueryReply {
            reply: Some(Answer::ClusterMap(pb::ClusterMap {
                disks,
                ..Default::default()
            })),
        })
    }
}
