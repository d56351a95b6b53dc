//! DeleteObject: removes a version, or puts a delete marker on top where versions are kept.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::directories::delete_named;
use super::versions::{Which, insert, remove, stamp_version, versioning};
use super::{Apply, ApplyContext, Refusal, Tx};

impl Apply for pb::DeleteObject {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let which = Which::named(self.version_stamp, self.null_version)?;
        if let Some(deleted) = delete_named(tx, &at.place)? {
            return Ok(Reply::Deleted(deleted));
        }
        let reply = match which {
            Some(which) => delete_version(tx, at, which)?,
            // One version per key: the null one.
            None if at.view.versioning == versioning::NEVER => delete_version(tx, at, Which::Null)?,
            None => add_marker(tx, at)?,
        };
        Ok(Reply::Deleted(reply))
    }
}

fn delete_version(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    which: Which,
) -> Result<pb::DeleteReply, Refusal> {
    let removed = remove(tx, at, which)?;
    Ok(match removed {
        Some(version) => pb::DeleteReply {
            existed: true,
            delete_marker: version.delete_marker,
            stamp: version.stamp,
            marker_created: false,
        },
        None => pb::DeleteReply::default(),
    })
}

fn add_marker(tx: &mut Tx<'_>, at: &ApplyContext) -> Result<pb::DeleteReply, Refusal> {
    let existed = crate::rows::Rows::exists(tx, &super::versions::head_key(at))?;
    let mut marker = state::Version {
        delete_marker: true,
        ..Default::default()
    };
    stamp_version(tx, at, &mut marker);
    // A marker holds no bytes: nothing to retain.
    marker.retention = None;
    let stamp = marker.stamp;
    insert(tx, at, marker)?;
    Ok(pb::DeleteReply {
        existed,
        delete_marker: true,
        stamp,
        marker_created: true,
    })
}
