//! PostObject: stores the file of a browser's form.
//!
//! Who asks is known by then: the form's policy says so, and was checked with the fields.

use granary_datapath::BodyLimits;
use granary_oss::callback::Callback;
use granary_oss::error::ec;
use granary_oss::form::{Success, redirect_target};
use granary_oss::header::{flag, traffic_limit};
use granary_oss::xml::PostResponse;
use granary_oss::{ErrorCode, OssError};
use granary_types::limits::PUT_BYTES_MAX;
use granary_types::{ETag, ObjectKey};
use http::{StatusCode, header};

use super::store::{NewObject, Stored};
use super::{Attributes, UNBUILT_IN_WRITES};
use crate::buckets::Versioning;
use crate::callback;
use crate::conditions::{self, CONDITIONS};
use crate::ctx::{Ctx, Subject};
use crate::head::{Head, not_implemented};
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

/// Fields that a form may have and that PutObject knows as headers, but which OSS does not take from
/// forms: an object without them is not what was asked for.
const NOT_IN_FORMS: [&str; 4] = [
    "x-oss-tagging",
    "x-oss-callback",
    "x-oss-callback-var",
    "callback-var",
];

/// The input.
#[derive(Debug)]
pub(crate) struct PostObject {
    key: ObjectKey,
    attributes: Attributes,
    forbid_overwrite: bool,
    success: Success,
    /// The least and the most bytes that the policy allows.
    length: (u64, u64),
    traffic_limit: Option<u64>,
    callback: Option<Callback>,
}

impl Operation for PostObject {
    const BODY: BodyKind = BodyKind::Form;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let signed = head.form.as_ref();
        let signed = signed
            .ok_or_else(|| OssError::new(ErrorCode::InternalError).source("no form was read"))?;
        let form = &signed.form;
        head.refuse(UNBUILT_IN_WRITES)?;
        let refused = UNBUILT_IN_WRITES.iter().chain(&NOT_IN_FORMS);
        let asked = |name: &&&str| form.field(&name.to_ascii_lowercase()).is_some();
        if let Some(name) = refused.into_iter().find(asked) {
            return Err(not_implemented(name));
        }
        let condition = CONDITIONS.iter().find(asked);
        if let Some(name) = condition {
            return Err(conditions::refused(name));
        }
        let headers = form.headers()?;
        Ok(Self {
            key: form.key()?,
            attributes: Attributes::from_headers(&headers)?,
            forbid_overwrite: flag(&headers, "x-oss-forbid-overwrite")?,
            success: form.success()?,
            length: signed.length,
            traffic_limit: traffic_limit(&headers, &head.query)?,
            callback: Callback::of_form(form, &head.headers, &head.query)?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, body: Body<'_>) -> Result<Output, OssError> {
        let unversioned = cx.bucket()?.versioning == Versioning::Unset;
        let object = NewObject {
            key: self.key.clone(),
            attributes: self.attributes,
            forbid_overwrite: self.forbid_overwrite && unversioned,
        };
        cx.shared.callbacks.check(self.callback.as_ref())?;
        object.refuse_early(cx).await?;
        let Body::Form(mut body) = body else {
            return Err(OssError::new(ErrorCode::InternalError).source("no form to read"));
        };
        body.pace(self.traffic_limit);
        let (least, most) = self.length;
        let limits = BodyLimits {
            // How long the file is only its end tells.
            declared_length: None,
            max_bytes: most.min(PUT_BYTES_MAX),
        };
        let written = object.write(cx, &mut body, limits).await;
        let written = written.map_err(|error| match error.code() {
            ErrorCode::EntityTooLarge => error.ec(ec::POST_TOO_LARGE),
            _ => error,
        })?;
        if written.size < least {
            return Err(OssError::new(ErrorCode::EntityTooSmall)
                .ec(ec::POST_TOO_SMALL)
                .extra("ProposedSize", written.size.to_string())
                .extra("MinSizeAllowed", least.to_string()));
        }
        body.check_md5()?;
        let stored = object.commit(cx, written).await?;
        let output = stored.describe(answer(cx, &self.key, &stored, &self.success)?);
        let upload = stored.upload("PostObject", &self.key);
        callback::finish(cx, self.callback, upload, output).await
    }
}

/// Tells the client that it worked, as it asked.
fn answer(
    cx: &Ctx,
    key: &ObjectKey,
    stored: &Stored,
    success: &Success,
) -> Result<Output, OssError> {
    let bucket = cx.bucket()?.name.as_str();
    let etag = ETag::from_md5(stored.md5);
    Ok(match success {
        Success::Redirect(url) => {
            let target = redirect_target(url, bucket, key.as_str(), &etag.quoted());
            Output::empty(StatusCode::SEE_OTHER).header(header::LOCATION, &target)
        }
        Success::Status(StatusCode::CREATED) => {
            let document = PostResponse {
                bucket: bucket.to_owned(),
                location: cx.object_url(bucket, key),
                key: key.as_str().to_owned(),
                etag,
            };
            let mut output = Output::xml(document.to_xml());
            output.status = StatusCode::CREATED;
            output
        }
        Success::Status(status) => Output::empty(*status),
    })
}

#[cfg(test)]
mod tests {
    use granary_oss::form::Form;

    use super::*;
    use crate::form::SignedForm;
    use crate::head::tests::head;

    fn parse(fields: &[(&str, &str)]) -> Result<PostObject, OssError> {
        let mut form = Form::default();
        form.add("key", "k".to_owned());
        for (name, value) in fields {
            form.add(name, (*value).to_owned());
        }
        let mut head = head("POST", "localhost", "/bucket", &[]);
        let length = (0, u64::MAX);
        head.form = Some(SignedForm { form, length });
        PostObject::parse(&head)
    }

    #[test]
    fn fields_are_attributes() {
        let post = parse(&[
            ("Cache-Control", "no-store"),
            ("x-oss-meta-a", "1"),
            ("x-oss-object-acl", "public-read"),
            ("X-OSS-Forbid-Overwrite", "true"),
            ("submit", "Upload"),
        ])
        .unwrap();
        assert_eq!(post.attributes.headers.len(), 1);
        assert_eq!(post.attributes.user_meta.len(), 1);
        assert!(post.attributes.acl.is_some() && post.forbid_overwrite);
    }

    #[test]
    fn nothing_is_silently_ignored() {
        let refused = UNBUILT_IN_WRITES.iter().chain(&NOT_IN_FORMS);
        for name in refused {
            let error = parse(&[(name, "1")]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::NotImplemented, "{name}");
            assert_eq!(error.extra_value("Header"), Some(*name));
        }
        for name in CONDITIONS {
            let error = parse(&[(name, "1")]).unwrap_err();
            assert_eq!(error.ec_text(), "0017-00000245", "{name}");
        }
        for (name, value, code) in [
            ("x-oss-storage-class", "Archive", ErrorCode::NotImplemented),
            ("x-oss-object-acl", "open", ErrorCode::InvalidArgument),
            (
                "x-oss-forbid-overwrite",
                "maybe",
                ErrorCode::InvalidArgument,
            ),
            ("x-oss-traffic-limit", "1", ErrorCode::InvalidArgument),
            (
                "success_action_redirect",
                "here",
                ErrorCode::InvalidArgument,
            ),
        ] {
            assert_eq!(parse(&[(name, value)]).unwrap_err().code(), code, "{name}");
        }
    }
}
