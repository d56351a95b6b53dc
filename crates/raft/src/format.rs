//! Bytes the crate stores: log entries, votes, log positions and the state machine's bookkeeping.
//!
//! Every stored value is one format byte (1) and a protobuf message of `proto/raft.proto`. Readers
//! refuse other format bytes and messages that lack what they must have: nothing is guessed.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::types::{Batch, Entry, LogId, Membership, Payload, StoredMembership, Vote};
use crate::wire::proto;

/// The only format so far.
const FORMAT: u8 = 1;

/// Stored bytes or a peer's message are not what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

fn stored(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + message.encoded_len());
    buffer.put_u8(FORMAT);
    // Encoding into a growable buffer cannot run out of room.
    let _ = message.encode(&mut buffer);
    buffer.freeze()
}

fn load<M: Message + Default>(bytes: &Bytes) -> Result<M, Malformed> {
    match bytes.first() {
        Some(&FORMAT) => M::decode(bytes.slice(1..)).map_err(|_| Malformed("undecodable message")),
        Some(_) => Err(Malformed("unknown format byte")),
        None => Err(Malformed("empty value")),
    }
}

pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    stored(&entry_to_proto(entry))
}

pub(crate) fn decode_entry(bytes: &Bytes) -> Result<Entry, Malformed> {
    entry_from_proto(load(bytes)?)
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    stored(&vote_to_proto(vote))
}

pub(crate) fn decode_vote(bytes: &Bytes) -> Result<Vote, Malformed> {
    Ok(vote_from_proto(load(bytes)?))
}

pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    stored(&log_id_to_proto(id))
}

pub(crate) fn decode_log_id(bytes: &Bytes) -> Result<LogId, Malformed> {
    Ok(log_id_from_proto(load(bytes)?))
}

/// Where a state machine is in its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bookkeeping {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) time_ms: u64,
}

impl Bookkeeping {
    pub(crate) fn encode(&self) -> Bytes {
        let membership = self.membership.membership();
        let formed = !membership.get_joint_config().is_empty();
        stored(&proto::Bookkeeping {
            applied: self.applied.as_ref().map(log_id_to_proto),
            membership_id: self.membership.log_id().as_ref().map(log_id_to_proto),
            membership: formed.then(|| membership_to_proto(membership)),
            time_ms: self.time_ms,
        })
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let message: proto::Bookkeeping = load(bytes)?;
        let membership = match message.membership {
            Some(membership) => membership_from_proto(&membership)?,
            None => Membership::default(),
        };
        Ok(Self {
            applied: message.applied.map(log_id_from_proto),
            membership: StoredMembership::new(
                message.membership_id.map(log_id_from_proto),
                membership,
            ),
            time_ms: message.time_ms,
        })
    }
}

pub(crate) fn log_id_to_proto(id: &LogId) -> proto::LogId {
    proto::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(crate) fn log_id_from_proto(id: proto::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

pub(crate) fn vote_to_proto(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_proto(vote: proto::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    }
}

pub(crate) fn membership_to_proto(membership: &Membership) -> proto::Membership {
    proto::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| proto::Voters {
                nodes: voters.iter().copied().collect(),
            })
            .collect(),
        learners: membership.learner_ids().collect(),
    }
}

pub(crate) fn membership_from_proto(
    membership: &proto::Membership,
) -> Result<Membership, Malformed> {
    if membership.configs.is_empty() || membership.configs.iter().any(|c| c.nodes.is_empty()) {
        return Err(Malformed("membership without voters"));
    }
    let configs = membership
        .configs
        .iter()
        .map(|c| c.nodes.iter().copied().collect())
        .collect();
    Ok(Membership::new_with_defaults(
        configs,
        membership.learners.iter().copied(),
    ))
}

pub(crate) fn entry_to_proto(entry: &Entry) -> proto::Entry {
    let payload = match &entry.payload {
        Payload::Blank => proto::entry::Payload::Blank(proto::Blank {}),
        Payload::Normal(batch) => proto::entry::Payload::Commands(proto::LogPayload {
            time_ms: batch.time_ms,
            entropy: batch.entropy,
            commands: batch.commands.clone(),
        }),
        Payload::Membership(membership) => {
            proto::entry::Payload::Membership(membership_to_proto(membership))
        }
    };
    proto::Entry {
        id: Some(log_id_to_proto(&entry.log_id)),
        payload: Some(payload),
    }
}

pub(crate) fn entry_from_proto(entry: proto::Entry) -> Result<Entry, Malformed> {
    let log_id = log_id_from_proto(entry.id.ok_or(Malformed("entry without a log id"))?);
    let payload = match entry.payload.ok_or(Malformed("entry without a payload"))? {
        proto::entry::Payload::Blank(_) => Payload::Blank,
        proto::entry::Payload::Commands(payload) => Payload::Normal(Batch {
            time_ms: payload.time_ms,
            entropy: payload.entropy,
            commands: payload.commands,
        }),
        proto::entry::Payload::Membership(membership) => {
            Payload::Membership(membership_from_proto(&membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(what: &str, bytes: &Bytes, golden: &[u8]) {
        assert_eq!(
            bytes.as_ref(),
            golden,
            "the stored form of {what} must never change"
        );
    }

    fn entry(payload: Payload) -> Entry {
        Entry {
            log_id: LogId::new_term_index(3, 300),
            payload,
        }
    }

    #[test]
    fn stored_forms_are_frozen() {
        let commands = entry(Payload::Normal(Batch {
            time_ms: 1_700_000_000_000,
            entropy: 0x0102_0304_0506_0708,
            commands: vec![Bytes::from_static(b"ab"), Bytes::new()],
        }));
        let joint = Membership::new_with_defaults(
            vec![
                [1, 2, 3].into_iter().collect(),
                [2, 3, 4].into_iter().collect(),
            ],
            [9],
        );
        let membership = entry(Payload::Membership(joint.clone()));
        let golden: [(&str, Entry, &[u8]); 3] = [
            (
                "a blank entry",
                entry(Payload::Blank),
                b"\x01\x0a\x05\x08\x03\x10\xac\x02\x12\x00",
            ),
            (
                "commands",
                commands,
                b"\x01\x0a\x05\x08\x03\x10\xac\x02\x1a\x16\x08\x80\xd0\x95\xff\xbc\x31\x11\x08\x07\
                  \x06\x05\x04\x03\x02\x01\x1a\x02ab\x1a\x00",
            ),
            (
                "a membership",
                membership,
                b"\x01\x0a\x05\x08\x03\x10\xac\x02\x22\x11\x0a\x05\x0a\x03\x01\x02\x03\x0a\x05\x0a\
                  \x03\x02\x03\x04\x12\x01\x09",
            ),
        ];
        for (what, entry, bytes) in golden {
            check(what, &encode_entry(&entry), bytes);
            assert_eq!(
                decode_entry(&Bytes::from_static(bytes)),
                Ok(entry),
                "{what}"
            );
        }
        let vote = Vote::new_committed(7, 5);
        check(
            "a vote",
            &encode_vote(&vote),
            b"\x01\x08\x07\x10\x05\x18\x01",
        );
        assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        let id = LogId::new_term_index(1, 2);
        check("a log id", &encode_log_id(&id), b"\x01\x08\x01\x10\x02");
        assert_eq!(decode_log_id(&encode_log_id(&id)), Ok(id));
        let books = Bookkeeping {
            applied: Some(LogId::new_term_index(4, 40)),
            membership: StoredMembership::new(Some(LogId::new_term_index(3, 30)), joint),
            time_ms: 5,
        };
        check(
            "bookkeeping",
            &books.encode(),
            b"\x01\x0a\x04\x08\x04\x10\x28\x12\x04\x08\x03\x10\x1e\x1a\x11\x0a\x05\x0a\x03\x01\x02\
              \x03\x0a\x05\x0a\x03\x02\x03\x04\x12\x01\x09\x20\x05",
        );
        assert_eq!(Bookkeeping::decode(&books.encode()), Ok(books));
        let empty = Bookkeeping::default();
        assert_eq!(Bookkeeping::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bytes in [
            &b""[..],
            b"\x02\x0a\x00",
            b"\x01",
            b"\x01\xff",
            b"\x01\x0a\x02\x08\x01",
        ] {
            assert!(
                decode_entry(&Bytes::copy_from_slice(bytes)).is_err(),
                "{bytes:?}"
            );
        }
    }
}
