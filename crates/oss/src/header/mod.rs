//! Typed request headers and the date formats of the protocol.
//!
//! Each file turns one family of headers into a checked value or the service's error. It must not
//! know which operation asks, nor what is stored.

mod condition;
mod copy;
pub mod date;
mod metadata;
mod object;
mod range;
mod readable;
mod tagging;
mod traffic_limit;

pub use condition::{EtagList, Preconditions, Verdict};
pub use copy::{CopySource, MetadataDirective, TaggingDirective, copy_source_range, rename_source};
pub use metadata::{
    ContentHeaders, ResponseOverrides, persistent_headers, user_metadata, user_metadata_size,
};
pub use object::{
    bucket_acl, content_length, content_md5, flag, object_acl, redundancy, resource_group,
    storage_class, text,
};
pub use range::{RangeOutcome, resolve_range, uses_standard_range};
pub use readable::check_readable;
pub use tagging::{check_object_tags, format_tagging, parse_tagging, tagging};
pub use traffic_limit::{TRAFFIC_LIMIT_MAX, TRAFFIC_LIMIT_MIN, traffic_limit};
