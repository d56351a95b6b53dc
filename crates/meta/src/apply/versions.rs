//! The versions of a key: a head row with the current one, version rows with the others.
//!
//! Invariants: stamps of a key only grow; at most one version of a key is the null version, and
//! the head row says where it is; a key without a head row has no version rows.

use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;

use super::counters::{class_of, count, signed};
use super::deletions::release;
use super::{ApplyContext, Refusal, Tx};
use crate::keyspace::head::HeadKey;
use crate::keyspace::version::VersionKey;
use crate::keyspace::{Kind, Newest};
use crate::ownership::key_bounds;
use crate::rows::Rows;

/// Values of `BucketView::versioning`.
pub(super) mod versioning {
    /// Never configured: a key has one version.
    pub(in crate::apply) const NEVER: u32 = 0;
    /// Every write adds a version.
    pub(in crate::apply) const ENABLED: u32 = 1;
    /// A write replaces the null version and leaves the others.
    pub(in crate::apply) const SUSPENDED: u32 = 2;
}

pub(super) fn head_key(at: &ApplyContext) -> HeadKey {
    HeadKey {
        slab: at.place.slab,
        bucket: at.place.bucket,
        key: at.place.key.clone(),
    }
}

fn version_key(at: &ApplyContext, stamp: u64) -> VersionKey {
    VersionKey {
        slab: at.place.slab,
        bucket: at.place.bucket,
        key: at.place.key.clone(),
        stamp: Newest(stamp),
    }
}

/// True when a new version is the key's null version.
pub(super) fn writes_null(at: &ApplyContext) -> bool {
    at.view.versioning != versioning::ENABLED
}

/// The current version of the key, which may be a delete marker.
pub(super) fn current(tx: &Tx<'_>, at: &ApplyContext) -> Result<Option<state::Version>, Refusal> {
    Ok(tx.get(&head_key(at))?.and_then(|head| head.current))
}

/// Refuses when an object is there and must not be replaced. Without effect once versioning was
/// configured: nothing is lost by a write then.
pub(super) fn check_forbid_overwrite(
    tx: &Tx<'_>,
    at: &ApplyContext,
    forbid: bool,
) -> Result<(), Refusal> {
    if !forbid || at.view.versioning != versioning::NEVER {
        return Ok(());
    }
    match current(tx, at)? {
        Some(current) if !current.delete_marker => Err(Reason::AlreadyExists.into()),
        _ => Ok(()),
    }
}

/// Fills what apply decides of a new version, but for its bytes.
pub(super) fn stamp_version(tx: &mut Tx<'_>, at: &ApplyContext, version: &mut state::Version) {
    let stamp = tx.next_stamp(at.time_ms);
    version.stamp = stamp;
    version.modified_ms = granary_types::VersionStamp(stamp).as_millis();
    version.is_null = writes_null(at);
    if at.view.default_retention_days > 0 && version.retention.is_none() {
        let days_ms = at
            .view
            .default_retention_days
            .saturating_mul(24 * 60 * 60 * 1000);
        version.retention = Some(state::Retention {
            until_ms: version.modified_ms.saturating_add(days_ms),
            legal_hold: false,
        });
    }
}

/// Makes `new` the current version. What was current becomes noncurrent, or is replaced when it
/// is the null version and `new` is one too.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    new: state::Version,
) -> Result<(), Refusal> {
    let row = head_key(at);
    let mut null_stamp = 0;
    if let Some(state::Head {
        current: Some(old),
        null_stamp: old_null,
    }) = tx.get(&row)?
    {
        if new.is_null && old.is_null {
            drop_version(tx, at, &old, Role::Current)?;
        } else {
            if !new.is_null {
                null_stamp = if old.is_null { old.stamp } else { old_null };
            } else if old_null != 0 {
                take_noncurrent(tx, at, old_null)?;
            }
            demote(tx, at, old)?;
        }
    }
    add(tx, at, &new, Role::Current, 1)?;
    tx.put(
        &row,
        &state::Head {
            current: Some(new),
            null_stamp,
        },
    )
}

/// Which version of a key is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The one with this stamp.
    Stamp(u64),
    /// The null version.
    Null,
}

impl Which {
    /// The version that a command names; `None` for the current one.
    pub(super) fn named(stamp: u64, null: bool) -> Result<Option<Self>, Refusal> {
        match (stamp, null) {
            (0, true) => Ok(Some(Self::Null)),
            (0, false) => Ok(None),
            (stamp, false) => Ok(Some(Self::Stamp(stamp))),
            (_, true) => Err(Refusal::invalid("two versions are named")),
        }
    }
}

/// Changes attributes of a version where it stands, and nothing that is counted or that orders it;
/// what it is now. Delete markers have none.
pub(super) fn change(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    which: Option<Which>,
    alter: impl FnOnce(&mut state::Version),
) -> Result<state::Version, Refusal> {
    let missing = match which {
        None => Reason::NoSuchKey,
        Some(_) => Reason::NoSuchVersion,
    };
    let row = head_key(at);
    let head = tx.get(&row)?.ok_or(missing)?;
    let null_stamp = head.null_stamp;
    let mut current = head.current.ok_or(missing)?;
    let is_current = match which {
        None => true,
        Some(Which::Stamp(stamp)) => current.stamp == stamp,
        Some(Which::Null) => current.is_null,
    };
    if is_current {
        if current.delete_marker {
            return Err(missing.into());
        }
        alter(&mut current);
        let head = state::Head {
            current: Some(current.clone()),
            null_stamp,
        };
        tx.put(&row, &head)?;
        return Ok(current);
    }
    let row = version_key(
        at,
        match which {
            Some(Which::Stamp(stamp)) => stamp,
            // No version has the stamp 0.
            Some(Which::Null) | None => null_stamp,
        },
    );
    let mut version = tx.get(&row)?.ok_or(missing)?;
    if version.delete_marker {
        return Err(missing.into());
    }
    alter(&mut version);
    tx.put(&row, &version)?;
    Ok(version)
}

/// Removes a version and its bytes; what it was, or `None` when there is none.
pub(super) fn remove(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    which: Which,
) -> Result<Option<state::Version>, Refusal> {
    let row = head_key(at);
    let Some(state::Head {
        current: Some(current),
        null_stamp,
    }) = tx.get(&row)?
    else {
        return Ok(None);
    };
    let is_current = match which {
        Which::Stamp(stamp) => current.stamp == stamp,
        Which::Null => current.is_null,
    };
    if is_current {
        drop_version(tx, at, &current, Role::Current)?;
        promote(tx, at, null_stamp)?;
        return Ok(Some(current));
    }
    let stamp = match which {
        Which::Stamp(stamp) => stamp,
        Which::Null if null_stamp == 0 => return Ok(None),
        Which::Null => null_stamp,
    };
    let removed = take_noncurrent(tx, at, stamp)?;
    if removed.is_some() && stamp == null_stamp {
        tx.put(
            &row,
            &state::Head {
                current: Some(current),
                null_stamp: 0,
            },
        )?;
    }
    Ok(removed)
}

/// Makes the newest noncurrent version current, or removes the head row when there is none.
fn promote(tx: &mut Tx<'_>, at: &ApplyContext, null_stamp: u64) -> Result<(), Refusal> {
    let row = head_key(at);
    let bounds = key_bounds(&at.place, Kind::Version);
    let Some((newest, version)) = tx.list::<VersionKey>(&bounds, 1)?.pop() else {
        tx.delete(&row);
        return Ok(());
    };
    tx.delete(&newest);
    add(tx, at, &version, Role::Noncurrent, -1)?;
    add(tx, at, &version, Role::Current, 1)?;
    let null_stamp = if version.is_null { 0 } else { null_stamp };
    tx.put(
        &row,
        &state::Head {
            current: Some(version),
            null_stamp,
        },
    )
}

/// Gives the current version a row of its own.
fn demote(tx: &mut Tx<'_>, at: &ApplyContext, old: state::Version) -> Result<(), Refusal> {
    add(tx, at, &old, Role::Current, -1)?;
    add(tx, at, &old, Role::Noncurrent, 1)?;
    tx.put(&version_key(at, old.stamp), &old)
}

/// Removes a noncurrent version.
fn take_noncurrent(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    stamp: u64,
) -> Result<Option<state::Version>, Refusal> {
    let row = version_key(at, stamp);
    let Some(version) = tx.get(&row)? else {
        return Ok(None);
    };
    drop_version(tx, at, &version, Role::Noncurrent)?;
    tx.delete(&row);
    Ok(Some(version))
}

#[derive(Clone, Copy)]
enum Role {
    Current,
    Noncurrent,
}

/// Refuses what would change or remove a version that has to stay as it is.
pub(super) fn check_not_retained(
    at: &ApplyContext,
    version: &state::Version,
) -> Result<(), Refusal> {
    match &version.retention {
        Some(retention) if retention.legal_hold || retention.until_ms > at.time_ms => {
            Err(Reason::Immutable.into())
        }
        _ => Ok(()),
    }
}

/// Gives up a version's bytes and its place in the counters.
fn drop_version(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    version: &state::Version,
    role: Role,
) -> Result<(), Refusal> {
    check_not_retained(at, version)?;
    let body = version.body.as_ref();
    release(
        tx,
        &at.place,
        at.time_ms,
        &version.object_id,
        body,
        version.size,
    )?;
    add(tx, at, version, role, -1)
}

/// Counts a version in (`sign` 1) or out (-1).
fn add(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    version: &state::Version,
    role: Role,
    sign: i64,
) -> Result<(), Refusal> {
    let mut change = state::Counter::default();
    if version.delete_marker {
        change.delete_markers = sign;
    } else {
        change.bytes = sign * signed(version.size);
        match role {
            Role::Current => change.objects = sign,
            Role::Noncurrent => change.versions = sign,
        }
    }
    count(tx, at.place.bucket, class_of(version), at.time_ms, &change)
}

/// A version as replies carry it: without what only GET needs.
pub(super) fn for_reply(mut version: state::Version) -> state::Version {
    version.headers.clear();
    version.user_meta.clear();
    version.tags.clear();
    version.body = None;
    version
}
