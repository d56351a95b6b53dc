//! GetBucketStat: what a bucket holds, summed over its shards; exact at the time of the answer.

use std::sync::Arc;

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::xml::{BucketStat, ClassUsage};
use granary_types::StorageClass;

use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct GetBucketStat;

impl Operation for GetBucketStat {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let seen = Arc::clone(cx.bucket()?);
        cx.bucket_has_changed(&seen).await?;
        let bucket = cx.bucket()?.id;
        let counters = cx
            .shared
            .meta
            .bucket_counters(bucket)
            .await
            .map_err(failure::of_meta)?;
        let now = cx.shared.runtime.now();
        Ok(Output::xml(
            BucketStat {
                last_modified_time: now.as_secs(),
                ..sum(&counters)
            }
            .to_xml(),
        ))
    }
}

fn sum(classes: &[pb::ClassCounter]) -> BucketStat {
    let mut stat = BucketStat::default();
    for class in classes {
        let Some(counter) = class.counter else {
            continue;
        };
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let (bytes, parts) = (count(counter.bytes), count(counter.multipart_bytes));
        // `versions` counts the noncurrent ones.
        let objects = count(counter.objects) + count(counter.versions);
        stat.storage += bytes + parts;
        stat.object_count += objects;
        stat.multipart_upload_count += count(counter.uploads);
        stat.multipart_part_count += count(counter.multipart_parts);
        stat.delete_marker_count += count(counter.delete_markers);
        let usage = match StorageClass::from_number(class.storage_class) {
            Some(StorageClass::Standard) | None => &mut stat.standard,
            Some(StorageClass::Ia) => &mut stat.infrequent_access,
            Some(StorageClass::Archive) => &mut stat.archive,
            Some(StorageClass::ColdArchive) => &mut stat.cold_archive,
            Some(StorageClass::DeepColdArchive) => &mut stat.deep_cold_archive,
        };
        let before = *usage;
        *usage = ClassUsage {
            storage: before.storage + bytes + parts,
            real_storage: before.real_storage + bytes + parts,
            object_count: before.object_count + objects,
        };
    }
    stat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_add_up() {
        let class =
            |class: StorageClass, versions: i64, bytes: i64, uploads: i64| pb::ClassCounter {
                storage_class: class.number(),
                counter: Some(pb::state::Counter {
                    objects: versions - 1,
                    versions: 1,
                    bytes,
                    uploads,
                    multipart_parts: 2 * uploads,
                    multipart_bytes: 10 * uploads,
                    ..Default::default()
                }),
            };
        let stat = sum(&[
            class(StorageClass::Standard, 3, 300, 1),
            class(StorageClass::Ia, 1, 50, 0),
        ]);
        assert_eq!((stat.storage, stat.object_count), (360, 4));
        assert_eq!(
            (stat.standard.storage, stat.infrequent_access.real_storage),
            (310, 50)
        );
        assert_eq!(
            (stat.multipart_upload_count, stat.multipart_part_count),
            (1, 2)
        );
    }
}
