//! Requests whose input is a form: the fields that come before the file say who asks and for what,
//! and the file is the body.
//!
//! Signatures in the head or the query are not looked at, as in OSS: a form is signed by its policy.
//! Memory for the fields is taken as it is needed, from a budget that all forms share.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use granary_datapath::BodyError;
use granary_oss::OssError;
use granary_oss::form::{Form, FormError, FormEvent, FormParser};
use granary_oss::header::content_md5;
use granary_oss::sign::post_policy::PostSignature;
use granary_types::limits::FORM_PADDING_BYTES_MAX;
use http::header::CONTENT_TYPE;
use md5::{Digest as _, Md5};

use crate::authn::Identity;
use crate::body::{self, RequestBody, check_md5};
use crate::ctx::Ctx;
use crate::head::Head;
use crate::ops::object::body_limits;

/// Memory is taken in steps of this many bytes: the fields of an ordinary form need one.
pub(crate) const MEMORY_STEP_BYTES: usize = 16 * 1024;

/// The fields of a form, once its policy is known to allow them.
#[derive(Clone, Debug)]
pub(crate) struct SignedForm {
    pub(crate) form: Form,
    /// The least and the most bytes the file may have.
    pub(crate) length: (u64, u64),
}

/// The rest of a form: a stream of the file's bytes that ends where the form does.
pub(crate) struct FormBody<'a> {
    body: &'a mut RequestBody,
    parser: FormParser,
    /// What `Content-MD5` says of the whole body, and what came so far.
    declared_md5: Option<[u8; 16]>,
    md5: Md5,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The form goes on.
    Form,
    /// Bytes after the form, which count for the digest only.
    Epilogue(usize),
    /// The end, or an error.
    Over,
}

impl<'a> FormBody<'a> {
    /// Looks at the head; the body is not asked for yet.
    ///
    /// # Errors
    /// RequestIsNotMultiPartContent when the body is no form; MalformedPOSTRequest when it has no legal
    /// boundary; MissingContentLength; EntityTooLarge; InvalidDigest.
    pub(crate) fn new(head: &Head, body: &'a mut RequestBody) -> Result<Self, OssError> {
        body_limits(head)?;
        let content_type = head.headers.get(CONTENT_TYPE);
        let content_type = content_type.map(|value| value.as_bytes());
        Ok(Self {
            parser: FormParser::new(content_type.unwrap_or_default()).map_err(FormError::to_oss)?,
            declared_md5: content_md5(&head.headers)?,
            md5: Md5::new(),
            body,
            state: State::Form,
        })
    }

    /// Reads the fields up to the file. `reserve` takes memory for so many bytes more.
    ///
    /// # Errors
    /// What is wrong with the form; IncorrectNumberOfFilesInPOSTRequest when it has no file;
    /// RequestTimeout.
    pub(crate) async fn read_fields(
        &mut self,
        mut reserve: impl FnMut(usize) -> Result<(), OssError>,
    ) -> Result<Form, OssError> {
        let mut form = Form::default();
        let mut reserved = 0;
        loop {
            match self.parser.next_event().map_err(FormError::to_oss)? {
                Some(FormEvent::Field { name, value }) => form.add(&name, value),
                Some(FormEvent::File(file)) => {
                    form.set_file(file);
                    return Ok(form);
                }
                Some(FormEvent::End) => {
                    return Err(FormError::Files.to_oss());
                }
                Some(FormEvent::Data(_) | FormEvent::FileEnd) => {}
                None => {
                    let piece = self.body.next().await;
                    let piece = piece.ok_or_else(|| ends_early().to_oss())?;
                    self.take(&piece.map_err(|error| body::failure(&error))?);
                    while reserved < self.parser.held() {
                        reserve(MEMORY_STEP_BYTES)?;
                        reserved += MEMORY_STEP_BYTES;
                    }
                }
            }
        }
    }

    /// Takes the file no faster than that, in bits per second.
    pub(crate) fn pace(&mut self, limit: Option<u64>) {
        self.body.pace(limit);
    }

    /// Compares the whole body with `Content-MD5`, once it has been read.
    ///
    /// # Errors
    /// InvalidDigest.
    pub(crate) fn check_md5(&self) -> Result<(), OssError> {
        check_md5(self.declared_md5, || self.md5.clone().finalize().into())
    }

    fn take(&mut self, piece: &[u8]) {
        if self.declared_md5.is_some() {
            self.md5.update(piece);
        }
        self.parser.feed(piece);
    }

    /// The next bytes of the file that are at hand; `None` when it takes more of the body.
    fn file_bytes(&mut self) -> Result<Option<Bytes>, FormError> {
        loop {
            match self.parser.next_event()? {
                Some(FormEvent::Data(bytes)) => return Ok(Some(bytes)),
                Some(FormEvent::End) => {
                    // What follows is read for its digest only.
                    self.state = match self.declared_md5 {
                        Some(_) => State::Epilogue(0),
                        None => State::Over,
                    };
                    return Ok(None);
                }
                // Where the file ends. No field comes behind it that means anything.
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.state == State::Form
                && let Some(bytes) = self.file_bytes().map_err(BodyError::new)?
            {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.state == State::Over {
                return Poll::Ready(None);
            }
            match (ready!(self.body.poll_next_unpin(cx)), self.state) {
                (Some(piece), State::Epilogue(seen)) => {
                    let piece = piece?;
                    if seen + piece.len() > FORM_PADDING_BYTES_MAX {
                        let too_long = FormError::Malformed("there is too much behind its end");
                        return Poll::Ready(Some(Err(BodyError::new(too_long))));
                    }
                    self.state = State::Epilogue(seen + piece.len());
                    self.take(&piece);
                }
                (Some(piece), _) => self.take(&piece?),
                (None, State::Form) => {
                    return Poll::Ready(Some(Err(BodyError::new(ends_early()))));
                }
                (None, _) => return Poll::Ready(None),
            }
        }
    }
}

fn ends_early() -> FormError {
    FormError::Malformed("it ends before its last boundary")
}

impl Stream for FormBody<'_> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.poll_file(cx));
        if !matches!(piece, Some(Ok(_))) {
            self.state = State::Over;
        }
        Poll::Ready(piece)
    }
}

/// Who posts a form, and whether its policy allows that.
///
/// # Errors
/// The errors of the signature; InvalidPolicyDocument; AccessDenied when the policy has expired or a
/// condition does not hold.
pub(crate) async fn authenticate(
    cx: &Ctx,
    mut form: Form,
) -> Result<(Identity, SignedForm), OssError> {
    form.add_headers(&cx.head.headers);
    let Some(signature) = PostSignature::of(&form)? else {
        let length = (0, u64::MAX);
        return Ok((Identity::ANONYMOUS, SignedForm { form, length }));
    };
    let identity = cx
        .shared
        .authenticator
        .authenticate_form(&signature)
        .await?;
    let policy = signature.policy()?;
    let bucket = cx.bucket()?.name.clone();
    policy.check(&form, bucket.as_str(), cx.shared.runtime.now())?;
    let length = policy.length_range();
    Ok((identity, SignedForm { form, length }))
}
