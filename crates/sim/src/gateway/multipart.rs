//! Multipart uploads.

use granary_meta_api::pb;
use granary_types::ETag;

use super::{Bucket, Gateway, NotDone, attributes};
use crate::content::Content;
use crate::linearizability::Action;

/// How an upload ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadEnd {
    /// The parts become the object.
    Complete,
    /// It is aborted.
    Abort,
    /// It is left lying: nobody ever comes back to it.
    Abandon,
}

impl Gateway {
    /// A multipart upload of a value in parts that end at these offsets.
    ///
    /// # Errors
    /// It was not done, or its outcome is unknown.
    pub async fn upload(
        &self,
        bucket: &Bucket,
        key: &str,
        content: Content,
        ends: &[u64],
        end: UploadEnd,
    ) -> Result<(), NotDone> {
        let upload_id = self.initiate(bucket, key).await?;
        let (bytes, mut start, mut parts) = (content.bytes(), 0, Vec::new());
        for (index, until) in ends.iter().enumerate() {
            let until = usize::try_from(*until).unwrap_or(usize::MAX);
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let written = self
                .write_bytes(bucket, key, bytes.slice(start..until))
                .await?;
            let etag = ETag::from_md5(written.md5).as_str().to_owned();
            let command = pb::PutPart {
                at: Some(bucket.position(key)),
                upload_id: upload_id.clone(),
                number,
                etag: etag.clone(),
                crc64: written.crc64,
                payload: Some(written.payload),
                prefix: None,
            };
            match self.meta.propose(command).await {
                Ok(Ok(_)) => parts.push(pb::CompletePart { number, etag }),
                Ok(Err(no)) => return Err(self.judge_rejection("part", &no)),
                Err(error) => return Err(self.judge("part", &error)),
            }
            self.count("part");
            start = until;
        }
        match end {
            UploadEnd::Complete => self.complete(bucket, key, content, upload_id, parts).await,
            UploadEnd::Abort => self.abort(bucket, key, upload_id).await,
            UploadEnd::Abandon => {
                self.count("upload abandoned");
                Ok(())
            }
        }
    }

    async fn initiate(&self, bucket: &Bucket, key: &str) -> Result<bytes::Bytes, NotDone> {
        let begun = self.meta.begin_write(bucket.position(key)).await;
        let (upload_id, _) = begun.map_err(|error| self.judge("write id", &error))?;
        let command = pb::InitiateUpload {
            at: Some(bucket.position(key)),
            upload_id: upload_id.clone(),
            template: Some(attributes()),
            sequential: false,
        };
        match self.meta.propose(command).await {
            Ok(Ok(_)) => Ok(upload_id),
            Ok(Err(no)) => Err(self.judge_rejection("upload", &no)),
            Err(error) => Err(self.judge("upload", &error)),
        }
    }

    async fn complete(
        &self,
        bucket: &Bucket,
        key: &str,
        content: Content,
        upload_id: bytes::Bytes,
        parts: Vec<pb::CompletePart>,
    ) -> Result<(), NotDone> {
        let action = Action::Write(content.value);
        let writing = self.writing(bucket, key, action);
        let command = pb::CompleteUpload {
            at: Some(bucket.position(key)),
            upload_id,
            parts,
            ..pb::CompleteUpload::default()
        };
        match self.meta.propose(command).await {
            Ok(Ok(_)) => {
                writing.answered(action);
                self.count("upload completed");
                Ok(())
            }
            Ok(Err(no)) => {
                writing.refused();
                Err(self.judge_rejection("completion", &no))
            }
            Err(error) => {
                self.count("completion unknown");
                Err(self.judge("completion", &error))
            }
        }
    }

    async fn abort(
        &self,
        bucket: &Bucket,
        key: &str,
        upload_id: bytes::Bytes,
    ) -> Result<(), NotDone> {
        let command = pb::AbortUpload {
            at: Some(bucket.position(key)),
            upload_id,
        };
        match self.meta.propose(command).await {
            Ok(Ok(_)) => {
                self.count("upload aborted");
                Ok(())
            }
            Ok(Err(no)) => Err(self.judge_rejection("abort", &no)),
            Err(error) => Err(self.judge("abort", &error)),
        }
    }
}
