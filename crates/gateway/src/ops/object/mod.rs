//! Operations on objects, and what they share: the attributes of a write, the description of a
//! version, the look-up of a version to read.

mod attributes;
mod copy_object;
mod create_directory;
mod delete_directory;
mod delete_multiple_objects;
mod delete_object;
mod delete_object_tagging;
mod get_object;
mod get_object_acl;
mod get_object_meta;
mod get_object_tagging;
mod get_symlink;
mod head_object;
mod link;
mod option_object;
mod put_object;
mod put_object_acl;
mod put_object_tagging;
mod put_symlink;
mod rename;
mod settings;
mod source;
mod version;

pub(crate) use attributes::{Attributes, UNBUILT_IN_WRITES, checked_class, forbids_overwrite};
pub(crate) use copy_object::CopyObject;
pub(crate) use create_directory::CreateDirectory;
pub(crate) use delete_directory::DeleteDirectory;
pub(crate) use delete_multiple_objects::DeleteMultipleObjects;
pub(crate) use delete_object::DeleteObject;
pub(crate) use delete_object_tagging::DeleteObjectTagging;
pub(crate) use get_object::GetObject;
pub(crate) use get_object_acl::GetObjectAcl;
pub(crate) use get_object_meta::GetObjectMeta;
pub(crate) use get_object_tagging::GetObjectTagging;
pub(crate) use get_symlink::GetSymlink;
pub(crate) use head_object::HeadObject;
pub(crate) use option_object::OptionObject;
pub(crate) use put_object::{PutObject, body_limits, content_md5_header, write_failed};
pub(crate) use put_object_acl::PutObjectAcl;
pub(crate) use put_object_tagging::PutObjectTagging;
pub(crate) use put_symlink::PutSymlink;
pub(crate) use rename::Rename;
pub(crate) use source::Source;
pub(crate) use version::restore_text;
