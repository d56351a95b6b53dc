//! Buckets with directories: paths, renames, listings, and deleting in steps.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::join_all;
use granary_types::limits::{OBJECT_KEY_BYTES_MAX, PART_BYTES_MIN};
use granary_types::{BucketId, ObjectAcl, ObjectType};

use super::appends::{current, fold_of, read, small};
use super::chunks::write;
use super::listing::{model, walk};
use super::uploads::{initiate, part};
use super::{Suite, TestBucket, bucket_record, inline};
use crate::pb;
use crate::pb::rejection::Reason;
use crate::pb::state;
use crate::pb::upload_item::Item;

/// A bucket with directories.
async fn bucket(suite: &Suite, name: &str) -> TestBucket {
    let mut record = bucket_record(name);
    record.hierarchical = true;
    let command = pb::CreateBucket {
        bucket: Some(record),
        ..Default::default()
    };
    let bucket = suite.meta.create_bucket(command).await.unwrap().unwrap();
    assert!(bucket.hierarchical);
    TestBucket {
        id: BucketId(bucket.id),
        generation: bucket.generation,
    }
}

fn mkdir(bucket: TestBucket, path: &str) -> pb::CreateDirectory {
    pb::CreateDirectory {
        at: Some(bucket.at(path)),
        owner: 7,
    }
}

fn rename(bucket: TestBucket, from: &str, to: &str) -> pb::RenameEntry {
    pb::RenameEntry {
        at: Some(bucket.at(to)),
        source: Bytes::copy_from_slice(from.as_bytes()),
    }
}

fn rmdir(bucket: TestBucket, path: &str, recursive: bool) -> pb::DeleteDirectory {
    pb::DeleteDirectory {
        at: Some(bucket.at(path)),
        recursive,
        from: None,
    }
}

fn put(bucket: TestBucket, path: &str, bytes: &str) -> pb::PutObject {
    pb::PutObject {
        at: Some(bucket.at(path)),
        payload: Some(inline(bytes)),
        ..Default::default()
    }
}

/// Every path of a bucket.
async fn all(suite: &Suite, bucket: TestBucket) -> Vec<String> {
    walk(suite, bucket, ("", "", ""), 1000).await
}

/// How many pieces the bytes of an object are read in.
async fn pieces(suite: &Suite, bucket: TestBucket, path: &str) -> usize {
    let version = suite.version(bucket, path, 0).await.version.unwrap();
    let query = pb::ListExtents {
        at: Some(bucket.at(path)),
        object_id: version.object_id,
        body: version.body,
        offset: 0,
        limit: 4096,
    };
    let page = suite.meta.query(query).await.unwrap();
    assert!(!page.more);
    page.pieces.len()
}

/// Deletes a directory to the end; how many entries each step deleted.
async fn delete_all(suite: &Suite, bucket: TestBucket, path: &str) -> Vec<u32> {
    let mut command = rmdir(bucket, path, true);
    let mut steps = Vec::new();
    loop {
        let reply = suite.accepted(command.clone()).await;
        steps.push(reply.entries);
        assert_eq!(reply.more, reply.next.is_some());
        if !reply.more {
            return steps;
        }
        command.from = reply.next;
    }
}

/// An object makes the directories of its path, which are there for themselves from then on.
pub async fn paths_make_their_directories(suite: Suite) {
    let bucket = bucket(&suite, "paths").await;
    suite.put(bucket, "a/b/c", "1").await;
    suite.put(bucket, "a.txt", "2").await;
    suite.accepted(mkdir(bucket, "a/d/e")).await;
    suite.accepted(mkdir(bucket, "a/b/")).await;
    let paths = ["a.txt", "a/", "a/b/", "a/b/c", "a/d/", "a/d/e/"];
    assert_eq!(all(&suite, bucket).await, paths);
    assert_eq!(suite.get(bucket, "a/b/c").await.as_deref(), Some("1"));
    for path in ["a/b", "a/b/"] {
        let found = suite.version(bucket, path, 0).await.version.unwrap();
        assert_eq!(found.object_type, ObjectType::Directory.number());
        assert_eq!((found.size, found.etag.as_str()), (0, ""));
        assert_eq!(found.headers[0].value, "application/x-directory");
    }
    for path in ["b", "a/b/c/", "a/b/c/d", "a//b/c", "a.txt/x", "a/x/c"] {
        assert!(!suite.version(bucket, path, 0).await.found, "{path}");
    }
    // An empty object with a slash at its end is a directory too.
    suite.put(bucket, "x/y/", "").await;
    let bytes = put(bucket, "x/z/", "bytes");
    assert_eq!(suite.rejected(bytes).await, Reason::InvalidPath);
    assert!(suite.delete(bucket, "a/b/c").await.existed);
    assert!(!suite.delete(bucket, "a/b/c").await.existed);
    assert!(!suite.delete(bucket, "none/at/all").await.existed);
    // Its directory stays, and goes like an object once it is empty.
    let full = pb::DeleteObject {
        at: Some(bucket.at("a/d")),
        ..Default::default()
    };
    assert_eq!(suite.rejected(full).await, Reason::AlreadyExists);
    assert!(suite.delete(bucket, "a/b/").await.existed);
    assert_eq!(
        all(&suite, bucket).await,
        ["a.txt", "a/", "a/d/", "a/d/e/", "x/", "x/y/"]
    );
    let counter = suite.counters(bucket).await;
    assert_eq!((counter.objects, counter.bytes), (1, 1));
}

/// A name is an object's or a directory's, and nothing goes through an object.
pub async fn a_name_is_one_entry(suite: Suite) {
    let bucket = bucket(&suite, "names").await;
    suite.put(bucket, "file", "1").await;
    suite.accepted(mkdir(bucket, "dir")).await;
    for path in ["dir", "file/x", "file/x/y"] {
        let refused = suite.rejected(put(bucket, path, "2")).await;
        assert_eq!(refused, Reason::AlreadyExists, "{path}");
    }
    for path in ["file", "file/", "file/x"] {
        let refused = suite.rejected(mkdir(bucket, path)).await;
        assert_eq!(refused, Reason::AlreadyExists, "{path}");
    }
    for path in ["a//b", "/a", "//"] {
        let refused = suite.rejected(put(bucket, path, "2")).await;
        assert_eq!(refused, Reason::InvalidPath, "{path}");
        assert_eq!(
            suite.rejected(mkdir(bucket, path)).await,
            Reason::InvalidPath
        );
    }
    // Decided when the upload ends, not when it begins.
    let upload_id = initiate(&suite, bucket, "late", false).await;
    suite.accepted(mkdir(bucket, "late")).await;
    let complete = pb::CompleteUpload {
        at: Some(bucket.at("late")),
        upload_id,
        all: true,
        ..Default::default()
    };
    assert_eq!(suite.rejected(complete).await, Reason::AlreadyExists);
    let acl = pb::SetObjectAcl {
        at: Some(bucket.at("dir")),
        acl: 2,
        ..Default::default()
    };
    assert_eq!(suite.rejected(acl).await, Reason::AlreadyExists);
    assert_eq!(all(&suite, bucket).await, ["dir/", "file", "late/"]);
    // A refused write leaves no directories behind.
    let expired = pb::PutObject {
        forbid_overwrite: true,
        ..put(bucket, "file", "3")
    };
    assert_eq!(suite.rejected(expired).await, Reason::AlreadyExists);
    let unknown = pb::CompleteUpload {
        at: Some(bucket.at("no/such/upload")),
        upload_id: suite.begin_write(bucket, "no").await,
        ..Default::default()
    };
    assert_eq!(suite.rejected(unknown).await, Reason::NoSuchUpload);
    assert_eq!(all(&suite, bucket).await, ["dir/", "file", "late/"]);
}

/// A renamed directory takes everything along: small objects, chunks, parts, open uploads, and its
/// chunks stay readable, named and deletable.
pub async fn a_rename_moves_what_is_below(suite: Suite) {
    let bucket = bucket(&suite, "moving").await;
    suite.put(bucket, "from/in/small", "small").await;
    write(&suite, bucket, "from/in/big", 300, 200).await;
    let upload = initiate(&suite, bucket, "from/in/parts", false).await;
    for number in [1, 2] {
        let command = part(&suite, bucket, "from/in/parts", &upload, number, 1).await;
        suite.accepted(command).await;
    }
    // A small last part stands in a row of its own.
    let last = pb::PutPart {
        at: Some(bucket.at("from/in/parts")),
        upload_id: upload.clone(),
        number: 3,
        etag: format!("{:032X}", 3),
        crc64: 3,
        payload: Some(inline("tail")),
        prefix: None,
    };
    suite.accepted(last).await;
    let open = initiate(&suite, bucket, "from/in/open", false).await;
    let staged = suite.begin_write(bucket, "from/in/staged").await;
    let stage = pb::StageExtents {
        at: Some(bucket.at("from/in/staged")),
        write_id: staged.clone(),
        extents: vec![super::extent(7, 5)],
        ..Default::default()
    };
    suite.accepted(stage).await;
    let counters = suite.counters(bucket).await;

    suite.accepted(mkdir(bucket, "to/far")).await;
    suite
        .accepted(rename(bucket, "from/in", "to/far/out"))
        .await;
    suite
        .accepted(rename(bucket, "to/far/out/small", "s"))
        .await;
    let paths = [
        "from/",
        "s",
        "to/",
        "to/far/",
        "to/far/out/",
        "to/far/out/big",
    ];
    assert_eq!(all(&suite, bucket).await, paths);
    assert_eq!(suite.get(bucket, "s").await.as_deref(), Some("small"));
    assert!(!suite.version(bucket, "from/in/big", 0).await.found);
    suite
        .accepted(rename(bucket, "to/far/out/big", "big"))
        .await;
    assert_eq!(pieces(&suite, bucket, "big").await, 300);
    // The upload is where its directory is.
    let complete = |path: &str, upload_id: &Bytes| pb::CompleteUpload {
        at: Some(bucket.at(path)),
        upload_id: upload_id.clone(),
        all: true,
        ..Default::default()
    };
    let before = complete("from/in/parts", &upload);
    assert_eq!(suite.rejected(before).await, Reason::NoSuchUpload);
    suite.accepted(complete("to/far/out/parts", &upload)).await;
    suite
        .accepted(rename(bucket, "to/far/out/parts", "parts"))
        .await;
    assert_eq!(pieces(&suite, bucket, "parts").await, 3);
    let page = suite.meta.list_uploads(pb::ListUploads {
        bucket_id: bucket.id.0,
        limit: 10,
        ..Default::default()
    });
    let page = page.await.unwrap();
    let keys = page
        .items
        .iter()
        .map(|item| match item.item.as_ref().unwrap() {
            Item::Upload(entry) => (entry.key.clone(), entry.upload.clone().unwrap().upload_id),
            Item::CommonPrefix(_) => panic!("no group was asked for"),
        });
    let open_key = Bytes::from_static(b"to/far/out/open");
    assert_eq!(keys.collect::<Vec<_>>(), [(open_key, open.clone())]);
    // A write that began before the rename ends where its path says.
    let commit = pb::PutObject {
        at: Some(bucket.at("from/in/staged")),
        payload: Some(pb::Payload {
            write_id: staged,
            staged_extents: 1,
            size: 5,
            ..Default::default()
        }),
        ..Default::default()
    };
    suite.accepted(commit).await;
    assert!(suite.version(bucket, "from/in/staged", 0).await.found);
    let abort = pb::AbortUpload {
        at: Some(bucket.at("to/far/out/open")),
        upload_id: open,
    };
    suite.accepted(abort).await;
    let now = suite.counters(bucket).await;
    assert_eq!((now.objects, now.uploads), (counters.objects + 2, 0));
    // What is deleted after all that is queued and acknowledged, inline rows of parts too.
    for path in ["big", "parts", "from/in/staged", "s"] {
        assert!(suite.delete(bucket, path).await.existed, "{path}");
    }
    let settings = suite.settings().await;
    suite.advance(settings.reader_grace_ms + 1).await;
    let shard = suite.shard_of(bucket, "big").await;
    let due = suite.deletions(shard).await;
    assert_eq!(due.entries.len(), 3);
    let seqs = due.entries.iter().map(|entry| entry.seq).collect();
    suite.acknowledge(shard, seqs).await;
    assert!(suite.deletions(shard).await.entries.is_empty());
    let left = suite.counters(bucket).await;
    assert_eq!((left.objects, left.bytes, left.multipart_parts), (0, 0, 0));
}

/// Chunks are reported under the path that leads to them now, and the sweep knows the parts of an
/// object that was renamed.
pub async fn references_show_paths(suite: Suite) {
    let bucket = bucket(&suite, "reported").await;
    write(&suite, bucket, "a/b/big", 3, 0).await;
    let upload = initiate(&suite, bucket, "a/b/parts", false).await;
    let command = part(&suite, bucket, "a/b/parts", &upload, 1, 2).await;
    let object = command.payload.clone().unwrap().write_id;
    suite.accepted(command).await;
    let complete = pb::CompleteUpload {
        at: Some(bucket.at("a/b/parts")),
        upload_id: upload,
        all: true,
        ..Default::default()
    };
    suite.accepted(complete).await;
    suite.accepted(rename(bucket, "a/b", "c")).await;
    suite.accepted(rename(bucket, "c/parts", "p")).await;
    let shard = suite.shard_of(bucket, "p").await;
    let query = pb::ListReferences {
        after: Bytes::new(),
        limit: 100,
    };
    let page = suite.meta.query_at(shard, query).await.unwrap();
    let paths: BTreeSet<_> = page
        .references
        .iter()
        .map(|found| found.key.clone())
        .collect();
    assert_eq!(paths, BTreeSet::from(["c/big".into(), "p".into()]));
    let length = u32::try_from(PART_BYTES_MIN).unwrap();
    let chunks = [1000, 1001, 5].map(|n| super::extent(n, length).chunk);
    let unnamed = suite
        .meta
        .unnamed_chunks(bucket.id, object, chunks.to_vec());
    assert_eq!(unnamed.await.unwrap(), [chunks[2].clone()]);
}

/// What cannot be renamed stays where it is.
pub async fn impossible_renames_are_refused(suite: Suite) {
    let bucket = bucket(&suite, "refused").await;
    suite.put(bucket, "a/b/c", "1").await;
    suite.put(bucket, "file", "2").await;
    let before = all(&suite, bucket).await;
    let long = "l".repeat(OBJECT_KEY_BYTES_MAX - 3);
    for (from, to, reason) in [
        ("none", "x", Reason::NoSuchKey),
        ("none/x", "x", Reason::NoSuchKey),
        ("file/", "x", Reason::NoSuchKey),
        ("file", "none/x", Reason::NoSuchKey),
        ("file", "file/x", Reason::NoSuchKey),
        ("file", "x/", Reason::InvalidPath),
        ("file", "a", Reason::AlreadyExists),
        ("a", "file", Reason::AlreadyExists),
        ("a", "a", Reason::AlreadyExists),
        ("a/b", "a/b/", Reason::AlreadyExists),
        ("a", "a/b/d", Reason::InvalidPath),
        ("a/", "a/x", Reason::InvalidPath),
        ("a", "x//y", Reason::InvalidPath),
        ("a", long.as_str(), Reason::InvalidPath),
    ] {
        let refused = suite.rejected(rename(bucket, from, to)).await;
        assert_eq!(refused, reason, "{from} to {to}");
    }
    assert_eq!(all(&suite, bucket).await, before);
    // As long as a path may be, and no longer, on whichever way it gets there.
    let most = "m".repeat(OBJECT_KEY_BYTES_MAX - "/b/c".len());
    suite.accepted(rename(bucket, "a", &most)).await;
    assert_eq!(
        suite.get(bucket, &format!("{most}/b/c")).await.as_deref(),
        Some("1")
    );
    suite.accepted(mkdir(bucket, "d")).await;
    let (longer, fits) = (format!("d/{}", &most[1..]), format!("d/{}", &most[2..]));
    let refused = suite.rejected(rename(bucket, &most, &longer)).await;
    assert_eq!(refused, Reason::InvalidPath);
    suite.accepted(rename(bucket, &most, &fits)).await;
    // The directory that it came into remembers how long the paths below are.
    let refused = suite.rejected(rename(bucket, "d", "dd")).await;
    assert_eq!(refused, Reason::InvalidPath);
}

/// The answers of all three commands are repeated, whatever has happened to the paths since.
pub async fn repeats_do_nothing_again(suite: Suite) {
    let bucket = bucket(&suite, "repeats").await;
    suite.put(bucket, "a/x", "1").await;
    let shard = suite.shard_of(bucket, "a/x").await;
    let envelopes = [
        suite.envelope(rename(bucket, "a", "b")),
        suite.envelope(mkdir(bucket, "a/y")),
        suite.envelope(rmdir(bucket, "b", true)),
        suite.envelope(put(bucket, "a/y/z", "2")),
        suite.envelope(rename(bucket, "a/y", "c")),
    ];
    let mut answers = Vec::new();
    for envelope in &envelopes {
        answers.push(suite.send(shard, envelope).await.unwrap());
    }
    let paths = all(&suite, bucket).await;
    assert_eq!(paths, ["a/", "c/", "c/z"]);
    for (envelope, answer) in envelopes.iter().zip(&answers) {
        assert!(answer.rejection.is_none(), "{answer:?}");
        assert_eq!(suite.send(shard, envelope).await.unwrap(), *answer);
    }
    assert_eq!(all(&suite, bucket).await, paths);
}

/// A directory goes in steps of a hundred entries; what comes in meanwhile goes too, and what is
/// given up is queued and counted out.
pub async fn a_directory_is_deleted_in_steps(suite: Suite) {
    let bucket = bucket(&suite, "steps").await;
    for n in 0..100 {
        suite.put(bucket, &format!("d/{n:03}"), "x").await;
    }
    assert_eq!(
        suite.rejected(rmdir(bucket, "d", false)).await,
        Reason::AlreadyExists
    );
    assert_eq!(
        suite.rejected(rmdir(bucket, "e", true)).await,
        Reason::NoSuchKey
    );
    assert_eq!(
        suite.rejected(rmdir(bucket, "d/000", true)).await,
        Reason::NoSuchKey
    );
    assert_eq!(delete_all(&suite, bucket, "d").await, [100, 1]);
    for n in 0..70 {
        suite.put(bucket, &format!("d/a/b{n:02}/x"), "x").await;
    }
    write(&suite, bucket, "d/z", 10, 0).await;
    initiate(&suite, bucket, "d/a/b05/open", false).await;
    suite.put(bucket, "stays", "x").await;
    let step = suite.accepted(rmdir(bucket, "d/", true)).await;
    assert_eq!((step.entries, step.more), (100, true));
    // Behind the cursor, where it has been already.
    suite.put(bucket, "d/a/b00/late", "x").await;
    suite.put(bucket, "d/0", "x").await;
    let mut command = rmdir(bucket, "d", true);
    command.from = step.next.clone();
    let mut entries = 0;
    loop {
        let step = suite.accepted(command.clone()).await;
        entries += step.entries;
        if !step.more {
            break;
        }
        command.from = step.next;
    }
    // 70 directories with an object each, `z`, `a` and `d`, and the three that came in late.
    assert_eq!(entries, 2 * 70 + 3 + 3 - 100);
    assert_eq!(all(&suite, bucket).await, ["stays"]);
    let counter = suite.counters(bucket).await;
    assert_eq!((counter.objects, counter.bytes, counter.uploads), (1, 1, 0));
    // The token is of a directory that is gone; another of its name is not deleted by it.
    suite.accepted(mkdir(bucket, "d")).await;
    let mut late = rmdir(bucket, "d", true);
    late.from = step.next;
    assert_eq!(suite.rejected(late).await, Reason::NoSuchKey);
    // An upload keeps a directory from being empty.
    initiate(&suite, bucket, "d/up", false).await;
    assert_eq!(
        suite.rejected(rmdir(bucket, "d", false)).await,
        Reason::AlreadyExists
    );
    assert_eq!(delete_all(&suite, bucket, "d").await, [1]);
    // A token says only where to go on.
    suite.put(bucket, "d/x/y", "x").await;
    suite.put(bucket, "e/x", "x").await;
    let id = |path: &'static str| {
        let found = suite.version(bucket, path, 0);
        async move { found.await.version.unwrap().stamp }
    };
    let mut forged = rmdir(bucket, "d", true);
    forged.from = Some(pb::DirectoryCursor {
        target: id("d").await,
        directory: id("e").await,
        after: Bytes::from_static(b"\xff"),
        in_directories: true,
    });
    let step = suite.accepted(forged).await;
    assert_eq!((step.entries, step.more), (3, false));
    assert_eq!(all(&suite, bucket).await, ["e/", "e/x", "stays"]);
}

/// Of changes that exclude each other one is made.
pub async fn concurrent_changes_exclude_each_other(suite: Suite) {
    let bucket = bucket(&suite, "concurrent").await;
    suite.put(bucket, "src/x", "1").await;
    let renames = (0..8).map(|n| {
        let command = rename(bucket, "src", &format!("dst{n}"));
        suite.meta.propose(command)
    });
    let done = join_all(renames).await;
    assert_eq!(
        done.iter()
            .filter(|done| done.as_ref().unwrap().is_ok())
            .count(),
        1
    );
    assert_eq!(all(&suite, bucket).await.len(), 2);
    // Two directories into each other: at most one goes, or neither would be reachable.
    for round in 0..8 {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        suite.put(bucket, &format!("{a}/f"), "1").await;
        suite.put(bucket, &format!("{b}/g"), "1").await;
        let (into_b, into_a) = (format!("{b}/a"), format!("{a}/b"));
        let both = futures_util::join!(
            suite.meta.propose(rename(bucket, &a, &into_b)),
            suite.meta.propose(rename(bucket, &b, &into_a)),
            suite.meta.propose(put(bucket, &format!("{a}/h"), "1")),
            suite.meta.propose(rmdir(bucket, &b, true)),
        );
        both.2.unwrap().unwrap();
        let paths = walk(&suite, bucket, ("", "", ""), 7).await;
        let names: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
        for path in &paths {
            let parent = path.trim_end_matches('/').rfind('/').map(|at| &path[..=at]);
            assert!(
                parent.is_none_or(|parent| names.contains(parent)),
                "{path} in {paths:?}"
            );
        }
        for top in paths
            .iter()
            .filter(|path| path.ends_with('/') && path.matches('/').count() == 1)
        {
            if top.starts_with('a') || top.starts_with('b') {
                delete_all(&suite, bucket, top).await;
            }
        }
    }
    let left = suite.counters(bucket).await;
    assert_eq!(left.objects, 1);
}

/// A listing in pages shows everything that is not renamed meanwhile, once.
pub async fn pages_go_on_while_directories_are_renamed(suite: Suite) {
    let bucket = bucket(&suite, "pages").await;
    let mut stays = Vec::new();
    for n in 0..12 {
        suite.put(bucket, &format!("k{n:02}/x"), "x").await;
        stays.extend([format!("k{n:02}/"), format!("k{n:02}/x")]);
    }
    suite.put(bucket, "moving0/x", "x").await;
    let mut query = pb::ListObjects {
        bucket_id: bucket.id.0,
        limit: 3,
        ..Default::default()
    };
    let (mut seen, mut round) = (Vec::new(), 0);
    loop {
        let (names, page) = suite.list(query.clone()).await;
        seen.extend(names.into_iter().filter(|name| name.starts_with('k')));
        if !page.more {
            break;
        }
        query.after = page.resume_after;
        // Sometimes into what was listed, sometimes ahead of it.
        let name = |n: u32| format!("{}moving{n}", if n.is_multiple_of(2) { "" } else { "k05/" });
        suite
            .accepted(rename(bucket, &name(round), &name(round + 1)))
            .await;
        round += 1;
    }
    let seen: Vec<_> = seen
        .into_iter()
        .filter(|name| !name.contains("moving"))
        .collect();
    assert_eq!(seen, stays);
}

/// A bucket with directories is whole: not split, not versioned, not deleted with a directory in it.
pub async fn the_bucket_stays_whole(suite: Suite) {
    let bucket = bucket(&suite, "whole").await;
    suite.accepted(mkdir(bucket, "d")).await;
    let nonce = Bytes::copy_from_slice(&suite.runtime.entropy().next_u128().to_be_bytes());
    let child = suite.accepted(pb::AllocateShard { nonce }).await;
    let split = |key: &'static [u8]| pb::SplitRange {
        split_bucket: bucket.id.0,
        split_key: Bytes::from_static(key),
        child_shard: u32::try_from(child.id).unwrap(),
        child_home_slab: child.slab,
        ..Default::default()
    };
    let parent = suite.shard_of(bucket, "d").await;
    let refused = suite.meta.propose_to(parent, split(b"d")).await.unwrap();
    assert_eq!(refused.unwrap_err().reason(), Reason::Invalid);
    let versioning = pb::SetBucketVersioning {
        bucket_id: bucket.id.0,
        versioning: 1,
    };
    assert_eq!(suite.rejected(versioning).await, Reason::Invalid);
    let again = |hierarchical: bool| {
        let mut record = bucket_record("whole");
        record.hierarchical = hierarchical;
        suite.meta.propose(pb::CreateBucket {
            bucket: Some(record),
            ..Default::default()
        })
    };
    assert_eq!(again(true).await.unwrap().unwrap().id, bucket.id.0);
    let other = again(false).await.unwrap().unwrap_err();
    assert_eq!(other.reason(), Reason::BucketExistsOtherConfig);
    let refused = suite
        .meta
        .delete_bucket(bucket.id)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.reason(), Reason::BucketNotEmpty);
    assert!(suite.delete(bucket, "d").await.existed);
    suite.meta.delete_bucket(bucket.id).await.unwrap().unwrap();
    // In a bucket without, a path is a key like any other.
    let flat = suite.bucket("flat").await;
    suite.put(flat, "a//b", "1").await;
    assert_eq!(suite.rejected(mkdir(flat, "d")).await, Reason::InvalidPath);
    assert_eq!(
        suite.rejected(rename(flat, "a//b", "c")).await,
        Reason::InvalidPath
    );
    assert_eq!(
        suite.rejected(rmdir(flat, "a", true)).await,
        Reason::InvalidPath
    );
    assert_eq!(all(&suite, flat).await, ["a//b"]);
}

/// What a bucket with directories holds: paths, those of directories with a slash, and the bytes of
/// objects.
#[derive(Default)]
struct Tree(BTreeMap<String, String>);

impl Tree {
    fn has_directory(&self, path: &str) -> bool {
        self.0.contains_key(&format!("{path}/"))
    }

    fn parents(path: &str) -> impl Iterator<Item = &str> {
        path.match_indices('/').map(|(at, _)| &path[..at])
    }

    /// Why nothing can be made under a path.
    fn blocked(&self, path: &str) -> bool {
        Self::parents(path).any(|parent| self.0.contains_key(parent))
    }

    fn make_parents(&mut self, path: &str) {
        for parent in Self::parents(path) {
            self.0.insert(format!("{parent}/"), String::new());
        }
    }

    fn put(&mut self, path: &str, bytes: &str) -> Reason {
        if self.blocked(path) || self.has_directory(path) {
            return Reason::AlreadyExists;
        }
        self.make_parents(path);
        self.0.insert(path.to_owned(), bytes.to_owned());
        Reason::None
    }

    fn mkdir(&mut self, path: &str) -> Reason {
        if self.blocked(path) || self.0.contains_key(path) {
            return Reason::AlreadyExists;
        }
        self.make_parents(&format!("{path}/"));
        Reason::None
    }

    fn rename(&mut self, from: &str, to: &str) -> Reason {
        let is_directory = self.has_directory(from);
        if !is_directory && !self.0.contains_key(from) {
            return Reason::NoSuchKey;
        }
        if is_directory && to.starts_with(&format!("{from}/")) {
            return Reason::InvalidPath;
        }
        if !Self::parents(to).all(|parent| self.has_directory(parent)) {
            return Reason::NoSuchKey;
        }
        if self.0.contains_key(to) || self.has_directory(to) {
            return Reason::AlreadyExists;
        }
        let below = format!("{from}/");
        let moves = |path: &&String| *path == from || path.starts_with(&below);
        let moved: Vec<String> = self.0.keys().filter(moves).cloned().collect();
        for path in moved {
            let bytes = self.0.remove(&path).unwrap();
            self.0.insert(format!("{to}{}", &path[from.len()..]), bytes);
        }
        Reason::None
    }

    fn delete(&mut self, path: &str, recursive: bool) -> Reason {
        if !self.has_directory(path) {
            return Reason::NoSuchKey;
        }
        let below = format!("{path}/");
        if !recursive
            && self
                .0
                .keys()
                .filter(|path| path.starts_with(&below))
                .count()
                > 1
        {
            return Reason::AlreadyExists;
        }
        self.0.retain(|path, _| !path.starts_with(&below));
        Reason::None
    }
}

/// After any changes every listing shows what a model of the tree has.
pub async fn changes_agree_with_a_model(suite: Suite) {
    let bucket = bucket(&suite, "model").await;
    let entropy = suite.runtime.entropy();
    let mut tree = Tree::default();
    let path = || {
        let depth = 1 + entropy.below(3);
        let name = || ["a", "a.b", "a0", "b", "\u{e9}"][usize::try_from(entropy.below(5)).unwrap()];
        (0..depth).map(|_| name()).collect::<Vec<_>>().join("/")
    };
    for step in 0..240_usize {
        let (one, two) = (path(), path());
        let bytes = format!("{step}");
        let (expected, decision, what) = match entropy.below(8) {
            0..=2 => {
                let decision = suite.meta.propose(put(bucket, &one, &bytes)).await.unwrap();
                (tree.put(&one, &bytes), decision.err(), "put")
            }
            3 => {
                let decision = suite.meta.propose(mkdir(bucket, &one)).await.unwrap();
                (tree.mkdir(&one), decision.err(), "mkdir")
            }
            4..=6 => {
                let decision = suite
                    .meta
                    .propose(rename(bucket, &one, &two))
                    .await
                    .unwrap();
                (tree.rename(&one, &two), decision.err(), "rename")
            }
            _ => {
                let recursive = entropy.below(3) == 0;
                let decision = suite
                    .meta
                    .propose(rmdir(bucket, &one, recursive))
                    .await
                    .unwrap();
                (tree.delete(&one, recursive), decision.err(), "rmdir")
            }
        };
        let reason = decision.map_or(Reason::None, |rejection| rejection.reason());
        assert_eq!(
            reason, expected,
            "step {step}: {what} {one:?} {two:?} of {:?}",
            tree.0
        );
        if step % 20 != 19 {
            continue;
        }
        let keys: BTreeSet<String> = tree.0.keys().cloned().collect();
        for prefix in ["", "a", "a/", "a/a", "b/a/", "c"] {
            for delimiter in ["", "/", "a"] {
                for after in ["", "a/", "a/a.b", "a/a/", "a0"] {
                    let limit = [1, 3, 1000][step % 3];
                    let seen = walk(&suite, bucket, (prefix, delimiter, after), limit).await;
                    let expected = model(&keys, prefix, delimiter, after);
                    assert_eq!(
                        seen, expected,
                        "{prefix:?} {delimiter:?} {after:?} {keys:?}"
                    );
                }
            }
        }
        for (path, bytes) in &tree.0 {
            if !path.ends_with('/') {
                assert_eq!(
                    suite.get(bucket, path).await.as_ref(),
                    Some(bytes),
                    "{path}"
                );
            }
        }
    }
    let objects = tree.0.keys().filter(|path| !path.ends_with('/')).count();
    let counter = suite.counters(bucket).await;
    assert_eq!(counter.objects, i64::try_from(objects).unwrap());
}

/// Uploads are listed in the order of paths, from every marker, and directories without any do not
/// make a page endless.
pub async fn uploads_are_listed_by_path(suite: Suite) {
    let bucket = bucket(&suite, "uploads").await;
    let mut expected = Vec::new();
    for path in ["a-", "a/b", "a/b.c/d", "a0", "c/d/e", "c/d/e", "f"] {
        expected.push((path.to_owned(), initiate(&suite, bucket, path, false).await));
    }
    for n in 0..20 {
        suite.accepted(mkdir(bucket, &format!("b/{n}"))).await;
    }
    expected.sort();
    for limit in [1, 2, 1000] {
        let mut query = pb::ListUploads {
            bucket_id: bucket.id.0,
            limit,
            ..Default::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = suite.meta.list_uploads(query.clone()).await.unwrap();
            for item in page.items {
                let Some(Item::Upload(entry)) = item.item else {
                    panic!("no group was asked for");
                };
                let key = String::from_utf8(entry.key.to_vec()).unwrap();
                seen.push((key, entry.upload.unwrap().upload_id));
            }
            if !page.more {
                break;
            }
            query.key_marker = page.next_key;
            query.upload_id_marker = page.next_upload_id;
        }
        assert_eq!(seen, expected, "limit {limit}");
    }
    let grouped = pb::ListUploads {
        bucket_id: bucket.id.0,
        delimiter: Bytes::from_static(b"/"),
        limit: 1000,
        ..Default::default()
    };
    let page = suite.meta.list_uploads(grouped).await.unwrap();
    assert_eq!(page.items.len(), 5, "a- a/ a0 c/ f");
}

/// An append makes the directories of its path. What is appended, folded, sealed or changed in place is found
/// under the path that the object has by then, and nothing of it is a directory's.
pub async fn appended_objects_are_renamed(suite: Suite) {
    let bucket = bucket(&suite, "appended").await;
    let first = pb::AppendObject {
        version: Some(state::Version {
            owner: 9,
            ..Default::default()
        }),
        ..small(bucket, "a/b/log", 0, "one")
    };
    suite.accepted(first).await;
    assert_eq!(current(&suite, bucket, "a/b").await.owner, 9);
    for (path, reason) in [
        ("a/b", Reason::AlreadyExists),
        ("a/b/log/x", Reason::AlreadyExists),
        ("a/c/", Reason::InvalidPath),
    ] {
        let append = small(bucket, path, 0, "x");
        assert_eq!(suite.rejected(append).await, reason, "{path}");
    }
    suite.accepted(rename(bucket, "a", "z")).await;
    suite.accepted(rename(bucket, "z/b/log", "z/log")).await;
    suite.accepted(small(bucket, "z/log", 3, "two")).await;
    assert_eq!(read(&suite, bucket, "z/log").await, "onetwo");
    let fold = fold_of(&suite, bucket, "z/log", 0, (1, 6)).await;
    suite.accepted(rename(bucket, "z/log", "z/b/log")).await;
    assert_eq!(suite.rejected(fold.clone()).await, Reason::Stale);
    let at = Some(bucket.at("z/b/log"));
    suite.accepted(pb::FoldTail { at, ..fold }).await;
    suite.accepted(small(bucket, "z/b/log", 6, "three")).await;
    assert_eq!(read(&suite, bucket, "z/b/log").await, "#1,6;three");
    let seen = current(&suite, bucket, "z/b/log").await;
    let change = |path: &str| pb::SetObjectMeta {
        at: Some(bucket.at(path)),
        version_stamp: seen.stamp,
        modified_ms: seen.modified_ms,
        etag: seen.etag.clone(),
        acl: ObjectAcl::Default.number(),
        ..Default::default()
    };
    let seal = |path: &str, position| pb::SealObject {
        at: Some(bucket.at(path)),
        position,
    };
    for (path, changed, sealed) in [
        ("z/log", Reason::Stale, Reason::NoSuchKey),
        ("none/log", Reason::Stale, Reason::NoSuchKey),
        ("z/b", Reason::AlreadyExists, Reason::AlreadyExists),
    ] {
        assert_eq!(suite.rejected(change(path)).await, changed, "{path}");
        assert_eq!(suite.rejected(seal(path, 0)).await, sealed, "{path}");
    }
    suite.accepted(change("z/b/log")).await;
    suite.accepted(seal("z/b/log", 11)).await;
    assert_eq!(all(&suite, bucket).await, ["z/", "z/b/", "z/b/log"]);
    assert_eq!(delete_all(&suite, bucket, "z").await, [3]);
    let counter = suite.counters(bucket).await;
    assert_eq!((counter.objects, counter.bytes), (0, 0));
}
