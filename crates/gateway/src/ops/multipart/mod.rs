//! The multipart operations, and what they share: the upload they name.

mod abort_multipart_upload;
mod complete_multipart_upload;
mod initiate_multipart_upload;
mod list_multipart_uploads;
mod list_parts;
mod sequence;
mod upload;
mod upload_part;
mod upload_part_copy;

pub(crate) use abort_multipart_upload::AbortMultipartUpload;
pub(crate) use complete_multipart_upload::CompleteMultipartUpload;
pub(crate) use initiate_multipart_upload::InitiateMultipartUpload;
pub(crate) use list_multipart_uploads::ListMultipartUploads;
pub(crate) use list_parts::ListParts;
pub(crate) use upload_part::UploadPart;
pub(crate) use upload_part_copy::UploadPartCopy;
