//! What a gateway does for a client, step by step, and what it was told: every operation ends in
//! the history, as answered or as unknown. An operation that failed before its commit was sent has
//! no effect and leaves no trace there.

mod append;
mod bucket;
mod listing;
mod multipart;
mod split;

pub use bucket::Bucket;
pub use listing::ListOptions;
pub use multipart::UploadEnd;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use granary_datapath::{
    BodyLimits, DataPath, ReadError, ReadSource, WriteError, WriteTarget, Written,
};
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::{self, state};
use granary_meta_api::{Meta, MetaError};
use granary_types::{ByteRange, ETag, ObjectType, Redundancy, StorageClass};

use crate::appends::Appends;
use crate::content::{Content, Contents};
use crate::history::{History, ObjectName, Writing};
use crate::linearizability::Action;
use crate::net::{Life, SimNet};

/// What every gateway of a run shares.
#[derive(Clone)]
pub struct Record {
    /// The history.
    pub history: History,
    /// The values.
    pub contents: std::sync::Arc<Contents>,
    /// What was appended.
    pub appends: Appends,
    /// Trace and findings.
    pub net: SimNet,
}

/// One life of a gateway with its client.
pub struct Gateway {
    pub(crate) life: Life,
    pub(crate) meta: Meta,
    pub(crate) data: DataPath,
    pub(crate) record: Record,
}

/// Not done, and the reason is a fault that the run injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDone;

/// Bytes of a body's pieces, as they come from a socket.
const BODY_PIECE_BYTES: usize = 16 * 1024;
/// Reads that begin long after their look-up, of a thousand.
const SLOW_READS_PER_MILLE: u32 = 60;
/// The longest such wait, in milliseconds: a small part of the reader grace.
const SLOW_READ_MS_MAX: u64 = 8000;

impl Gateway {
    /// A gateway over its own clients of both services.
    pub fn new(life: Life, meta: Meta, data: DataPath, record: Record) -> Self {
        Self {
            life,
            meta,
            data,
            record,
        }
    }

    /// Who, in histories.
    pub fn client(&self) -> u64 {
        self.life.endpoint.0
    }

    pub(crate) fn count(&self, label: &'static str) {
        self.record.net.trace().count(label);
    }

    fn find(&self, finding: impl Into<String>) {
        self.record.net.findings().report(finding);
    }

    /// An error that no injected fault explains is a finding.
    pub(crate) fn judge(&self, what: &str, error: &MetaError) -> NotDone {
        if matches!(error, MetaError::Invalid(_) | MetaError::Internal(_)) {
            self.find(format!("{what}: {error}"));
        }
        NotDone
    }

    /// A "no" that this workload never asks for is a finding.
    pub(crate) fn judge_rejection(&self, what: &str, rejection: &pb::Rejection) -> NotDone {
        let expected = matches!(
            rejection.reason(),
            Reason::NoSuchBucket
                | Reason::StaleGeneration
                | Reason::WriteExpired
                | Reason::NoSuchUpload
                | Reason::AlreadyExists
                | Reason::BucketNotEmpty
                | Reason::Stale
        );
        if !expected {
            self.find(format!("{what} was refused: {rejection:?}"));
        }
        NotDone
    }

    fn judge_write(&self, what: &str, error: &WriteError) -> NotDone {
        match error {
            WriteError::Unavailable(_) | WriteError::Overloaded | WriteError::ShuttingDown => {
                NotDone
            }
            WriteError::Meta(error) => self.judge(what, error),
            WriteError::Refused(rejection) => self.judge_rejection(what, rejection),
            WriteError::Source(error) => self.judge_read(what, error),
            _ => {
                self.find(format!("{what}: {error}"));
                NotDone
            }
        }
    }

    fn judge_read(&self, what: &str, error: &ReadError) -> NotDone {
        match error {
            ReadError::Unavailable { .. } | ReadError::Overloaded | ReadError::ShuttingDown => {}
            ReadError::Meta(error) => {
                self.judge(what, error);
            }
            // Nothing replaced is deleted within the reader grace, which no read here exceeds.
            ReadError::Missing(_) | ReadError::Malformed(_) | ReadError::TooOld => {
                self.find(format!("{what}: {error}"));
            }
        }
        NotDone
    }

    fn target(&self, bucket: &Bucket, key: &str) -> WriteTarget {
        WriteTarget {
            at: bucket.position(key),
            redundancy: Redundancy::Lrs,
            storage_class: StorageClass::Standard,
            continues: None,
        }
    }

    /// Makes bytes durable that belong to nothing yet.
    async fn write_bytes(
        &self,
        bucket: &Bucket,
        key: &str,
        bytes: Bytes,
    ) -> Result<Written, NotDone> {
        let limits = BodyLimits {
            declared_length: Some(bytes.len() as u64),
            max_bytes: 1 << 30,
        };
        let pieces: Vec<_> = bytes
            .chunks(BODY_PIECE_BYTES)
            .map(|piece| Ok(bytes.slice_ref(piece)))
            .collect();
        let written = self
            .data
            .write(self.target(bucket, key), stream::iter(pieces), limits)
            .await;
        written.map_err(|error| {
            self.count("write not done");
            self.judge_write("write", &error)
        })
    }

    /// PutObject.
    ///
    /// # Errors
    /// It was not done, or its outcome is unknown.
    pub async fn put(
        &self,
        bucket: &Bucket,
        key: &str,
        content: Content,
        forbid_overwrite: bool,
    ) -> Result<(), NotDone> {
        let written = self.write_bytes(bucket, key, content.bytes()).await?;
        let version = state::Version {
            object_type: ObjectType::Normal.number(),
            size: written.size,
            etag: ETag::from_md5(written.md5).as_str().to_owned(),
            crc64: written.crc64,
            has_crc64: true,
            ..attributes()
        };
        self.commit(
            bucket,
            key,
            content,
            version,
            written.payload,
            forbid_overwrite,
        )
        .await
    }

    /// CopyObject onto another key.
    ///
    /// # Errors
    /// It was not done, or its outcome is unknown.
    pub async fn copy(&self, bucket: &Bucket, from: &str, to: &str) -> Result<(), NotDone> {
        let called = self.record.history.call();
        let Some(source) = self.look_up(bucket, from, called, true).await? else {
            return Ok(());
        };
        let found = source.version.clone();
        let Some(content) = self.record.contents.of_length(found.size) else {
            return Err(NotDone);
        };
        let range = ByteRange::whole(found.size);
        let digests = granary_datapath::CopyDigests::Keep;
        let copied = self
            .data
            .copy(source, range, self.target(bucket, to), digests)
            .await;
        let copied = copied.map_err(|error| {
            self.count("copy not done");
            self.judge_write("copy", &error)
        })?;
        let version = state::Version {
            object_type: ObjectType::Normal.number(),
            size: copied.size,
            etag: found.etag,
            crc64: found.crc64,
            has_crc64: found.has_crc64,
            ..attributes()
        };
        self.commit(bucket, to, content, version, copied.payload, false)
            .await
    }

    async fn commit(
        &self,
        bucket: &Bucket,
        key: &str,
        content: Content,
        version: state::Version,
        payload: pb::Payload,
        forbid_overwrite: bool,
    ) -> Result<(), NotDone> {
        let action = |refused| match forbid_overwrite {
            true => Action::WriteIfAbsent {
                value: content.value,
                refused,
            },
            false => Action::Write(content.value),
        };
        let writing = self.writing(bucket, key, action(None));
        let command = pb::PutObject {
            at: Some(bucket.position(key)),
            version: Some(version),
            payload: Some(payload),
            forbid_overwrite,
        };
        match self.meta.propose(command).await {
            Ok(Ok(_)) => {
                writing.answered(action(Some(false)));
                self.count("put");
                Ok(())
            }
            Ok(Err(no)) if forbid_overwrite && no.reason() == Reason::AlreadyExists => {
                writing.answered(action(Some(true)));
                self.count("put refused");
                Ok(())
            }
            Ok(Err(no)) => {
                writing.refused();
                Err(self.judge_rejection("put", &no))
            }
            Err(error) => {
                self.count("put unknown");
                Err(self.judge("put", &error))
            }
        }
    }

    pub(crate) fn writing(&self, bucket: &Bucket, key: &str, unknown: Action) -> Writing {
        self.record
            .history
            .writing(self.client(), &bucket.object(key), unknown)
    }

    /// DeleteObject.
    ///
    /// # Errors
    /// It was not done, or its outcome is unknown.
    pub async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), NotDone> {
        let writing = self.writing(bucket, key, Action::Delete { existed: None });
        let command = pb::DeleteObject {
            at: Some(bucket.position(key)),
            ..pb::DeleteObject::default()
        };
        match self.meta.propose(command).await {
            Ok(Ok(reply)) => {
                writing.answered(Action::Delete {
                    existed: Some(reply.existed),
                });
                self.count("delete");
                Ok(())
            }
            Ok(Err(no)) => {
                writing.refused();
                Err(self.judge_rejection("delete", &no))
            }
            Err(error) => {
                self.count("delete unknown");
                Err(self.judge("delete", &error))
            }
        }
    }

    /// HeadObject.
    ///
    /// # Errors
    /// No answer.
    pub async fn head(&self, bucket: &Bucket, key: &str) -> Result<(), NotDone> {
        let called = self.record.history.call();
        self.look_up(bucket, key, called, false).await?;
        self.count("head");
        Ok(())
    }

    /// GetObject, whole or a range of it.
    ///
    /// # Errors
    /// No answer, or the bytes could not be read now.
    pub async fn get(
        &self,
        bucket: &Bucket,
        key: &str,
        pick: impl FnOnce(u64) -> ByteRange,
    ) -> Result<(), NotDone> {
        let called = self.record.history.call();
        let Some(source) = self.look_up(bucket, key, called, true).await? else {
            self.count("get of nothing");
            return Ok(());
        };
        let Some(content) = self.record.contents.of_length(source.version.size) else {
            return Err(NotDone);
        };
        let range = pick(content.length);
        self.wait_sometimes().await;
        let started_ms = self.life.runtime.now().as_millis();
        let mut bytes = self.data.read(source, range);
        let mut read = Vec::new();
        while let Some(piece) = bytes.next().await {
            match piece {
                Ok(piece) => read.extend_from_slice(&piece),
                Err(error) => {
                    let took_ms = self.life.runtime.now().as_millis() - started_ms;
                    self.count("get not done");
                    return Err(self.judge_read(
                        &format!("get of {:?} (took {took_ms} ms)", bucket.object(key)),
                        &error,
                    ));
                }
            }
        }
        let (start, end) = (range.start as usize, range.end as usize);
        if read != content.bytes()[start..end] {
            self.find(format!(
                "get of {:?}: {} bytes of value {} at {start}..{end} are not what was written",
                bucket.object(key),
                read.len(),
                content.value
            ));
        }
        self.count("get");
        Ok(())
    }

    /// Some reads begin long after their look-up.
    async fn wait_sometimes(&self) {
        if self.record.net.one_of(SLOW_READS_PER_MILLE) {
            let wait_ms = self.record.net.below(SLOW_READ_MS_MAX);
            let wait = Duration::from_millis(wait_ms);
            self.life.runtime.sleep(wait).await;
        }
    }

    /// The current version of a key, noted as a read since `called`.
    async fn look_up(
        &self,
        bucket: &Bucket,
        key: &str,
        called: crate::history::Called,
        with_body: bool,
    ) -> Result<Option<ReadSource>, NotDone> {
        let at = bucket.position(key);
        let query = pb::GetVersion {
            at: Some(at.clone()),
            with_body,
            ..pb::GetVersion::default()
        };
        let found = self.meta.query(query).await.map_err(|error| {
            self.count("look-up without answer");
            self.judge("look-up", &error)
        })?;
        if found.bucket_unknown {
            return Err(NotDone);
        }
        let version = found
            .version
            .filter(|version| found.found && !version.delete_marker);
        let name = bucket.object(key);
        let seen = match &version {
            None => None,
            Some(version) => Some(self.value_of(&name, version).ok_or(NotDone)?),
        };
        self.record
            .history
            .answered(self.client(), called, &name, Action::Read(seen));
        Ok(version.map(|version| ReadSource {
            at,
            version,
            inline: found.inline,
        }))
    }

    /// Which value a record shows; its attributes must be that value's.
    pub(crate) fn value_of(
        &self,
        name: &ObjectName,
        version: &state::Version,
    ) -> Option<crate::linearizability::Value> {
        let Some(content) = self.record.contents.of_length(version.size) else {
            self.find(format!(
                "{name:?} has {} bytes, as no value has",
                version.size
            ));
            return None;
        };
        if version.has_crc64 && version.crc64 != content.crc64() {
            self.find(format!(
                "{name:?} has another CRC-64 than its value {}",
                content.value
            ));
        }
        Some(content.value)
    }
}

/// The attributes of every object of a run.
fn attributes() -> state::Version {
    state::Version {
        storage_class: StorageClass::Standard.number(),
        acl: granary_types::ObjectAcl::Default.number(),
        owner: crate::cluster::OWNER.0,
        ..state::Version::default()
    }
}
