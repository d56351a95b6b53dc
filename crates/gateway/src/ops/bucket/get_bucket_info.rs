//! GetBucketInfo: a bucket's owner, class, redundancy and switches.

use granary_oss::OssError;
use granary_oss::xml::BucketInfo;

use crate::buckets::Versioning;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct GetBucketInfo;

impl Operation for GetBucketInfo {
    const BODY: BodyKind = BodyKind::None;

    fn parse(_: &Head) -> Result<Self, OssError> {
        Ok(Self)
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let endpoint = cx.advertised_endpoint();
        // What a client has just changed through another gateway must show at once.
        let seen = cx.bucket()?.clone();
        cx.bucket_has_changed(&seen).await?;
        let bucket = cx.bucket()?;
        let result = BucketInfo {
            name: bucket.name.as_str().to_owned(),
            creation_date: bucket.created,
            extranet_endpoint: endpoint.clone(),
            intranet_endpoint: endpoint,
            region: cx.shared.settings.region.clone(),
            storage_class: bucket.storage_class,
            redundancy: bucket.redundancy,
            owner: cx.owner(bucket.owner),
            acl: bucket.acl,
            resource_group_id: Some(bucket.resource_group.clone()).filter(|g| !g.is_empty()),
            versioning: match bucket.versioning {
                Versioning::Unset => None,
                Versioning::Enabled => Some("Enabled"),
                Versioning::Suspended => Some("Suspended"),
            },
            // None of these can be switched on yet.
            encryption: None,
            access_monitor: false,
            hierarchical_namespace: bucket.hierarchical,
            transfer_acceleration: false,
            cross_region_replication: false,
            block_public_access: false,
            logging: None,
        };
        Ok(Output::xml(result.to_xml()))
    }
}
