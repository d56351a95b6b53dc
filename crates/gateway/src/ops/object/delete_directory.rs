//! DeleteDirectory: deletes an empty directory, or a bounded number of what is in it and below it; the
//! answer has a token to go on with while something is left.
//!
//! What is deleted with its directory is not asked for an ACL of its own, so that only the bucket's
//! owner may delete more than an empty directory.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::xml::DeleteDirectoryResult;
use granary_types::ObjectKey;

use crate::authz::authorise_owner;
use crate::ctx::{Ctx, Subject};
use crate::failure;
use crate::head::Head;
use crate::ops::{Body, BodyKind, Operation};
use crate::render::Output;
use crate::version_id::VersionRef;

const RECURSIVE: &str = "x-oss-delete-recursive";
const TOKEN: &str = "x-oss-delete-token";
/// What the name in a token is the name of.
const OBJECTS: &str = "o";
const DIRECTORIES: &str = "d";

/// The input.
#[derive(Debug)]
pub(crate) struct DeleteDirectory {
    key: ObjectKey,
    recursive: bool,
    from: Option<pb::DirectoryCursor>,
}

impl Operation for DeleteDirectory {
    const BODY: BodyKind = BodyKind::None;

    fn parse(head: &Head) -> Result<Self, OssError> {
        let recursive = match head.text(RECURSIVE).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(OssError::invalid_argument(
                    "It is either true or false.",
                    RECURSIVE,
                    other,
                ));
            }
        };
        let from = head.text(TOKEN).filter(|_| recursive);
        Ok(Self {
            key: head.object_key()?,
            recursive,
            from: from.map(|token| cursor(&token)).transpose()?,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Object(self.key.clone(), VersionRef::Current)
    }

    async fn handle(self, cx: &mut Ctx, _: Body<'_>) -> Result<Output, OssError> {
        let Self {
            key,
            recursive,
            from,
        } = self;
        if recursive {
            authorise_owner(cx)?;
        }
        // Not in another bucket of the same name: that one may have another owner.
        let decision = cx
            .propose_at(&key, !recursive, |at| pb::DeleteDirectory {
                at: Some(at),
                recursive,
                from: from.clone(),
            })
            .await?;
        let reply = decision.map_err(|no| failure::of_rejection(&no).extra("Key", key.as_str()))?;
        let result = DeleteDirectoryResult {
            directory_name: key.into_string(),
            delete_number: reply.entries,
            next_delete_token: reply.next.as_ref().map(token),
        };
        Ok(Output::xml(result.to_xml()))
    }
}

/// A cursor as clients carry it: `target.directory.o|d.name`.
fn token(cursor: &pb::DirectoryCursor) -> String {
    let stage = if cursor.in_directories {
        DIRECTORIES
    } else {
        OBJECTS
    };
    let name = URL_SAFE_NO_PAD.encode(&cursor.after);
    format!("{:x}.{:x}.{stage}.{name}", cursor.target, cursor.directory)
}

fn cursor(text: &str) -> Result<pb::DirectoryCursor, OssError> {
    read(text)
        .filter(|cursor| token(cursor) == text)
        .ok_or_else(|| OssError::invalid_argument("It is no token of an answer.", TOKEN, text))
}

fn read(token: &str) -> Option<pb::DirectoryCursor> {
    let mut fields = token.split('.');
    let mut id = || u64::from_str_radix(fields.next()?, 16).ok();
    let (target, directory) = (id()?, id()?);
    let in_directories = match fields.next()? {
        OBJECTS => false,
        DIRECTORIES => true,
        _ => return None,
    };
    let after = URL_SAFE_NO_PAD.decode(fields.next()?).ok()?.into();
    fields.next().is_none().then_some(pb::DirectoryCursor {
        target,
        directory,
        after,
        in_directories,
    })
}

#[cfg(test)]
mod tests {
    use granary_oss::ErrorCode;

    use super::*;
    use crate::head::tests::head;

    #[test]
    fn tokens_come_back_as_they_went() {
        let at = pb::DirectoryCursor {
            target: 7,
            directory: 9,
            after: bytes::Bytes::from_static(b"a\xff"),
            in_directories: true,
        };
        assert_eq!(cursor(&token(&at)).unwrap(), at);
        let target = "/bucket/dir?x-oss-delete";
        for (name, value) in [
            (RECURSIVE, "yes"),
            (TOKEN, "?"),
            (TOKEN, "7.9.x."),
            (TOKEN, "+7.9.d."),
            (TOKEN, "07.9.d."),
            (TOKEN, "A.9.d."),
            (TOKEN, "7.9.d.."),
        ] {
            let headers = [(RECURSIVE, "true"), (name, value)];
            let headers = if name == RECURSIVE {
                &headers[1..]
            } else {
                &headers[..]
            };
            let error = DeleteDirectory::parse(&head("POST", "localhost", target, headers));
            assert_eq!(
                error.unwrap_err().code(),
                ErrorCode::InvalidArgument,
                "{value}"
            );
        }
    }
}
