//! OptionObject: a browser asks whether a script of another site may send a request.
//!
//! It carries no signature of its own: what is in its URL is for the request that follows. The
//! answer depends on the bucket's rules alone.

use granary_oss::{ErrorCode, OssError};
use http::StatusCode;

use crate::cors::granted;
use crate::ctx::{Ctx, Subject};
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;

const NOT_ALLOWED: &str = "CORSResponse: This CORS request is not allowed. This is usually because the evaluation of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.";

/// The input.
#[derive(Debug)]
pub(crate) struct OptionObject {
    origin: String,
    method: String,
    headers: String,
}

impl Operation for OptionObject {
    const BODY: BodyKind = BodyKind::None;
    const SIGNED: bool = false;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let text = |name| head.text(name).unwrap_or_default();
        Ok(Self {
            origin: text("origin"),
            method: text("access-control-request-method"),
            headers: text("access-control-request-headers"),
        })
    }

    fn subject(&self) -> Subject {
        Subject::Bucket
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        for (asked, name) in [
            (&self.origin, "Origin request header"),
            (&self.method, "Access-Control-Request-Method header"),
        ] {
            if asked.is_empty() {
                let message = format!("Insufficient information. {name} needed.");
                return Err(OssError::new(ErrorCode::BadRequest).message(message));
            }
        }
        let forbidden = || OssError::new(ErrorCode::AccessForbidden);
        let rules = cx.bucket()?.cors.as_ref().ok_or_else(forbidden)?;
        let grant = rules
            .grant(&self.origin, &self.method, &self.headers)
            .ok_or_else(|| forbidden().message(NOT_ALLOWED))?;
        let mut output = Output::empty(StatusCode::OK);
        output.headers = granted(&grant);
        Ok(output)
    }
}
