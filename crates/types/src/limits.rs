//! Every limit of the product that more than one crate must agree on, with its source.

/// Shortest bucket name, in bytes (OSS API reference, PutBucket).
pub const BUCKET_NAME_BYTES_MIN: usize = 3;
/// Longest bucket name, in bytes (OSS API reference, PutBucket).
pub const BUCKET_NAME_BYTES_MAX: usize = 63;
/// Longest object name, in bytes of UTF-8 (OSS API reference).
pub const OBJECT_KEY_BYTES_MAX: usize = 1023;
/// Buckets one account may own (OSS API reference: 100 per region).
pub const BUCKETS_PER_ACCOUNT_MAX: usize = 100;

/// Largest object that one PutObject, PostObject or part may carry, in bytes (5 GB).
pub const PUT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Smallest part but the last of a multipart upload, in bytes (100 KB).
pub const PART_BYTES_MIN: u64 = 100 * 1024;
/// Highest part number of a multipart upload; the lowest is 1.
pub const PART_NUMBER_MAX: u32 = 10_000;
/// Largest object a multipart upload may make, in bytes (48.8 TB).
pub const OBJECT_BYTES_MAX: u64 = 10_000 * PUT_BYTES_MAX;

/// Largest object that appends may make, in bytes (5 GB; API reference, AppendObject).
pub const APPEND_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Bytes of an appendable object that may stand in the metadata before they are folded into chunks.
pub const TAIL_BYTES_MAX: u64 = 1024 * 1024;
/// Appends whose bytes may stand there: one byte each must not make a million rows.
pub const TAIL_ROWS_MAX: u32 = 1024;
/// A part of an appendable object with fewer bytes is small: a fold may make one of several.
pub const SMALL_PART_BYTES: u64 = CHUNK_BYTES_MAX as u64 / 2;
/// Small parts at the end of an appendable object.
pub const SMALL_PARTS_MAX: u32 = 64;

/// All `x-oss-meta-*` of one object together, names and values, in bytes (8 KB).
pub const USER_META_BYTES_MAX: usize = 8 * 1024;
/// Tags of one object (OSS API reference, PutObjectTagging).
pub const OBJECT_TAGS_MAX: usize = 10;
/// Longest tag key of an object, in characters.
pub const OBJECT_TAG_KEY_CHARS_MAX: usize = 128;
/// Longest tag value of an object, in characters.
pub const OBJECT_TAG_VALUE_CHARS_MAX: usize = 256;

/// Keys, uploads, parts or buckets in one listing page unless the client asks for fewer.
pub const LIST_PAGE_DEFAULT: u32 = 100;
/// Keys, uploads, parts or buckets in one listing page at most.
pub const LIST_PAGE_MAX: u32 = 1000;
/// Objects of one DeleteMultipleObjects request.
pub const DELETE_OBJECTS_MAX: usize = 1000;
/// Body of a DeleteMultipleObjects request, in bytes (2 MB).
pub const DELETE_OBJECTS_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Body of a CompleteMultipartUpload request, in bytes: 10,000 parts with room to spare.
pub const COMPLETE_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Body of any other request with an XML body, in bytes.
pub const CONFIG_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one stored configuration of a bucket: a body of [`CONFIG_BODY_BYTES_MAX`] in our spelling.
pub const BUCKET_CONFIG_BYTES_MAX: usize = 2 * CONFIG_BODY_BYTES_MAX;
/// Bytes of the name of a configuration.
pub const BUCKET_CONFIG_NAME_BYTES_MAX: usize = 64;
/// Tags of a bucket (API reference, PutBucketTags).
pub const BUCKET_TAGS_MAX: usize = 20;
/// Bytes of the key of a bucket's tag (API reference, PutBucketTags).
pub const BUCKET_TAG_KEY_BYTES_MAX: usize = 64;
/// Bytes of the value of a bucket's tag (API reference, PutBucketTags).
pub const BUCKET_TAG_VALUE_BYTES_MAX: usize = 128;
/// Bytes of the id of a resource group; those of the service have about twenty.
pub const RESOURCE_GROUP_BYTES_MAX: usize = 64;

/// Bytes of the name of a form's field (API reference, PostObject: 8 KB).
pub const FORM_FIELD_NAME_BYTES_MAX: usize = 8 * 1024;
/// Bytes of the value of a form's field (API reference, PostObject: 2 MB).
pub const FORM_FIELD_VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// All fields of a form together, with the header lines of their parts, in bytes: they stand in memory.
pub const FORM_FIELDS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Fields of a form that become headers of its object, in bytes: as many as a request's head may have.
pub const FORM_HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Fields of a form.
pub const FORM_FIELDS_MAX: usize = 1000;
/// Header lines of one part of a form, in bytes: the longest name, and a file's name as long.
pub const FORM_PART_HEADER_BYTES_MAX: usize = 2 * FORM_FIELD_NAME_BYTES_MAX + 1024;
/// Bytes before a form's first part and after its last one, which mean nothing.
pub const FORM_PADDING_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the boundary of a form's parts (RFC 2046, section 5.1.1).
pub const FORM_BOUNDARY_BYTES_MAX: usize = 70;
/// Bytes of a callback, and of its variables, as an upload carries them (API reference, Callback: 5 KB).
pub const CALLBACK_BYTES_MAX: usize = 5 * 1024;
/// Bytes of a callback's body once its variables are filled in: a template of 5 KB may repeat them.
pub const CALLBACK_BODY_BYTES_MAX: usize = 256 * 1024;
/// Servers that a callback names (API reference, Callback).
pub const CALLBACK_URLS_MAX: usize = 5;
/// Bytes of an application server's answer that are relayed (API reference, Callback: 3 MB).
pub const CALLBACK_ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Conditions of a form's policy.
pub const POST_POLICY_CONDITIONS_MAX: usize = 1000;

/// Distance between a request's clock and ours that a signature survives, in milliseconds (15 min).
pub const CLOCK_SKEW_MS_MAX: u64 = 15 * 60 * 1000;
/// Longest life of a V4 presigned URL, in seconds (7 days).
pub const PRESIGN_V4_SECS_MAX: u64 = 7 * 24 * 3600;

/// Bytes of one chunk at most.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that one CRC-32C covers inside a chunk; every block but the last is full.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Bytes of one encoded metadata record at most (design: records are bounded).
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Chunk references in one extent page; keeps a page well below [`RECORD_BYTES_MAX`].
pub const EXTENTS_PER_PAGE: usize = 128;
/// Replicas of metadata shards that splits may bring a node to: each has its timers, tasks and memory.
pub const META_REPLICAS_PER_NODE_MAX: usize = 512;
/// The smallest range that a node may be told to split.
pub const SPLIT_BYTES_MIN: u64 = 1024 * 1024;
/// Bytes of one Raft log entry at most; a single command may never exceed it.
pub const LOG_ENTRY_BYTES_MAX: usize = 1024 * 1024;
