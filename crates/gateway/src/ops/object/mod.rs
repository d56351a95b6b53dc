//! Operations on objects, and what they share: the attributes of a write, its steps, the description
//! of a version, the look-up of a version to read.

mod append_object;
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
mod post_object;
mod put_object;
mod put_object_acl;
mod put_object_tagging;
mod put_symlink;
mod rename;
mod seal_append_object;
mod settings;
mod source;
mod store;
mod version;

pub(crate) use append_object::AppendObject;
pub(crate) use attributes::{
    Attributes, CALLBACKS, UNBUILT_IN_WRITES, checked_class, forbids_overwrite,
};
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
pub(crate) use post_object::PostObject;
pub(crate) use put_object::{PutObject, body_limits};
pub(crate) use put_object_acl::PutObjectAcl;
pub(crate) use put_object_tagging::PutObjectTagging;
pub(crate) use put_symlink::PutSymlink;
pub(crate) use rename::Rename;
pub(crate) use seal_append_object::SealAppendObject;
pub(crate) use source::Source;
pub(crate) use store::{content_md5_header, refuse_early, write_failed};
pub(crate) use version::{content_md5, restore_text};
