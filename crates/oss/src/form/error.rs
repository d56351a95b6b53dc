//! What can be wrong with a form, and how a client is told.

use std::fmt;

use crate::error::OssError;
use crate::error_code::ErrorCode;

/// What is wrong with a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// `Content-Type` is not `multipart/form-data`.
    ContentType,
    /// Not what RFC 7578 describes; the text says what.
    Malformed(&'static str),
    /// A field, or all together, are longer than allowed; the text says which.
    TooLong(&'static str),
    /// A part is encoded (`Content-Transfer-Encoding`): its bytes would be stored as they were coded.
    Encoded,
    /// A second file.
    Files,
}

impl FormError {
    /// The answer to the client.
    pub fn to_oss(self) -> OssError {
        let message = self.to_string();
        let error = match self {
            Self::ContentType => return OssError::new(ErrorCode::RequestIsNotMultiPartContent),
            Self::Malformed(_) => ErrorCode::MalformedPOSTRequest,
            Self::TooLong(_) => ErrorCode::FieldItemTooLong,
            Self::Encoded => {
                return OssError::new(ErrorCode::NotImplemented)
                    .extra("Header", "Content-Transfer-Encoding");
            }
            Self::Files => return OssError::new(ErrorCode::IncorrectNumberOfFilesInPOSTRequest),
        };
        OssError::new(error).message(message)
    }
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MALFORMED: &str =
            "The body of your POST request is not well-formed multipart/form-data";
        match self {
            Self::ContentType => f.write_str("the Content-Type is not multipart/form-data"),
            Self::Malformed(what) => write!(f, "{MALFORMED}: {what}."),
            Self::TooLong(what) => write!(f, "Your form field item is too long: {what}."),
            Self::Encoded => f.write_str("a part of the form has a Content-Transfer-Encoding"),
            Self::Files => f.write_str("the form has more than one file"),
        }
    }
}

impl std::error::Error for FormError {}
