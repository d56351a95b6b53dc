//! Requests and replies ⇄ messages. What comes from the wire is checked; copies no object bytes.

use bytes::Bytes;
use granary_types::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use granary_types::{BucketId, ChunkId, DiskId, ObjectId, PgId};

use crate::{
    BlobError, Block, ChunkEntry, ChunkOwner, ChunkPage, ChunkRead, CopyChunk, DiskHealth,
    DiskStatus, GetChunk, PutChunk, VerifyPage, pb,
};

fn invalid(what: &str) -> BlobError {
    BlobError::Invalid(format!("malformed message: {what}"))
}

pub(super) fn id_bytes(id: ChunkId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

pub(super) fn chunk_id(bytes: &Bytes) -> Result<ChunkId, BlobError> {
    ChunkId::from_slice(bytes).ok_or_else(|| invalid("chunk id"))
}

pub(super) fn chunk_ids(list: &[Bytes]) -> Result<Vec<ChunkId>, BlobError> {
    list.iter().map(chunk_id).collect()
}

fn owner_message(owner: ChunkOwner) -> pb::Owner {
    pb::Owner {
        bucket: owner.bucket.0,
        object: Bytes::copy_from_slice(&owner.object.to_bytes()),
    }
}

fn owner(message: Option<pb::Owner>) -> Result<ChunkOwner, BlobError> {
    let message = message.ok_or_else(|| invalid("owner"))?;
    Ok(ChunkOwner {
        bucket: BucketId(message.bucket),
        object: ObjectId::from_slice(&message.object).ok_or_else(|| invalid("object id"))?,
    })
}

fn block_messages(blocks: Vec<Block>) -> Vec<pb::Block> {
    let message = |block: Block| pb::Block {
        crc32c: block.crc32c,
        data: block.data,
    };
    blocks.into_iter().map(message).collect()
}

fn blocks(messages: Vec<pb::Block>) -> Result<Vec<Block>, BlobError> {
    if messages.len() > CHUNK_BYTES_MAX / BLOCK_BYTES {
        return Err(invalid("too many blocks"));
    }
    let block = |message: pb::Block| Block {
        crc32c: message.crc32c,
        data: message.data,
    };
    Ok(messages.into_iter().map(block).collect())
}

pub(super) fn put_request(disk: DiskId, chunk: PutChunk) -> pb::PutRequest {
    pb::PutRequest {
        disk: disk.0,
        id: id_bytes(chunk.id),
        owner: Some(owner_message(chunk.owner)),
        pg_epoch: chunk.pg_epoch,
        blocks: block_messages(chunk.blocks),
        background: chunk.background,
    }
}

pub(super) fn put_chunk(request: pb::PutRequest) -> Result<PutChunk, BlobError> {
    Ok(PutChunk {
        id: chunk_id(&request.id)?,
        owner: owner(request.owner)?,
        pg_epoch: request.pg_epoch,
        blocks: blocks(request.blocks)?,
        background: request.background,
    })
}

pub(super) fn get_request(disk: DiskId, range: GetChunk) -> pb::GetRequest {
    pb::GetRequest {
        disk: disk.0,
        id: id_bytes(range.id),
        offset: range.offset,
        length: range.length,
        background: range.background,
    }
}

pub(super) fn get_chunk(request: &pb::GetRequest) -> Result<GetChunk, BlobError> {
    Ok(GetChunk {
        id: chunk_id(&request.id)?,
        offset: request.offset,
        length: request.length,
        background: request.background,
    })
}

pub(super) fn get_reply(read: ChunkRead) -> pb::GetReply {
    pb::GetReply {
        offset: read.offset,
        blocks: block_messages(read.blocks),
    }
}

/// A reply that we cannot read is no reply: whoever sent it is no storage node of ours.
fn unreadable(error: &BlobError) -> BlobError {
    BlobError::Unreachable(format!("unreadable reply: {error}"))
}

pub(super) fn chunk_read(reply: pb::GetReply) -> Result<ChunkRead, BlobError> {
    Ok(ChunkRead {
        offset: reply.offset,
        blocks: blocks(reply.blocks).map_err(|error| unreadable(&error))?,
    })
}

pub(super) fn copy_request(disk: DiskId, copy: CopyChunk) -> pb::CopyRequest {
    pb::CopyRequest {
        disk: disk.0,
        source: id_bytes(copy.source),
        target: id_bytes(copy.target),
        owner: Some(owner_message(copy.owner)),
        pg_epoch: copy.pg_epoch,
    }
}

pub(super) fn copy_chunk(request: pb::CopyRequest) -> Result<CopyChunk, BlobError> {
    Ok(CopyChunk {
        source: chunk_id(&request.source)?,
        target: chunk_id(&request.target)?,
        owner: owner(request.owner)?,
        pg_epoch: request.pg_epoch,
    })
}

pub(super) fn list_request(
    disk: DiskId,
    pg: PgId,
    after: Option<ChunkId>,
    limit: u32,
    owner: Option<BucketId>,
) -> pb::ListRequest {
    pb::ListRequest {
        disk: disk.0,
        pg: pg.0,
        after: after.map(id_bytes).unwrap_or_default(),
        limit,
        owner_bucket: owner.map(|bucket| bucket.0),
    }
}

pub(super) fn optional_id(bytes: &Bytes) -> Result<Option<ChunkId>, BlobError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        chunk_id(bytes).map(Some)
    }
}

pub(super) fn list_reply(page: ChunkPage) -> pb::ListReply {
    let entry = |entry: ChunkEntry| pb::Entry {
        id: id_bytes(entry.id),
        owner: Some(owner_message(entry.owner)),
        length: entry.length,
        digest: entry.digest,
        deleted: entry.deleted,
        damaged: entry.damaged,
    };
    pb::ListReply {
        entries: page.entries.into_iter().map(entry).collect(),
        next_after: page.next_after.map(id_bytes).unwrap_or_default(),
    }
}

pub(super) fn chunk_page(reply: pb::ListReply) -> Result<ChunkPage, BlobError> {
    let entry = |message: pb::Entry| {
        Ok(ChunkEntry {
            id: chunk_id(&message.id)?,
            owner: owner(message.owner)?,
            length: message.length,
            digest: message.digest,
            deleted: message.deleted,
            damaged: message.damaged,
        })
    };
    let entries: Result<Vec<_>, BlobError> = reply.entries.into_iter().map(entry).collect();
    Ok(ChunkPage {
        entries: entries.map_err(|error| unreadable(&error))?,
        next_after: optional_id(&reply.next_after).map_err(|error| unreadable(&error))?,
    })
}

pub(super) fn verify_reply(page: VerifyPage) -> pb::VerifyReply {
    pb::VerifyReply {
        checked_chunks: page.checked_chunks,
        checked_bytes: page.checked_bytes,
        damaged: page.damaged.into_iter().map(id_bytes).collect(),
        next_after: page.next_after.map(id_bytes).unwrap_or_default(),
    }
}

pub(super) fn verify_page(reply: pb::VerifyReply) -> Result<VerifyPage, BlobError> {
    Ok(VerifyPage {
        checked_chunks: reply.checked_chunks,
        checked_bytes: reply.checked_bytes,
        damaged: chunk_ids(&reply.damaged).map_err(|error| unreadable(&error))?,
        next_after: optional_id(&reply.next_after).map_err(|error| unreadable(&error))?,
    })
}

/// Disks that are being opened are told apart from the others: whoever does not know of them takes
/// them for disks that are not there, and not for failed ones.
pub(super) fn disks_reply(disks: &[DiskStatus]) -> pb::DisksReply {
    let opening = disks
        .iter()
        .filter(|disk| disk.health == DiskHealth::Opening);
    pb::DisksReply {
        disks: disks.iter().filter_map(disk_message).collect(),
        opening: opening.map(|disk| disk.id.0).collect(),
    }
}

pub(super) fn disk_statuses(reply: &pb::DisksReply) -> Vec<DiskStatus> {
    let opening = reply
        .opening
        .iter()
        .map(|&disk| DiskStatus::opening(DiskId(disk)));
    reply.disks.iter().map(disk_status).chain(opening).collect()
}

fn disk_message(status: &DiskStatus) -> Option<pb::Disk> {
    let health = match status.health {
        DiskHealth::Healthy => pb::disk::Health::Healthy,
        DiskHealth::Full => pb::disk::Health::Full,
        DiskHealth::Failed => pb::disk::Health::Failed,
        DiskHealth::Opening => return None,
    };
    Some(pb::Disk {
        id: status.id.0,
        health: health.into(),
        total_bytes: status.total_bytes,
        free_bytes: status.free_bytes,
        live_bytes: status.live_bytes,
        reclaimable_bytes: status.reclaimable_bytes,
        chunks: status.chunks,
    })
}

fn disk_status(message: &pb::Disk) -> DiskStatus {
    let health = match message.health() {
        pb::disk::Health::Healthy => DiskHealth::Healthy,
        pb::disk::Health::Full => DiskHealth::Full,
        // A health that this version does not know is none to rely on.
        pb::disk::Health::Failed | pb::disk::Health::Unknown => DiskHealth::Failed,
    };
    DiskStatus {
        id: DiskId(message.id),
        health,
        total_bytes: message.total_bytes,
        free_bytes: message.free_bytes,
        live_bytes: message.live_bytes,
        reclaimable_bytes: message.reclaimable_bytes,
        chunks: message.chunks,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_disk_that_is_being_opened_is_none_of_the_others() {
        let failed = DiskStatus {
            health: DiskHealth::Failed,
            ..DiskStatus::opening(DiskId(3))
        };
        let disks = [DiskStatus::opening(DiskId(7)), failed];
        let reply = disks_reply(&disks);
        assert_eq!(reply.disks.len(), 1);
        // What a node that knows nothing of it reads is the reply without its last field.
        let bytes = reply.encode_to_vec();
        assert_eq!(hex(&bytes), "0a0408031003120107");
        let read = disk_statuses(&pb::DisksReply::decode(bytes.as_slice()).unwrap());
        let read: Vec<_> = read.iter().map(|disk| (disk.id, disk.health)).collect();
        let expected = [
            (DiskId(3), DiskHealth::Failed),
            (DiskId(7), DiskHealth::Opening),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn what_waits_for_clients_travels() {
        let id = ChunkId::new(PgId(1), 7);
        let get = GetChunk {
            id,
            offset: 0,
            length: 1,
            background: true,
        };
        let request = get_request(DiskId(3), get);
        assert!(get_chunk(&request).unwrap().background);
        let put = PutChunk {
            id,
            owner: ChunkOwner {
                bucket: BucketId(1),
                object: ObjectId(2),
            },
            pg_epoch: 1,
            blocks: Block::cut(Bytes::from_static(b"x")),
            background: true,
        };
        assert!(put_chunk(put_request(DiskId(3), put)).unwrap().background);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
