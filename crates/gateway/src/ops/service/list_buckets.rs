//! ListBuckets: the caller's buckets, by name. A page is full whatever the filters leave out, as long as
//! that costs one request no more than a bounded number of buckets to look at.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::listing::ListBucketsParams;
use granary_oss::xml::{BucketSummary, ListAllMyBucketsResult};
use granary_types::AccountId;
use granary_types::limits::LIST_PAGE_MAX;

use crate::buckets::Bucket;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, BucketUse, Operation};
use crate::render::Output;

/// Buckets that one request looks at: a page that is not full by then ends there, and names where the
/// next one begins.
const LOOKED_AT_MAX: usize = 10_000;

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
        Ok(Self {
            params: ListBucketsParams::parse(&head.query)?,
            resource_group: head.text("x-oss-resource-group-id"),
        })
    }

    fn subject(&self) -> Subject {
        Subject::Service
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let account = cx.account();
        let page = self.page(cx, account).await?;
        let endpoint = cx.advertised_endpoint();
        let region = &cx.shared.settings.region;
        let buckets = page.buckets.into_iter();
        let buckets = buckets.map(|bucket| summary(bucket, &endpoint, region));
        let result = ListAllMyBucketsResult {
            prefix: self.params.prefix,
            marker: self.params.marker,
            max_keys: self.params.max_keys,
            is_truncated: page.next_marker.is_some(),
            next_marker: page.next_marker,
            owner: cx.owner(account),
            buckets: buckets.collect(),
        };
        Ok(Output::xml(result.to_xml()))
    }
}

/// Buckets, and after which name the next page begins, if there is one.
struct Page {
    buckets: Vec<Bucket>,
    next_marker: Option<String>,
}

impl ListBuckets {
    async fn page(&self, cx: &Ctx, account: AccountId) -> Result<Page, OssError> {
        let params = &self.params;
        let wanted = usize::try_from(params.max_keys).unwrap_or(usize::MAX);
        let filtered = self.resource_group.is_some() || !params.tags.is_empty();
        let mut page = Page {
            buckets: Vec::new(),
            next_marker: None,
        };
        let (mut marker, mut looked_at) = (params.marker.clone(), 0);
        loop {
            let query = pb::ListBuckets {
                owner: account.0,
                prefix: params.prefix.clone(),
                marker,
                limit: match filtered {
                    true => LIST_PAGE_MAX,
                    false => params.max_keys,
                },
            };
            let found = cx.shared.meta.query(query).await;
            let found = found.map_err(failure::of_meta)?;
            looked_at += found.buckets.len();
            let buckets = found.buckets.iter();
            let buckets = buckets.filter_map(|record| Bucket::from_record(record, &[]));
            for bucket in buckets.filter(|bucket| self.matches(bucket)) {
                if page.buckets.len() == wanted {
                    // There is another one: the page ends with the last one it has.
                    let last = page.buckets.last();
                    page.next_marker = last.map(|bucket| bucket.name.as_str().to_owned());
                    return Ok(page);
                }
                page.buckets.push(bucket);
            }
            let done = !found.more || found.buckets.is_empty();
            let full = !filtered && page.buckets.len() >= wanted;
            if done || full || looked_at >= LOOKED_AT_MAX {
                page.next_marker = (!done).then_some(found.next_marker);
                return Ok(page);
            }
            marker = found.next_marker;
        }
    }

    fn matches(&self, bucket: &Bucket) -> bool {
        let in_group = self.resource_group.as_ref();
        let tagged = |(key, value): &(String, Option<String>)| {
            let mut tags = bucket.tags.iter();
            tags.any(|(name, is)| name == key && value.as_ref().is_none_or(|value| value == is))
        };
        in_group.is_none_or(|group| *group == bucket.resource_group)
            && self.params.tags.iter().all(tagged)
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
