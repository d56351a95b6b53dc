//! What every way to the metadata service must do, for the tests of implementations.
//!
//! A test crate writes one function that starts a [`Suite`] over its implementation and hands it
//! to [`meta_testsuite!`](crate::meta_testsuite), which makes a test of every case. The cases use
//! what a client can see and nothing else; time is simulated, so that leases and graces pass at
//! once.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a suite fails by panicking, as tests do"
)]

pub mod appends;
pub mod buckets;
pub mod chunks;
pub mod directories;
mod faulty;
pub mod listing;
pub mod objects;
pub mod references;
pub mod repeats;
pub mod root;
pub mod settings;
pub mod splits;
pub mod unnamed;
pub mod uploads;
pub mod versions;

pub use faulty::{Faults, FaultyMeta};

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_runtime::{Runtime, SimulatedClock};
use granary_types::{BucketAcl, BucketId, Redundancy, ShardId, StorageClass};

use crate::pb::state;
use crate::{Command, Meta, MetaError, MetaService, pb};

/// The account that owns the suite's buckets; an implementation under test starts with it.
pub const OWNER: u64 = 1;

/// A service under test. Its cluster is new, has at least two data shards and the account
/// [`OWNER`].
pub struct Suite {
    /// The client, over the service.
    pub meta: Meta,
    /// The service, for requests that a client would not make.
    pub service: Arc<dyn MetaService>,
    /// Time and tasks of the client.
    pub runtime: Runtime,
    /// The wall clock of client and service.
    pub clock: Arc<SimulatedClock>,
    /// Whatever has to live as long as the service.
    pub keep: Box<dyn Any + Send>,
}

/// A bucket as a gateway knows it.
#[derive(Clone, Copy, Debug)]
pub struct TestBucket {
    /// Its id.
    pub id: BucketId,
    /// The generation that commands carry.
    pub generation: u64,
}

impl TestBucket {
    /// The position of a key.
    pub fn at(&self, key: &str) -> pb::Position {
        pb::Position {
            bucket_id: self.id.0,
            key: Bytes::copy_from_slice(key.as_bytes()),
            generation: self.generation,
        }
    }
}

/// A bucket to create.
pub fn bucket_record(name: &str) -> state::Bucket {
    state::Bucket {
        name: name.to_owned(),
        owner: OWNER,
        storage_class: StorageClass::Standard.number(),
        redundancy: Redundancy::Lrs.number(),
        acl: BucketAcl::Private.number(),
        ..Default::default()
    }
}

/// Bytes that travel inside a commit.
pub fn inline(bytes: &str) -> pb::Payload {
    pb::Payload {
        inline: Bytes::copy_from_slice(bytes.as_bytes()),
        size: bytes.len() as u64,
        ..Default::default()
    }
}

/// A reference to a chunk; `n` makes it unlike others.
pub fn extent(n: u32, length: u32) -> state::Extent {
    state::Extent {
        chunk: Bytes::copy_from_slice(&u128::from(n).to_be_bytes()),
        length,
        digest: n,
        pool: 1,
        ..Default::default()
    }
}

impl Suite {
    /// Creates a bucket and returns what a gateway would know of it.
    pub async fn bucket(&self, name: &str) -> TestBucket {
        let command = pb::CreateBucket {
            bucket: Some(bucket_record(name)),
            ..Default::default()
        };
        let bucket = self.meta.create_bucket(command).await.unwrap().unwrap();
        TestBucket {
            id: BucketId(bucket.id),
            generation: bucket.generation,
        }
    }

    /// A command that must be decided and accepted.
    pub async fn accepted<C: Command>(&self, command: C) -> C::Reply {
        let decision = self.meta.propose(command).await.unwrap();
        decision.unwrap_or_else(|rejection| panic!("rejected: {rejection:?}"))
    }

    /// Why a command that must be decided is rejected.
    pub async fn rejected<C: Command>(&self, command: C) -> pb::rejection::Reason {
        match self.meta.propose(command).await.unwrap() {
            Ok(_) => panic!("accepted, but it must be rejected"),
            Err(rejection) => rejection.reason(),
        }
    }

    /// Puts a small object.
    pub async fn put(&self, bucket: TestBucket, key: &str, bytes: &str) -> state::Version {
        let command = pb::PutObject {
            at: Some(bucket.at(key)),
            payload: Some(inline(bytes)),
            ..Default::default()
        };
        self.accepted(command).await.version.unwrap()
    }

    /// Reads a version; a stamp of 0 means the current one.
    pub async fn version(&self, bucket: TestBucket, key: &str, stamp: u64) -> pb::VersionResult {
        let query = pb::GetVersion {
            at: Some(bucket.at(key)),
            version_stamp: stamp,
            with_body: true,
            ..Default::default()
        };
        self.meta.query(query).await.unwrap()
    }

    /// The bytes of the current version; `None` when there is none or it is a delete marker.
    pub async fn get(&self, bucket: TestBucket, key: &str) -> Option<String> {
        let found = self.version(bucket, key, 0).await;
        let version = found.version.filter(|version| !version.delete_marker)?;
        assert_eq!(version.size, found.inline.len() as u64);
        Some(String::from_utf8(found.inline.to_vec()).unwrap())
    }

    /// Deletes the current version as DeleteObject without a version does.
    pub async fn delete(&self, bucket: TestBucket, key: &str) -> pb::DeleteReply {
        let command = pb::DeleteObject {
            at: Some(bucket.at(key)),
            ..Default::default()
        };
        self.accepted(command).await
    }

    /// A write id.
    pub async fn begin_write(&self, bucket: TestBucket, key: &str) -> Bytes {
        self.meta.begin_write(bucket.at(key)).await.unwrap().0
    }

    /// The shard that holds a key.
    pub async fn shard_of(&self, bucket: TestBucket, key: &str) -> ShardId {
        let segments = self.meta.segments(bucket.id).await.unwrap();
        let key = key.as_bytes();
        let segment = segments
            .iter()
            .rev()
            .find(|segment| *segment.start_key <= *key);
        segment.unwrap().shard
    }

    /// The names on one page of a listing, groups included, and whether there is more.
    pub async fn list(&self, query: pb::ListObjects) -> (Vec<String>, pb::ObjectsPage) {
        let page = self.meta.list_objects(query).await.unwrap();
        let names = page.items.iter().map(|item| {
            let name = match item.item.as_ref().unwrap() {
                pb::list_item::Item::Object(entry) => &entry.key,
                pb::list_item::Item::CommonPrefix(prefix) => prefix,
            };
            String::from_utf8(name.to_vec()).unwrap()
        });
        (names.collect(), page)
    }

    /// The counters of a bucket's Standard class, summed over its shards.
    pub async fn counters(&self, bucket: TestBucket) -> state::Counter {
        let classes = self.meta.bucket_counters(bucket.id).await.unwrap();
        let standard = StorageClass::Standard.number();
        let found = classes
            .into_iter()
            .find(|class| class.storage_class == standard);
        let counter = found.and_then(|class| class.counter).unwrap_or_default();
        state::Counter {
            modified_ms: 0,
            ..counter
        }
    }

    /// The cluster's lease of write ids and grace of readers.
    pub async fn settings(&self) -> state::ShardSettings {
        let shard = self
            .meta
            .query_at(ShardId(1), pb::DescribeShard {})
            .await
            .unwrap();
        shard.clock.unwrap().settings.unwrap()
    }

    /// Lets `millis` of wall-clock time pass at once, and every data shard see it.
    pub async fn advance(&self, millis: u64) {
        self.clock.advance_wall_clock(millis);
        self.meta.refresh_map().await.unwrap();
        for shard in self.data_shards().await {
            self.meta
                .propose_to(shard, pb::Tick {})
                .await
                .unwrap()
                .unwrap();
        }
    }

    /// Every shard that owns a range.
    pub async fn data_shards(&self) -> Vec<ShardId> {
        let map = self
            .meta
            .query(pb::GetClusterMap { known_epoch: 0 })
            .await
            .unwrap();
        let mut shards: Vec<_> = map.ranges.iter().map(|hint| ShardId(hint.shard)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// What a shard would let a worker delete now.
    pub async fn deletions(&self, shard: ShardId) -> pb::DeletionsPage {
        let query = pb::ListDeletions {
            limit: 1000,
            after_seq: 0,
        };
        self.meta.query_at(shard, query).await.unwrap()
    }

    /// Acknowledges deletions until nothing is left of them.
    pub async fn acknowledge(&self, shard: ShardId, seqs: Vec<u64>) {
        loop {
            let command = pb::AckDeletions {
                seqs: seqs.clone(),
                lease_token: 0,
            };
            let reply = self.meta.propose_to(shard, command).await.unwrap().unwrap();
            if !reply.more {
                return;
            }
        }
    }

    /// A command in an envelope of its own, to be sent more than once.
    pub fn envelope<C: Command>(&self, command: C) -> pb::Command {
        let id = self.runtime.entropy().next_u128().to_be_bytes();
        pb::Command {
            id: Bytes::copy_from_slice(&id),
            deadline_ms: self.runtime.now().plus_millis(30_000).as_millis(),
            command: Some(command.into_wire()),
        }
    }

    /// Sends an envelope until it is answered, as a client does.
    pub async fn send(
        &self,
        shard: ShardId,
        envelope: &pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        for _ in 0..100 {
            match self.service.propose(shard, envelope.clone()).await {
                Err(error) if error.kind() == crate::ErrorKind::Retry => {
                    self.runtime.sleep(Duration::from_millis(5)).await;
                }
                answer => return answer,
            }
        }
        panic!("no answer to {envelope:?}")
    }
}

/// Makes a test of every case of the suite. `$start` is an async function without arguments that
/// returns a [`Suite`](crate::testsuite::Suite); it runs inside a paused tokio runtime.
#[macro_export]
macro_rules! meta_testsuite {
    ($start:ident) => {
        $crate::meta_testsuite!(@cases $start;
            objects: put_get_overwrite_delete, forbid_overwrite, stamps_and_times_only_grow,
                records_are_bounded, old_generations_are_refused;
            versions: enabled_versions_stack_up, suspended_versions_replace_the_null_version,
                versions_are_listed_newest_first;
            chunks: staged_extents_are_committed_and_found_by_offset, extents_are_staged_once,
                replaced_chunks_wait_for_their_readers, an_expired_write_cannot_be_committed,
                a_write_id_is_used_once, the_sweep_keeps_what_may_live,
                a_pin_does_not_come_after_the_deletion, deletions_behind_stuck_ones_are_listed,
                inline_bytes_take_no_write_id, kept_chunks_are_not_abandoned,
                abandoned_chunks_go_when_no_attempt_is_under_way;
            uploads: parts_become_an_object, bad_part_lists_are_refused, parts_in_order_have_a_digest,
                aborted_parts_are_given_up, many_parts_are_deleted_in_steps,
                many_parts_are_aborted_in_steps,
                uploads_are_listed_by_key_and_age;
            listing: pages_agree_with_a_model, groups_are_skipped_not_read,
                delete_markers_do_not_make_a_page_endless, delete_markers_do_not_show_a_group_twice,
                pages_of_many_shards_agree_with_a_model,
                only_shards_that_may_have_keys_are_asked;
            buckets: created_once_by_one_owner, a_bucket_with_contents_stays,
                unfinished_buckets_are_finished, attempts_to_delete_do_not_mix;
            repeats: a_repeat_changes_nothing_after_an_overwrite, rejections_are_repeated_too,
                a_late_command_is_refused, a_clock_that_stepped_forward_and_back_expires_nothing;
            splits: a_split_moves_nothing_a_client_can_see, listings_go_on_across_splits,
                a_range_is_split_as_it_was_measured_or_not_at_all,
                a_split_changes_no_counter, the_sweep_asks_every_piece,
                more_is_said_only_when_something_follows;
            appends: bytes_are_added_at_the_end, one_of_two_appends_wins_and_repeats_add_nothing,
                a_sealed_object_takes_no_more, a_full_tail_is_folded_first,
                folds_replace_what_they_read, small_parts_do_not_pile_up,
                versions_are_appended_to_only_while_current,
                readers_keep_the_tail_of_what_was_deleted, a_split_keeps_what_was_appended;
            references: every_chunk_is_named_once_with_its_owner;
            unnamed: an_object_names_its_chunks_and_no_others, a_part_names_its_chunks,
                nothing_is_said_of_what_is_not_settled, only_the_owner_of_the_key_decides;
            settings: a_bucket_keeps_its_settings, every_shard_keeps_versions_at_once,
                a_change_is_finished_by_others, a_version_keeps_its_settings,
                versions_are_listed_across_splits, an_object_gets_other_attributes_in_place,
                versions_are_not_changed_in_place;
            directories: paths_make_their_directories, a_name_is_one_entry,
                a_rename_moves_what_is_below, references_show_paths,
                impossible_renames_are_refused, repeats_do_nothing_again,
                a_directory_is_deleted_in_steps, concurrent_changes_exclude_each_other,
                pages_go_on_while_directories_are_renamed, the_bucket_stays_whole,
                changes_agree_with_a_model, uploads_are_listed_by_path,
                appended_objects_are_renamed;
            root: leases_have_growing_tokens, the_map_has_epochs, shards_are_allocated_once,
                access_keys_belong_to_accounts, accounts_are_made_with_a_key,
                nodes_are_allocated_once,
                trust_changes_by_generation, join_tokens_expire;
        );
    };
    (@cases $start:ident; $($topic:ident: $($case:ident),+;)+) => {
        $(mod $topic {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    let suite = super::$start().await;
                    $crate::testsuite::$topic::$case(suite).await;
                }
            )+
        })+
    };
}
