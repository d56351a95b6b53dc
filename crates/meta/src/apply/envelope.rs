//! What all commands share: decoding, replay by command id, deadline, feature level, ownership of
//! the position and the bucket's generation.
//!
//! Order matters: a repeat is answered before its deadline is looked at, so that the first answer
//! is given for as long as it is kept; where the shard does not own the position nothing is
//! recorded, because the repeat belongs to another shard.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::fault::Kind;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::{BucketId, limits};
use prost::Message;

use super::scope::{Scope, level, owner, scope};
use super::{ApplyContext, FEATURE_LEVEL, Refusal, Tx, directories, dispatch, expiry};
use crate::keyspace::bucket_view::BucketViewKey;
use crate::keyspace::command_reply::CommandReplyKey;
use crate::keyspace::{Id, minute_of};
use crate::limits::{COMMAND_DEADLINE_MS_MAX, EXPIRED_PER_COMMAND, IDLE_MINUTES_PER_COMMAND};
use crate::ownership::{Place, place_at};
use crate::rows::Rows;

/// Applies one command of a log entry and encodes its answer, a [`pb::ProposeReply`].
///
/// # Errors
/// The replica must stop: the store failed, or the command is unknown to this version.
pub(crate) fn decide(
    bytes: Bytes,
    time_ms: u64,
    tx: &mut Tx<'_>,
) -> Result<Bytes, StateMachineError> {
    let unknown = |reason: String| StateMachineError::UnknownCommand { reason };
    let command = pb::Command::decode(bytes).map_err(|error| unknown(error.to_string()))?;
    if command.command.is_none() {
        return Err(unknown("no known command in the envelope".to_owned()));
    }
    // By a snapshot, or by whoever ran here before: what comes now may mean something else.
    if tx.clock.feature_level > FEATURE_LEVEL {
        return Err(unknown(format!("feature level {}", tx.clock.feature_level)));
    }
    match decide_known(command, time_ms, tx) {
        Ok(reply) => Ok(reply),
        Err(Refusal::Fault(fault)) => Ok(encode_fault(fault)),
        Err(Refusal::Rejected(rejection)) => Ok(encode_reply(rejected(rejection))),
        Err(Refusal::Failed(error)) => Err(error),
    }
}

fn decide_known(envelope: pb::Command, time_ms: u64, tx: &mut Tx<'_>) -> Result<Bytes, Refusal> {
    let Some(command) = envelope.command else {
        return Err(Refusal::fault(Kind::Invalid, "no command"));
    };
    let Some(id) = Id::from_slice(&envelope.id) else {
        return Err(Refusal::fault(Kind::Invalid, "a command id has 16 bytes"));
    };
    if envelope.deadline_ms > time_ms.saturating_add(COMMAND_DEADLINE_MS_MAX) {
        return Err(Refusal::fault(
            Kind::Invalid,
            format!("a deadline lies at most {COMMAND_DEADLINE_MS_MAX} ms ahead of {time_ms}"),
        ));
    }
    let place = place_of(&scope(&command), tx)?;
    let row = CommandReplyKey {
        slab: place.slab,
        minute: minute_of(envelope.deadline_ms),
        bucket: place.bucket,
        key: place.key.clone(),
        command: id,
    };
    if let Some(known) = tx.get(&row)? {
        return Ok(known.reply);
    }
    if time_ms > envelope.deadline_ms {
        // While no answer of that minute was taken away, having none means: never applied. A
        // tick keeps none, and nobody minds another.
        let kept = tx.clock.reply_minute <= minute_of(envelope.deadline_ms);
        return Err(Refusal::late(time_ms, kept));
    }
    let needed = level(&command);
    if tx.clock.feature_level < needed {
        return Err(Refusal::fault(
            Kind::Unavailable,
            format!("feature level {needed} is not activated yet"),
        ));
    }
    // Ticks are harmless to repeat and come for ever: they leave no row that would be due again.
    let keeps_reply = !matches!(command, pb::command::Command::Tick(_));
    tx.save();
    let decided = guarded(command, time_ms, place, tx);
    let reply = match decided {
        Ok(reply) => pb::CommandReply {
            rejection: None,
            reply: Some(reply),
        },
        Err(Refusal::Rejected(rejection)) => {
            tx.undo();
            rejected(rejection)
        }
        Err(other) => {
            tx.undo();
            return Err(other);
        }
    };
    tx.keep();
    let reply = encode_reply(reply);
    let bookkeeping = expiry::run(tx, time_ms, EXPIRED_PER_COMMAND, IDLE_MINUTES_PER_COMMAND)
        .and_then(|()| match keeps_reply {
            true => tx.put_inline(
                &row,
                &state::CommandReplyRow {
                    reply: reply.clone(),
                },
            ),
            false => Ok(()),
        });
    bookkeeping.map_err(after_the_fact)?;
    Ok(reply)
}

/// The command's writes are kept by now: a "no" would be untrue, so the replica stops.
fn after_the_fact(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Failed(error) => Refusal::Failed(error),
        other => Refusal::Failed(StateMachineError::Corrupt {
            what: "the bookkeeping of a command",
            reason: format!("{other:?}"),
        }),
    }
}

/// The place a command's answer is kept at; a fault when the shard does not own the position.
fn place_of(scope: &Scope<'_>, tx: &Tx<'_>) -> Result<Place, Refusal> {
    let position = match scope {
        Scope::Objects(at) | Scope::Position(at) => *at,
        Scope::Shard => None,
        Scope::Root if tx.shard() == granary_types::ShardId::ROOT => None,
        Scope::Root => return Err(Refusal::fault(Kind::WrongShard, "a command of the root")),
    };
    if matches!(scope, Scope::Shard | Scope::Root) {
        return Ok(Place {
            slab: tx.home(),
            bucket: BucketId(0),
            key: Bytes::new(),
        });
    }
    let Some(at) = position else {
        return Err(Refusal::fault(
            Kind::Invalid,
            "a command without a position",
        ));
    };
    if at.key.is_empty() || at.key.len() > limits::OBJECT_KEY_BYTES_MAX {
        return Err(Refusal::fault(Kind::Invalid, "not an object key"));
    }
    place_at(&tx.descriptor, BucketId(at.bucket_id), &at.key)
        .ok_or_else(|| Refusal::fault(Kind::WrongShard, "the position is not this shard's"))
}

/// Checks the bucket and follows the path in it, then applies. Answers are kept at the path: what it
/// leads to may be another entry when the command is repeated.
fn guarded(
    command: pb::command::Command,
    time_ms: u64,
    mut place: Place,
    tx: &mut Tx<'_>,
) -> Result<pb::command_reply::Reply, Refusal> {
    let view = match scope(&command) {
        Scope::Objects(Some(at)) => open_bucket(tx, at)?,
        _ => state::BucketView::default(),
    };
    if view.hierarchical {
        place = directories::enter(tx, place, &command, owner(&command), time_ms)?;
    }
    let at = ApplyContext {
        time_ms,
        place,
        view,
    };
    dispatch(command, tx, &at)
}

/// The bucket as the shard knows it; refused when it is gone, or the sender's view of it is not
/// the shard's.
fn open_bucket(tx: &Tx<'_>, at: &pb::Position) -> Result<state::BucketView, Refusal> {
    let row = BucketViewKey {
        slab: tx.home(),
        bucket: BucketId(at.bucket_id),
    };
    let view = tx.get(&row)?.ok_or(Reason::NoSuchBucket)?;
    if view.dropped || view.fenced {
        return Err(Reason::NoSuchBucket.into());
    }
    if view.generation != at.generation {
        return Err(Refusal::because(
            Reason::StaleGeneration,
            format!("generation {} against {}", at.generation, view.generation),
        ));
    }
    Ok(view)
}

fn rejected(rejection: pb::Rejection) -> pb::CommandReply {
    pb::CommandReply {
        rejection: Some(rejection),
        reply: None,
    }
}

fn encode_reply(reply: pb::CommandReply) -> Bytes {
    let reply = pb::ProposeReply {
        reply: Some(reply),
        fault: None,
    };
    reply.encode_to_vec().into()
}

fn encode_fault(fault: pb::Fault) -> Bytes {
    let reply = pb::ProposeReply {
        reply: None,
        fault: Some(fault),
    };
    reply.encode_to_vec().into()
}
