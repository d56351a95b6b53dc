//! `BlobError` ⇄ gRPC status. The status code is for people and proxies; the details are the error.
//!
//! Invariant: an error that crosses the wire comes out equal.

use granary_types::{ChunkId, DiskId, PgId};
use prost::Message;
use tonic::{Code, Status};

use crate::pb::{Fault, fault::Kind};
use crate::{BlobError, ErrorKind};

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::FailedPrecondition,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Busy => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
    }
}

fn of_chunk(kind: Kind, id: &ChunkId) -> Fault {
    Fault {
        kind: kind.into(),
        chunk: id.to_bytes().to_vec().into(),
        ..Fault::default()
    }
}

fn of_disk(kind: Kind, disk: DiskId) -> Fault {
    Fault {
        kind: kind.into(),
        disk: disk.0,
        ..Fault::default()
    }
}

fn of_message(kind: Kind, message: &str) -> Fault {
    Fault {
        kind: kind.into(),
        message: message.to_owned(),
        ..Fault::default()
    }
}

/// The status that carries an error.
pub(super) fn to_status(error: &BlobError) -> Status {
    let fault = match error {
        BlobError::ChunkNotFound(id) => of_chunk(Kind::ChunkNotFound, id),
        BlobError::ChunkDeleted(id) => of_chunk(Kind::ChunkDeleted, id),
        BlobError::ChunkExists(id) => of_chunk(Kind::ChunkExists, id),
        BlobError::Corrupt(id) => of_chunk(Kind::Corrupt, id),
        BlobError::StaleEpoch { pg, current } => Fault {
            kind: Kind::StaleEpoch.into(),
            pg: pg.0,
            current_epoch: *current,
            ..Fault::default()
        },
        BlobError::Invalid(why) => of_message(Kind::Invalid, why),
        BlobError::DiskFull(disk) => of_disk(Kind::DiskFull, *disk),
        BlobError::DiskFailed(disk) => of_disk(Kind::DiskFailed, *disk),
        BlobError::Busy(disk) => of_disk(Kind::Busy, *disk),
        BlobError::Unreachable(why) => of_message(Kind::Unreachable, why),
    };
    Status::with_details(
        code(error.kind()),
        error.to_string(),
        fault.encode_to_vec().into(),
    )
}

/// The error that a status carries; a status of anything but our own server means that the node
/// was not reached, or that nobody knows whether it acted.
pub(super) fn from_status(status: &Status) -> BlobError {
    let unreachable = || BlobError::Unreachable(format!("{}: {}", status.code(), status.message()));
    if status.details().is_empty() {
        return unreachable();
    }
    let Ok(fault) = Fault::decode(status.details()) else {
        return unreachable();
    };
    let chunk = ChunkId::from_slice(&fault.chunk);
    let disk = DiskId(fault.disk);
    match (fault.kind(), chunk) {
        (Kind::ChunkNotFound, Some(id)) => BlobError::ChunkNotFound(id),
        (Kind::ChunkDeleted, Some(id)) => BlobError::ChunkDeleted(id),
        (Kind::ChunkExists, Some(id)) => BlobError::ChunkExists(id),
        (Kind::Corrupt, Some(id)) => BlobError::Corrupt(id),
        (Kind::StaleEpoch, _) => BlobError::StaleEpoch {
            pg: PgId(fault.pg),
            current: fault.current_epoch,
        },
        (Kind::Invalid, _) => BlobError::Invalid(fault.message),
        (Kind::DiskFull, _) => BlobError::DiskFull(disk),
        (Kind::DiskFailed, _) => BlobError::DiskFailed(disk),
        (Kind::Busy, _) => BlobError::Busy(disk),
        (Kind::Unreachable, _) => BlobError::Unreachable(fault.message),
        (
            Kind::Unknown
            | Kind::ChunkNotFound
            | Kind::ChunkDeleted
            | Kind::ChunkExists
            | Kind::Corrupt,
            _,
        ) => unreachable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_wire() {
        let (id, disk) = (ChunkId::new(PgId(7), 42), DiskId(9));
        let errors = [
            BlobError::ChunkNotFound(id),
            BlobError::ChunkDeleted(id),
            BlobError::ChunkExists(id),
            BlobError::StaleEpoch {
                pg: PgId(7),
                current: u64::MAX,
            },
            BlobError::Corrupt(id),
            BlobError::Invalid("a reason".to_owned()),
            BlobError::DiskFull(disk),
            BlobError::DiskFailed(disk),
            BlobError::Busy(disk),
            BlobError::Unreachable("deadline".to_owned()),
        ];
        for error in errors {
            let status = to_status(&error);
            assert_eq!(from_status(&status), error);
            assert_eq!(status.code(), code(error.kind()));
        }
    }

    #[test]
    fn a_foreign_status_means_unreachable() {
        for status in [
            Status::new(Code::Unavailable, "connection refused"),
            Status::with_details(Code::Internal, "proxy", vec![0xff, 0xff].into()),
            Status::with_details(
                Code::NotFound,
                "no chunk named",
                Fault {
                    kind: Kind::ChunkNotFound.into(),
                    ..Fault::default()
                }
                .encode_to_vec()
                .into(),
            ),
        ] {
            assert!(matches!(from_status(&status), BlobError::Unreachable(_)));
        }
    }
}
