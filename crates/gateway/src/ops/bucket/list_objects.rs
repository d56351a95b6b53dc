//! ListObjects (version 1): keys in order, with markers.

use granary_oss::OssError;
use granary_oss::listing::ListObjectsParams;
use granary_oss::xml::ListBucketResult;

use super::page::{self, Wanted};
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct ListObjects {
    params: ListObjectsParams,
}

impl Operation for ListObjects {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        Ok(Self {
            params: ListObjectsParams::parse(&head.query)?,
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
            with_owner: true,
        };
        let page = page::read(cx, wanted).await?;
        let result = ListBucketResult {
            name: cx.bucket()?.name.as_str().to_owned(),
            prefix: params.prefix,
            marker: params.marker,
            max_keys: params.max_keys,
            delimiter: params.delimiter,
            encoding: params.encoding,
            is_truncated: page.next.is_some(),
            next_marker: page.next,
            contents: page.objects,
            common_prefixes: page.common_prefixes,
        };
        Ok(Output::xml(result.to_xml()))
    }
}
