//! ListObjectsV2: keys in order, with continuation tokens and a count.

use granary_oss::OssError;
use granary_oss::listing::{ListObjectsV2Params, encode_continuation_token};
use granary_oss::xml::ListBucketResultV2;

use super::page::{self, Wanted};
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct ListObjectsV2 {
    params: ListObjectsV2Params,
}

impl Operation for ListObjectsV2 {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            params: ListObjectsV2Params::parse(&head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let params = self.params;
        let wanted = Wanted {
            prefix: &params.prefix,
            delimiter: &params.delimiter,
            marker: &params.marker,
            limit: params.max_keys,
            with_owner: params.fetch_owner,
        };
        let page = page::read(cx, wanted).await?;
        let result = ListBucketResultV2 {
            name: cx.bucket()?.name.as_str().to_owned(),
            prefix: params.prefix,
            start_after: params.start_after,
            max_keys: params.max_keys,
            delimiter: params.delimiter,
            encoding: params.encoding,
            is_truncated: page.next.is_some(),
            continuation_token: params.continuation_token,
            next_continuation_token: page.next.as_deref().map(encode_continuation_token),
            contents: page.objects,
            common_prefixes: page.common_prefixes,
        };
        Ok(Output::xml(result.to_xml()))
    }
}
