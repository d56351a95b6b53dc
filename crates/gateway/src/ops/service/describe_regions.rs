//! DescribeRegions: the one region that this installation is.

use granary_oss::xml::RegionInfoList;
use granary_oss::{ErrorCode, OssError};

use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, BucketUse, Operation};
use crate::render::Output;

/// The input.
#[derive(Debug)]
pub(crate) struct DescribeRegions {
    /// The region asked for, as documents spell it; empty for all.
    wanted: String,
}

impl Operation for DescribeRegions {
    const BODY: BodyKind = BodyKind::None;
    const BUCKET: BucketUse = BucketUse::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let wanted = head.query.get("regions").unwrap_or_default().to_owned();
        Ok(Self { wanted })
    }

    fn subject(&self) -> Subject {
        Subject::Service
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let region = cx.shared.settings.region.clone();
        if !self.wanted.is_empty() && self.wanted.strip_prefix("oss-") != Some(&region) {
            return Err(OssError::new(ErrorCode::NoSuchRegion).extra("Region", self.wanted));
        }
        let endpoint = cx.advertised_endpoint();
        Ok(Output::xml(RegionInfoList { region, endpoint }.to_xml()))
    }
}
