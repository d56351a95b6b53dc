//! Appends as a gateway makes them, with the folds that they take, and reads of what was appended.

use futures_util::StreamExt;
use granary_datapath::{DataPath, ReadSource};
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::{self, state};
use granary_types::ByteRange;

use super::{Bucket, Gateway, NotDone, attributes};
use crate::appends::Outcome;

impl Gateway {
    /// AppendObject where the object ends now.
    ///
    /// # Errors
    /// It was not done, or its outcome is unknown.
    pub async fn append(&self, bucket: &Bucket, key: &str, length: u64) -> Result<(), NotDone> {
        let known = self.appendable(bucket, key).await?;
        let position = known.as_ref().map_or(0, |version| version.size);
        let bytes = self.record.appends.draw(length);
        let written = self.write_bytes(bucket, key, bytes.clone()).await?;
        let takes = |version: &state::Version| DataPath::takes(version, &written.payload);
        if let Some(version) = known.filter(|version| !takes(version)) {
            self.fold(bucket, key, version).await?;
        }
        let name = bucket.object(key);
        let number = self.record.appends.begin(&name, position, bytes);
        let command = pb::AppendObject {
            at: Some(bucket.position(key)),
            version: Some(attributes()),
            payload: Some(written.payload),
            position,
            crc64: written.crc64,
            forbid_overwrite: false,
        };
        match self.meta.propose(command).await {
            Ok(Ok(_)) => {
                self.record
                    .appends
                    .end(&name, number, Outcome::Acknowledged);
                self.count("append");
                Ok(())
            }
            Ok(Err(no)) => {
                self.record.appends.end(&name, number, Outcome::Refused);
                match no.reason() {
                    Reason::PositionNotEqualToLength => self.count("append came second"),
                    Reason::FoldFirst => self.count("append without room"),
                    _ => return Err(self.judge_rejection("append", &no)),
                }
                Ok(())
            }
            Err(error) => {
                self.count("append unknown");
                Err(self.judge("append", &error))
            }
        }
    }

    async fn fold(
        &self,
        bucket: &Bucket,
        key: &str,
        version: state::Version,
    ) -> Result<(), NotDone> {
        let object_id = version.object_id.clone();
        let source = ReadSource {
            at: bucket.position(key),
            version,
            inline: bytes::Bytes::new(),
        };
        let folded = self.data.fold(source, self.target(bucket, key)).await;
        let folded = folded.map_err(|error| self.judge_write("fold", &error))?;
        let Some(folded) = folded else {
            return Ok(());
        };
        let command = pb::FoldTail {
            at: Some(bucket.position(key)),
            object_id,
            from: folded.from,
            payload: Some(folded.payload),
            crc64: folded.crc64,
        };
        match self.meta.propose(command).await {
            Ok(Ok(_)) => self.count("fold"),
            Ok(Err(no)) if matches!(no.reason(), Reason::Stale | Reason::FoldFirst) => {
                self.count("fold came second");
            }
            Ok(Err(no)) => return Err(self.judge_rejection("fold", &no)),
            Err(error) => {
                self.count("fold unknown");
                return Err(self.judge("fold", &error));
            }
        }
        Ok(())
    }

    /// GetObject of what was appended: everything, or nothing when there is no object yet.
    ///
    /// # Errors
    /// No answer, or the bytes could not be read now.
    pub async fn read_appended(&self, bucket: &Bucket, key: &str) -> Result<Vec<u8>, NotDone> {
        let name = bucket.object(key);
        let at_least = self.record.appends.acknowledged(&name);
        let found = self.appendable(bucket, key).await?;
        let size = found.as_ref().map_or(0, |version| version.size);
        if size < at_least {
            self.find(format!(
                "{name:?} has {size} bytes after {at_least} were acknowledged"
            ));
        }
        let Some(version) = found else {
            return Ok(Vec::new());
        };
        let crc64 = version.crc64;
        let source = ReadSource {
            at: bucket.position(key),
            version,
            inline: bytes::Bytes::new(),
        };
        self.wait_sometimes().await;
        let mut bytes = self.data.read(source, ByteRange::whole(size));
        let mut read = Vec::new();
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(|error| {
                self.count("read of appends not done");
                self.judge_read(&format!("read of {name:?}"), &error)
            })?;
            read.extend_from_slice(&piece);
        }
        let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &read);
        if read.len() as u64 != size || checksum != crc64 {
            self.find(format!(
                "{name:?}: {} bytes read of {size}, or others than its CRC-64 says",
                read.len()
            ));
        }
        self.record.appends.read(&name, &read);
        self.count("read of appends");
        Ok(read)
    }

    async fn appendable(
        &self,
        bucket: &Bucket,
        key: &str,
    ) -> Result<Option<state::Version>, NotDone> {
        let query = pb::GetVersion {
            at: Some(bucket.position(key)),
            ..pb::GetVersion::default()
        };
        let found = self.meta.query(query).await;
        let found = found.map_err(|error| self.judge("look-up", &error))?;
        match found.bucket_unknown {
            true => Err(NotDone),
            false => Ok(found.version),
        }
    }
}
