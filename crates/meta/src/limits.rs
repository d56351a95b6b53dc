//! Limits of the metadata service alone; those that other crates share are in `types::limits`.

/// Bytes that may travel inside a commit and stand in an `Inline` row.
pub(crate) const INLINE_BYTES_MAX: usize = 256 * 1024;
/// Chunk references that stand in the version record; more go to extent pages.
pub(crate) const EXTENTS_IN_RECORD_MAX: usize = 4;
/// Chunk references that one command may carry.
pub(crate) const EXTENTS_PER_COMMAND_MAX: usize = 4096;
/// Parts in one part page; keeps a page well below `RECORD_BYTES_MAX`.
pub(crate) const PARTS_PER_PAGE: usize = 32;
/// Parts of an aborted upload that one command, or the expiry that goes on with it, gives up.
pub(crate) const PARTS_PER_STEP: usize = 1000;
/// Objects and directories that one step of deleting a directory deletes (OSS API reference,
/// DeleteDirectory).
pub(crate) const ENTRIES_PER_STEP: usize = 100;
/// Longest ETag of a part, in bytes.
pub(crate) const ETAG_BYTES_MAX: usize = 80;
/// Most that it may take to go on with the digest of a sequential upload, in bytes.
pub(crate) const MD5_STATE_BYTES_MAX: usize = 128;

/// How far in the future a command's deadline may lie, in milliseconds (1 h).
pub(crate) const COMMAND_DEADLINE_MS_MAX: u64 = 60 * 60 * 1000;
/// How long after its deadline a command's answer is kept, in milliseconds (1 min).
pub(crate) const REPLY_MARGIN_MS: u64 = 60 * 1000;
/// Replies and expiries handled along with each command.
pub(crate) const EXPIRED_PER_COMMAND: usize = 4;
/// Replies and expiries handled by a tick.
pub(crate) const EXPIRED_PER_TICK: usize = 1000;
/// Minutes without rows that one command may step over.
pub(crate) const IDLE_MINUTES_PER_COMMAND: usize = 64;
/// Minutes without rows that a tick may step over.
pub(crate) const IDLE_MINUTES_PER_TICK: usize = 10_000;

/// Longest read pin, in milliseconds (1 h); a reader renews it.
pub(crate) const PIN_MS_MAX: u64 = 60 * 60 * 1000;
/// Sequences that one acknowledgement may name.
pub(crate) const ACKS_PER_COMMAND_MAX: usize = 1000;
/// Rows that one acknowledgement removes before it answers "more".
pub(crate) const ROWS_PER_ACK: usize = 2000;
/// Placement groups that one command may create.
pub(crate) const PGS_PER_COMMAND_MAX: usize = 1024;
/// Children that a shard may have split off without the root knowing.
pub(crate) const UNREPORTED_CHILDREN_MAX: usize = 64;
/// Data shards a cluster may start with.
pub(crate) const SHARDS_MAX: u32 = 4096;
/// Longest name of a lease, a pool, a node's address and the like, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// Rows that one page of a listing reads before it answers "more".
pub(crate) const ROWS_PER_PAGE_MAX: usize = 10_000;
/// Bytes of one page of a listing, so that it fits into a message.
pub(crate) const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Entries in one page of a listing at most, whatever is asked for.
pub(crate) const PAGE_ENTRIES_MAX: usize = 1000;
/// Write ids that one query may ask for.
pub(crate) const WRITE_IDS_MAX: u32 = 1024;
/// Object ids that one sweep query may name.
pub(crate) const OWNERS_PER_QUERY_MAX: usize = 4096;
/// Chunks of one object id that one query may name.
pub(crate) const CHUNKS_PER_QUERY_MAX: usize = 4096;

/// Ranges of a shard that one measurement looks at.
pub(crate) const RANGES_MEASURED_MAX: usize = 64;
/// Steps of the search for the middle of a range; each asks the store for one size and reads one row. Thirty are usual.
pub(crate) const HALVING_STEPS_MAX: usize = 256;
/// A range is split only where each side gets at least one such part of its bytes: a split that sheds a few keys
/// costs a shard and helps nobody.
pub(crate) const SPLIT_SHARE_MIN: u64 = 8;
/// Rows of each kind that a measurement reads where the store does not tell enough.
pub(crate) const ROWS_MEASURED_MAX: usize = 4096;
/// Bytes of them.
pub(crate) const BYTES_MEASURED_MAX: u64 = 4 * 1024 * 1024;
