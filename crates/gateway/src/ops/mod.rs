//! The operations: one file each, one row each in [`table`].
//!
//! An operation parses its input purely, says what it is about, and then tells its story in
//! `handle`. It must not write to a socket, check a signature or count anything: `pipeline.rs` does.

pub(crate) mod bucket;
pub(crate) mod multipart;
pub(crate) mod object;
pub(crate) mod service;
pub(crate) mod table;

use std::future::Future;

use bytes::Bytes;
use granary_oss::OssError;

use crate::body::RequestBody;
use crate::ctx::{Ctx, Subject};
use crate::form::FormBody;
use crate::head::Head;
use crate::render::Output;

/// What an operation takes as a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// None; one that is sent is ignored.
    None,
    /// A document, read whole before the operation begins.
    Buffered {
        /// Longest document, in bytes.
        max_bytes: usize,
    },
    /// Bytes of an object.
    Stream,
    /// A form (`multipart/form-data`): its fields, which come first, are part of the head and say who
    /// asks; the file is bytes of an object.
    Form,
}

/// A body as the operation gets it.
pub(crate) enum Body<'a> {
    /// The operation takes none.
    None,
    /// The document.
    Whole(Bytes),
    /// The bytes, not yet asked for.
    Stream(&'a mut RequestBody),
    /// The file of a form, not yet asked for.
    Form(Box<FormBody<'a>>),
}

/// What an operation needs to know of the bucket before the signature is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketUse {
    /// The bucket must exist.
    Required,
    /// The bucket must exist if one is addressed.
    IfNamed,
    /// The operation is not about an existing bucket.
    None,
}

/// One operation of the API.
pub(crate) trait Operation: Sized + Send + 'static {
    /// What it takes as a body.
    const BODY: BodyKind;
    /// What it needs to know of the bucket.
    const BUCKET: BucketUse = BucketUse::Required;
    /// Whether it asks who the caller is and what they may do.
    const SIGNED: bool = true;
    /// Which plain conditions mean nothing to it, if it changes something; the others are refused.
    const IGNORED_CONDITIONS: &'static [&'static str] = &[];

    /// Reads the input from the head. Pure.
    ///
    /// # Errors
    /// What is wrong with the input.
    fn parse(head: &Head) -> Result<Self, OssError>;

    /// What the request is about.
    fn subject(&self) -> Subject;

    /// Does it.
    ///
    /// # Errors
    /// Why it was not done.
    fn handle(
        self,
        cx: &mut Ctx,
        body: Body<'_>,
    ) -> impl Future<Output = Result<Output, OssError>> + Send;
}
