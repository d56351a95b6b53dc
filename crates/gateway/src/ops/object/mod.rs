//! Operations on objects, and what they share: the attributes of a write, the description of a
//! version, the look-up of a version to read.

mod attributes;
mod copy_object;
mod delete_multiple_objects;
mod delete_object;
mod get_object;
mod get_object_meta;
mod head_object;
mod put_object;
mod source;
mod version;

pub(crate) use attributes::{Attributes, UNBUILT_IN_WRITES, checked_class, forbids_overwrite};
pub(crate) use copy_object::CopyObject;
pub(crate) use delete_multiple_objects::DeleteMultipleObjects;
pub(crate) use delete_object::DeleteObject;
pub(crate) use get_object::GetObject;
pub(crate) use get_object_meta::GetObjectMeta;
pub(crate) use head_object::HeadObject;
pub(crate) use put_object::{PutObject, body_limits, content_md5_header, write_failed};
pub(crate) use source::Source;
pub(crate) use version::restore_text;
