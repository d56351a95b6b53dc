//! DeleteDirectory: one step of deleting a directory, with what is below it if that is asked for.
//!
//! A step deletes a bounded number of entries, deepest first, and says where the next one goes on:
//! to look from the start again would cost more with every step, because removed rows have to be
//! passed over too. What came in behind the cursor is found before its directory is removed.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;

use super::directories::{check_hierarchical, is_empty, read, remove, rows_in, taken};
use super::parts::{all_parts, close_upload, release_parts};
use super::versions::{Which, remove as remove_version};
use super::{Apply, ApplyContext, Refusal, Tx, expiry};
use crate::keyspace::directory::DirectoryKey;
use crate::keyspace::head::HeadKey;
use crate::keyspace::upload::UploadKey;
use crate::keyspace::{Entry, Kind, RowKey};
use crate::limits::{ENTRIES_PER_STEP, PARTS_PER_STEP};
use crate::ownership::Place;
use crate::paths::{ROOT, by_id_key, directory_at, walk};
use crate::rows::Rows;

impl Apply for pb::DeleteDirectory {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        check_hierarchical(at)?;
        let way = walk(tx, at.place.slab, at.place.bucket, read(&at.place.key)?)?;
        let place = Place {
            key: way.key_of(way.path.name),
            ..at.place.clone()
        };
        let (row, target) = directory_at(tx, &place)?.ok_or(Reason::NoSuchKey)?;
        if !self.recursive {
            if !is_empty(tx, &place, target.id)? {
                return Err(taken("the directory is not empty"));
            }
            remove(tx, &row, &target);
            return Ok(deleted(1, None));
        }
        let from = self.from.unwrap_or_default();
        if from.target != 0 && from.target != target.id {
            // The one that the cursor is of is gone, and this one is another.
            return Err(Reason::NoSuchKey.into());
        }
        let mut step = Step {
            at,
            entries: ENTRIES_PER_STEP,
            parts: PARTS_PER_STEP,
            open: go_on(tx, &place, row, target, &from)?,
        };
        let next = step.run(tx)?;
        let entries = u32::try_from(ENTRIES_PER_STEP - step.entries).unwrap_or(u32::MAX);
        let next = next.map(|cursor| pb::DirectoryCursor {
            target: target.id,
            ..cursor
        });
        Ok(deleted(entries, next))
    }
}

fn deleted(entries: u32, next: Option<pb::DirectoryCursor>) -> Reply {
    Reply::DirectoryDeleted(pb::DirectoryDeleted {
        entries,
        more: next.is_some(),
        next,
    })
}

/// A directory that is being deleted, and how far.
struct Open {
    row: DirectoryKey,
    directory: state::Directory,
    /// The last name that was dealt with.
    after: Bytes,
    /// Objects and uploads are deleted: directories are next.
    in_directories: bool,
}

impl Open {
    fn new(row: DirectoryKey, directory: state::Directory) -> Self {
        Self {
            row,
            directory,
            after: Bytes::new(),
            in_directories: false,
        }
    }
}

/// The directories from the target down to where a cursor stands; the target alone when the cursor
/// stands nowhere below it.
fn go_on(
    tx: &Tx<'_>,
    place: &Place,
    row: DirectoryKey,
    target: state::Directory,
    from: &pb::DirectoryCursor,
) -> Result<Vec<Open>, Refusal> {
    let mut open = vec![Open::new(row, target)];
    let mut below = Vec::new();
    let mut id = from.directory;
    while id != target.id {
        let above = match id {
            ROOT => None,
            _ => tx.get(&by_id_key(place.slab, place.bucket, id))?,
        };
        let Some(above) = above else { return Ok(open) };
        let row = DirectoryKey {
            slab: place.slab,
            bucket: place.bucket,
            key: above.key,
        };
        let Some(directory) = tx.get(&row)? else {
            return Ok(open);
        };
        id = Entry::read(&row.key).map_or(ROOT, |entry| entry.directory);
        below.push(Open::new(row, directory));
    }
    below.reverse();
    for child in below {
        if let (Some(parent), Some(entry)) = (open.last_mut(), Entry::read(&child.row.key)) {
            parent.after = Bytes::copy_from_slice(entry.name);
            parent.in_directories = true;
        }
        open.push(child);
    }
    if let Some(deepest) = open.last_mut() {
        deepest.after = from.after.clone();
        deepest.in_directories = from.in_directories;
    }
    Ok(open)
}

/// What one step may still do.
struct Step<'c> {
    at: &'c ApplyContext,
    entries: usize,
    parts: usize,
    open: Vec<Open>,
}

impl Step<'_> {
    /// Deletes until the step is at its end; where the next one goes on, `None` when the target is
    /// gone.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<Option<pb::DirectoryCursor>, Refusal> {
        while let Some(mut open) = self.open.pop() {
            if !open.in_directories {
                self.objects(tx, &mut open)?;
                self.uploads(tx, &open)?;
                if self.is_spent() {
                    return Ok(Some(cursor(&open)));
                }
                open.in_directories = true;
                open.after = Bytes::new();
            }
            if let Some(child) = next_directory(tx, &open)? {
                self.open.push(open);
                self.open.push(child);
                continue;
            }
            if self.is_spent() {
                return Ok(Some(cursor(&open)));
            }
            if !is_empty(tx, &self.at.place, open.directory.id)? {
                self.open.push(Open::new(open.row, open.directory));
                continue;
            }
            remove(tx, &open.row, &open.directory);
            self.entries -= 1;
            if let (Some(parent), Some(entry)) = (self.open.last_mut(), Entry::read(&open.row.key))
            {
                parent.after = Bytes::copy_from_slice(entry.name);
            }
        }
        Ok(None)
    }

    fn is_spent(&self) -> bool {
        self.entries == 0 || self.parts == 0
    }

    /// Deletes objects behind the cursor.
    fn objects(&mut self, tx: &mut Tx<'_>, open: &mut Open) -> Result<(), Refusal> {
        let bounds = rows_in(
            open.row.slab,
            open.row.bucket,
            open.directory.id,
            Kind::Head,
        );
        let bounds = bounds.from(behind(open, Kind::Head));
        for (row, _) in tx.list::<HeadKey>(&bounds, self.entries)? {
            let at = ApplyContext {
                time_ms: self.at.time_ms,
                place: Place {
                    key: row.key.clone(),
                    ..self.at.place.clone()
                },
                view: self.at.view,
            };
            remove_version(tx, &at, Which::Null)?;
            self.entries -= 1;
            if let Some(entry) = Entry::read(&row.key) {
                open.after = Bytes::copy_from_slice(entry.name);
            }
        }
        Ok(())
    }

    /// Gives up uploads into the directory; one that has many parts ends the step.
    fn uploads(&mut self, tx: &mut Tx<'_>, open: &Open) -> Result<(), Refusal> {
        let bounds = rows_in(
            open.row.slab,
            open.row.bucket,
            open.directory.id,
            Kind::Upload,
        );
        while !self.is_spent()
            && let Some((row, upload)) = tx.list::<UploadKey>(&bounds, 1)?.pop()
        {
            let at = ApplyContext {
                time_ms: self.at.time_ms,
                place: Place {
                    key: row.key.clone(),
                    ..self.at.place.clone()
                },
                view: self.at.view,
            };
            let parts = all_parts(tx, &row)?;
            let (now, later) = parts.split_at(parts.len().min(self.parts));
            let released: Vec<&state::Part> = now.iter().collect();
            release_parts(tx, &at, &released)?;
            close_upload(tx, &at, &row, &upload, &parts, now)?;
            if !later.is_empty() {
                expiry::schedule(tx, &at.place, row.upload, at.time_ms)?;
            }
            self.parts = self.parts.saturating_sub(now.len().max(PARTS_PER_UPLOAD));
        }
        Ok(())
    }
}

/// What an upload counts at least: a step gives up a bounded number of them.
const PARTS_PER_UPLOAD: usize = PARTS_PER_STEP / 50;

fn cursor(open: &Open) -> pb::DirectoryCursor {
    pb::DirectoryCursor {
        target: 0,
        directory: open.directory.id,
        after: open.after.clone(),
        in_directories: open.in_directories,
    }
}

/// Where the rows behind a cursor begin.
fn behind(open: &Open, kind: Kind) -> Vec<u8> {
    let directory = open.directory.id;
    let name = &open.after;
    let key = Entry { directory, name }.key();
    let (slab, bucket) = (open.row.slab, open.row.bucket);
    let mut start = match kind {
        Kind::Directory => DirectoryKey { slab, bucket, key }.encode(),
        _ => HeadKey { slab, bucket, key }.encode(),
    };
    start.push(0);
    start
}

/// The first directory behind the cursor.
fn next_directory(tx: &Tx<'_>, open: &Open) -> Result<Option<Open>, Refusal> {
    let bounds = rows_in(
        open.row.slab,
        open.row.bucket,
        open.directory.id,
        Kind::Directory,
    );
    let bounds = bounds.from(behind(open, Kind::Directory));
    let found = tx.list::<DirectoryKey>(&bounds, 1)?.pop();
    Ok(found.map(|(row, directory)| Open::new(row, directory)))
}
