//! Directories of a bucket whose keys are paths: how a command finds the key its path leads to, and
//! how directories come, move and go.
//!
//! Invariants: a directory has one row by name and one by id, which point at each other; no
//! directory and no object of one parent have the same name; every entry but those of the root
//! stands in a directory that is there, and its path is at most `OBJECT_KEY_BYTES_MAX` long.

use bytes::Bytes;
use granary_meta_api::pb::command::Command as Wire;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::{detail, pb};
use granary_types::{BucketId, SlabId, limits};

use super::{ApplyContext, Refusal, Tx};
use crate::keyspace::directory::DirectoryKey;
use crate::keyspace::head::HeadKey;
use crate::keyspace::{Entry, KeyField, Kind, escape, kind_prefix};
use crate::ownership::Place;
use crate::paths::{Path, Way, by_id_key, directory_at, directory_key, resolve, walk};
use crate::rows::{Bounds, Rows};

/// What a command does with the path it names.
enum Use {
    /// Makes an object of that name: missing parents are made first.
    Makes,
    /// Changes the object of that name: a directory is not one.
    Changes,
    /// Whatever is there, or nothing.
    Finds,
    /// Looks for itself.
    Itself,
}

fn use_of(command: &Wire) -> Use {
    match command {
        Wire::CreateDirectory(_) | Wire::RenameEntry(_) | Wire::DeleteDirectory(_) => Use::Itself,
        Wire::DeleteObject(_) | Wire::PutPart(_) | Wire::AbortUpload(_) | Wire::StageExtents(_) => {
            Use::Finds
        }
        Wire::SetObjectAcl(_)
        | Wire::SetObjectTags(_)
        | Wire::SetObjectMeta(_)
        | Wire::SealObject(_)
        | Wire::FoldTail(_) => Use::Changes,
        _ => Use::Makes,
    }
}

/// The place in the directories where a command acts whose position is a path.
pub(super) fn enter(
    tx: &mut Tx<'_>,
    place: Place,
    command: &Wire,
    owner: u64,
    time_ms: u64,
) -> Result<Place, Refusal> {
    match use_of(command) {
        Use::Itself => Ok(place),
        Use::Finds => Ok(resolve(tx, place)?),
        Use::Changes => {
            let place = resolve(tx, place)?;
            match directory_at(tx, &place)? {
                Some(_) => Err(taken("a directory has this name")),
                None => Ok(place),
            }
        }
        Use::Makes => {
            let path = read(&place.key)?;
            // What is put under the name of a directory makes one: PutObject sees to it.
            if path.is_closed() && !matches!(command, Wire::PutObject(_)) {
                return Err(impossible(
                    "a path with a slash at its end is a directory's",
                ));
            }
            let way = make_parents(tx, &place, path, owner, time_ms)?;
            let (key, is_closed) = (way.key_of(way.path.name), way.path.is_closed());
            let made = Place { key, ..place };
            if !is_closed && directory_at(tx, &made)?.is_some() {
                return Err(taken("a directory has this name"));
            }
            Ok(made)
        }
    }
}

/// Refuses a command that only buckets with directories know.
pub(super) fn check_hierarchical(at: &ApplyContext) -> Result<(), Refusal> {
    match at.view.hierarchical {
        true => Ok(()),
        false => Err(impossible("the bucket has no directories")),
    }
}

pub(super) fn read(path: &Bytes) -> Result<Path<'_>, Refusal> {
    Path::read(path).map_err(|_| impossible("a path with an empty name in it"))
}

/// What is asked of a path cannot be.
pub(super) fn impossible(detail: &str) -> Refusal {
    Refusal::because(Reason::InvalidPath, detail)
}

pub(super) fn taken(detail: &str) -> Refusal {
    Refusal::because(Reason::AlreadyExists, detail)
}

fn head_at(place: &Place, directory: u64, name: &[u8]) -> HeadKey {
    HeadKey {
        slab: place.slab,
        bucket: place.bucket,
        key: Entry { directory, name }.key(),
    }
}

/// Makes the parents of a path that are not there.
fn make_parents<'p>(
    tx: &mut Tx<'_>,
    place: &Place,
    path: Path<'p>,
    owner: u64,
    time_ms: u64,
) -> Result<Way<'p>, Refusal> {
    let mut way = walk(tx, place.slab, place.bucket, path)?;
    while let Some(name) = way.path.parents.get(way.found.len()) {
        if tx.exists(&head_at(place, way.deepest(), name))? {
            return Err(taken("an object stands where the path goes on"));
        }
        let row = directory_key(place.slab, place.bucket, way.deepest(), name);
        let made = make(tx, &row, owner, time_ms)?;
        way.found.push((row, made));
    }
    let bytes = way.path.name.len();
    raise(tx, &mut way, bytes)?;
    Ok(way)
}

/// Writes a new directory.
fn make(
    tx: &mut Tx<'_>,
    row: &DirectoryKey,
    owner: u64,
    time_ms: u64,
) -> Result<state::Directory, Refusal> {
    let made = state::Directory {
        id: tx.next_stamp(time_ms),
        created_ms: time_ms,
        owner,
        below_bytes: 0,
    };
    put(tx, row, &made)?;
    Ok(made)
}

/// Writes a directory where it now is.
fn put(tx: &mut Tx<'_>, row: &DirectoryKey, directory: &state::Directory) -> Result<(), Refusal> {
    tx.put(row, directory)?;
    let place = state::DirectoryPlace {
        key: row.key.clone(),
    };
    tx.put(&by_id_key(row.slab, row.bucket, directory.id), &place)
}

/// Remembers in every parent how long the paths below it may be. `bytes`: of what comes into the
/// last one.
fn raise(tx: &mut Tx<'_>, way: &mut Way<'_>, mut bytes: usize) -> Result<(), Refusal> {
    for (row, directory) in way.found.iter_mut().rev() {
        let below = u32::try_from(bytes).unwrap_or(u32::MAX);
        if below > directory.below_bytes {
            directory.below_bytes = below;
            tx.put(row, directory)?;
        }
        bytes += Entry::read(&row.key).map_or(0, |entry| entry.name.len());
    }
    Ok(())
}

/// Makes a directory and its missing parents, or finds it.
pub(super) fn create(
    tx: &mut Tx<'_>,
    place: &Place,
    path: &Bytes,
    owner: u64,
    time_ms: u64,
) -> Result<state::Directory, Refusal> {
    let path_bytes = path.len() + usize::from(!path.ends_with(b"/"));
    if path_bytes > limits::OBJECT_KEY_BYTES_MAX {
        return Err(impossible("a directory's path with its slash is too long"));
    }
    let mut way = make_parents(tx, place, read(path)?, owner, time_ms)?;
    let name = way.path.open_name();
    if tx.exists(&head_at(place, way.deepest(), name))? {
        return Err(taken("an object has this name"));
    }
    let row = directory_key(place.slab, place.bucket, way.deepest(), name);
    if let Some(known) = tx.get(&row)? {
        return Ok(known);
    }
    raise(tx, &mut way, name.len() + 1)?;
    make(tx, &row, owner, time_ms)
}

/// Gives the entry of one path another path. What is below a directory goes with it.
pub(super) fn rename(
    tx: &mut Tx<'_>,
    place: &Place,
    from: &Bytes,
    to: &Bytes,
) -> Result<(), Refusal> {
    let source = walk(tx, place.slab, place.bucket, read(from)?)?;
    if !source.is_whole() {
        return Err(Reason::NoSuchKey.into());
    }
    let object = head_at(place, source.deepest(), source.path.name);
    let directory = directory_key(place.slab, place.bucket, source.deepest(), source.path.name);
    // An object's name has no slash: a path that is closed finds none.
    let head = tx.get(&object)?;
    let known = tx.get(&directory)?;
    if head.is_none() && known.is_none() {
        return Err(Reason::NoSuchKey.into());
    }
    if let Some(known) = &known {
        check_moved(from, to, known)?;
    }
    let mut way = walk(tx, place.slab, place.bucket, read(to)?)?;
    if !way.is_whole() {
        return Err(Refusal::because(Reason::NoSuchKey, detail::NO_PARENT));
    }
    let name = way.path.open_name();
    let new_object = head_at(place, way.deepest(), name);
    let new_directory = directory_key(place.slab, place.bucket, way.deepest(), name);
    if tx.exists(&new_object)? || tx.exists(&new_directory)? {
        return Err(taken("the new path is there already"));
    }
    match (head, known) {
        (Some(_), _) if way.path.is_closed() => Err(impossible(
            "a path with a slash at its end is a directory's",
        )),
        (Some(head), _) => {
            raise(tx, &mut way, name.len())?;
            move_object(tx, &object, &new_object, head)
        }
        (None, Some(known)) => {
            raise(tx, &mut way, name.len() + 1 + known.below_bytes as usize)?;
            tx.delete(&directory);
            put(tx, &new_directory, &known)
        }
        (None, None) => Err(Reason::NoSuchKey.into()),
    }
}

/// A directory goes nowhere below itself, and nothing below it gets a path that cannot be named.
fn check_moved(from: &Bytes, to: &Bytes, directory: &state::Directory) -> Result<(), Refusal> {
    let open = |path: &Bytes| path.strip_suffix(b"/").unwrap_or(path).to_vec();
    let (mut from, to) = (open(from), open(to));
    from.push(b'/');
    if to.starts_with(&from) {
        return Err(impossible("a directory cannot be renamed into itself"));
    }
    if to.len() + 1 + directory.below_bytes as usize > limits::OBJECT_KEY_BYTES_MAX {
        return Err(impossible(
            "paths below the directory would become too long",
        ));
    }
    Ok(())
}

/// The record goes as it is. Of what goes by the object's id, the owner alone says where it is.
fn move_object(
    tx: &mut Tx<'_>,
    from: &HeadKey,
    to: &HeadKey,
    head: state::Head,
) -> Result<(), Refusal> {
    let object = head.current.as_ref().map(|version| &version.object_id);
    if let Some(object) = object.and_then(|id| crate::keyspace::Id::from_slice(id)) {
        let place = Place {
            slab: to.slab,
            bucket: to.bucket,
            key: to.key.clone(),
        };
        let row = super::deletions::owner_key(&place, object);
        if let Some(owner) = tx.get(&row)? {
            let key = to.key.clone();
            tx.put(&row, &state::Owner { key, ..owner })?;
        }
    }
    tx.delete(from);
    tx.put(to, &head)
}

/// Where the rows of a kind in a directory are.
pub(super) fn rows_in(slab: SlabId, bucket: BucketId, directory: u64, kind: Kind) -> Bounds {
    let mut prefix = kind_prefix(slab, kind);
    bucket.write(&mut prefix);
    let name = b"";
    escape(&Entry { directory, name }.key(), &mut prefix);
    Bounds::prefix(prefix)
}

/// True when nothing is in a directory: no object, no directory, and no upload under way.
pub(super) fn is_empty(tx: &Tx<'_>, place: &Place, directory: u64) -> Result<bool, Refusal> {
    for kind in [Kind::Head, Kind::Directory, Kind::Upload] {
        if tx.any(&rows_in(place.slab, place.bucket, directory, kind))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a directory in which nothing is.
pub(super) fn remove(tx: &mut Tx<'_>, row: &DirectoryKey, directory: &state::Directory) {
    tx.delete(row);
    tx.delete(&by_id_key(row.slab, row.bucket, directory.id));
}

/// DeleteObject of a path that a directory has: it goes when nothing is in it. `None` when there is
/// no directory of that name.
pub(super) fn delete_named(
    tx: &mut Tx<'_>,
    place: &Place,
) -> Result<Option<pb::DeleteReply>, Refusal> {
    let Some((row, directory)) = directory_at(tx, place)? else {
        return Ok(None);
    };
    if !is_empty(tx, place, directory.id)? {
        return Err(taken("the directory is not empty"));
    }
    remove(tx, &row, &directory);
    Ok(Some(pb::DeleteReply {
        existed: true,
        ..Default::default()
    }))
}
