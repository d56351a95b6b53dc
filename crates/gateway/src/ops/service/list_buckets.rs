//! ListBuckets: the caller's buckets, by name.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::listing::ListBucketsParams;
use granary_oss::xml::{BucketSummary, ListAllMyBucketsResult};

use crate::buckets::Bucket;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, BucketUse, Operation};
use crate::render::Output;

/// Filters by tag, which buckets do not have yet: an unfiltered list would be a wrong answer.
const UNBUILT: &[&str] = &["tag-key", "tag-value", "tagging"];

/// The input.
#[derive(Debug)]
pub(crate) struct ListBuckets {
    params: ListBucketsParams,
    resource_group: Option<String>,
}

impl Operation for ListBuckets {
    const BODY: BodyKind = BodyKind::None;
    const BUCKET: BucketUse = BucketUse::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        head.refuse(UNBUILT)?;
        Ok(Self {
            params: ListBucketsParams::parse(&head.query)?,
            resource_group: head.text("x-oss-resource-group-id"),
        })
    }

    fn subject(&self) -> Subject {
        Subject::Service
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self {
            params,
            resource_group,
        } = self;
        let account = cx.account();
        let query = pb::ListBuckets {
            owner: account.0,
            prefix: params.prefix.clone(),
            marker: params.marker.clone(),
            limit: params.max_keys,
        };
        let page = cx
            .shared
            .meta
            .query(query)
            .await
            .map_err(failure::of_meta)?;
        let endpoint = cx.advertised_endpoint();
        let in_group = |bucket: &Bucket| {
            resource_group
                .as_ref()
                .is_none_or(|g| *g == bucket.resource_group)
        };
        let buckets = page
            .buckets
            .iter()
            .filter_map(|record| Bucket::from_record(record, &[]))
            .filter(in_group)
            .map(|bucket| summary(bucket, &endpoint, &cx.shared.settings.region))
            .collect();
        let result = ListAllMyBucketsResult {
            prefix: params.prefix,
            marker: params.marker,
            max_keys: params.max_keys,
            is_truncated: page.more,
            next_marker: page.more.then_some(page.next_marker),
            owner: cx.owner(account),
            buckets,
        };
        Ok(Output::xml(result.to_xml()))
    }
}

fn summary(bucket: Bucket, endpoint: &str, region: &str) -> BucketSummary {
    BucketSummary {
        name: bucket.name.as_str().to_owned(),
        creation_date: bucket.created,
        extranet_endpoint: endpoint.to_owned(),
        intranet_endpoint: endpoint.to_owned(),
        region: region.to_owned(),
        storage_class: bucket.storage_class,
        hierarchical_namespace: bucket.hierarchical,
        resource_group_id: Some(bucket.resource_group).filter(|group| !group.is_empty()),
    }
}
