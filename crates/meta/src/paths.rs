//! Paths of buckets with directories, and the keys they lead to: the one place that knows how a path
//! becomes the key of a row, and how a key becomes a path again.
//!
//! It is walked inside apply and inside queries, in the same transaction or snapshot as what is
//! done with the key, so that nothing is renamed in between.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_raft::StateMachineError;
use granary_types::{BucketId, ObjectAcl, ObjectType, SlabId, StorageClass, limits};

use crate::keyspace::Entry;
use crate::keyspace::directory::DirectoryKey;
use crate::keyspace::directory_by_id::DirectoryByIdKey;
use crate::ownership::Place;
use crate::rows::{RawRows, Rows};

/// The directory that a bucket begins with; it has no row.
pub(crate) const ROOT: u64 = 0;
/// Stands for a directory that is not there: no row is ever written below it.
const NOWHERE: u64 = u64::MAX;
/// What every directory shows as its Content-Type.
const CONTENT_TYPE: &str = "application/x-directory";

/// The bytes are no path: a name in it is empty.
#[derive(Debug)]
pub(crate) struct NotAPath;

/// A path, cut into names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path<'p> {
    /// The directories it goes through.
    pub(crate) parents: Vec<&'p [u8]>,
    /// The last name; with a slash behind it when the path has one and so means a directory.
    pub(crate) name: &'p [u8],
}

impl<'p> Path<'p> {
    /// Cuts a path.
    ///
    /// # Errors
    /// Two slashes follow each other, or it begins with one or is empty.
    pub(crate) fn read(path: &'p [u8]) -> Result<Self, NotAPath> {
        let open = path.strip_suffix(b"/").unwrap_or(path);
        let mut parents: Vec<&[u8]> = open.split(|byte| *byte == b'/').collect();
        if parents.iter().any(|name| name.is_empty()) {
            return Err(NotAPath);
        }
        let last = parents.pop().unwrap_or_default();
        let begin = open.len() - last.len();
        Ok(Self {
            parents,
            name: path.get(begin..).unwrap_or_default(),
        })
    }

    /// True when it means a directory and nothing else.
    pub(crate) fn is_closed(&self) -> bool {
        self.name.ends_with(b"/")
    }

    /// The last name without the slash.
    pub(crate) fn open_name(&self) -> &'p [u8] {
        self.name.strip_suffix(b"/").unwrap_or(self.name)
    }
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(crate) struct Way<'p> {
    /// The path.
    pub(crate) path: Path<'p>,
    /// The directories of its parents that are there, topmost first.
    pub(crate) found: Vec<(DirectoryKey, state::Directory)>,
}

impl Way<'_> {
    /// True when every parent is there.
    pub(crate) fn is_whole(&self) -> bool {
        self.found.len() == self.path.parents.len()
    }

    /// The last parent that is there.
    pub(crate) fn deepest(&self) -> u64 {
        self.found
            .last()
            .map_or(ROOT, |(_, directory)| directory.id)
    }

    /// The key of a name in the path's parent; one that no row has when the parent is not there.
    pub(crate) fn key_of(&self, name: &[u8]) -> Bytes {
        let directory = if self.is_whole() {
            self.deepest()
        } else {
            NOWHERE
        };
        Entry { directory, name }.key()
    }
}

/// Walks a path's parents from the root down, as far as they are there.
pub(crate) fn walk<'p, R: RawRows + ?Sized>(
    rows: &R,
    slab: SlabId,
    bucket: BucketId,
    path: Path<'p>,
) -> Result<Way<'p>, StateMachineError> {
    let mut found = Vec::with_capacity(path.parents.len());
    let mut directory = ROOT;
    for name in &path.parents {
        let row = directory_key(slab, bucket, directory, name);
        let Some(next) = rows.get(&row)? else { break };
        directory = next.id;
        found.push((row, next));
    }
    Ok(Way { path, found })
}

/// The place of a path in a bucket with directories. What no path leads to, or one that is not
/// there, gets a place where no row is. A place that is one already, because it was read from a row,
/// stays what it is.
pub(crate) fn resolve<R: RawRows + ?Sized>(
    rows: &R,
    place: Place,
) -> Result<Place, StateMachineError> {
    if Entry::read(&place.key).is_some() {
        return Ok(place);
    }
    let key = match Path::read(&place.key) {
        Ok(path) => {
            let way = walk(rows, place.slab, place.bucket, path)?;
            way.key_of(way.path.name)
        }
        Err(NotAPath) => Entry {
            directory: NOWHERE,
            name: &place.key,
        }
        .key(),
    };
    Ok(Place { key, ..place })
}

/// The row of a directory by parent and name.
pub(crate) fn directory_key(
    slab: SlabId,
    bucket: BucketId,
    parent: u64,
    name: &[u8],
) -> DirectoryKey {
    let name = [name.strip_suffix(b"/").unwrap_or(name), b"/"].concat();
    let directory = parent;
    let key = Entry {
        directory,
        name: &name,
    };
    DirectoryKey {
        slab,
        bucket,
        key: key.key(),
    }
}

/// The row that says where a directory is.
pub(crate) fn by_id_key(slab: SlabId, bucket: BucketId, directory: u64) -> DirectoryByIdKey {
    let key = Entry {
        directory,
        name: b"",
    };
    DirectoryByIdKey {
        slab,
        bucket,
        key: key.key(),
    }
}

/// The directory of that name, when a place is one in a bucket with directories.
pub(crate) fn directory_at<R: RawRows + ?Sized>(
    rows: &R,
    place: &Place,
) -> Result<Option<(DirectoryKey, state::Directory)>, StateMachineError> {
    let Some(entry) = Entry::read(&place.key) else {
        return Ok(None);
    };
    let row = directory_key(place.slab, place.bucket, entry.directory, entry.name);
    let found = rows.get(&row)?;
    Ok(found.map(|directory| (row, directory)))
}

/// The path of an entry's key, as far up as the directories are there; other keys are what they
/// are.
pub(crate) fn path_of<R: RawRows + ?Sized>(
    rows: &R,
    slab: SlabId,
    bucket: BucketId,
    key: &Bytes,
) -> Result<Bytes, StateMachineError> {
    let Some(entry) = Entry::read(key) else {
        return Ok(key.clone());
    };
    let mut names = vec![Bytes::copy_from_slice(entry.name)];
    let mut directory = entry.directory;
    // A path has no more names than bytes, so nothing can make this endless.
    while directory != ROOT && names.len() <= limits::OBJECT_KEY_BYTES_MAX {
        let Some(above) = rows.get(&by_id_key(slab, bucket, directory))? else {
            break;
        };
        let Some(entry) = Entry::read(&above.key) else {
            break;
        };
        names.push(Bytes::copy_from_slice(entry.name));
        directory = entry.directory;
    }
    names.reverse();
    Ok(names.concat().into())
}

/// A directory as HEAD and lists show it.
pub(crate) fn shown(directory: &state::Directory) -> state::Version {
    state::Version {
        stamp: directory.id,
        object_type: ObjectType::Directory.number(),
        modified_ms: directory.created_ms,
        storage_class: StorageClass::Standard.number(),
        acl: ObjectAcl::Default.number(),
        owner: directory.owner,
        headers: vec![state::Header {
            name: "Content-Type".to_owned(),
            value: CONTENT_TYPE.to_owned(),
        }],
        is_null: true,
        body: Some(state::Body {
            place: Some(BodyPlace::Inline(state::InlineBody { length: 0 })),
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_at_their_slashes() {
        let check = |path: &'static str, parents: &[&str], name: &str| {
            let read = Path::read(path.as_bytes()).unwrap();
            let parents: Vec<_> = parents.iter().map(|name| name.as_bytes()).collect();
            assert_eq!((read.parents, read.name), (parents, name.as_bytes()));
        };
        check("a", &[], "a");
        check("a/", &[], "a/");
        check("a/b", &["a"], "b");
        check("a/b/..", &["a", "b"], "..");
        check("a/b/c/", &["a", "b"], "c/");
        for bad in ["", "/", "//", "/a", "a//", "a//b"] {
            assert!(Path::read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
