//! Entity tags: upper-case hexadecimal MD5, for multipart objects followed by `-` and the part count.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An entity tag without its quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ETag(String);

impl ETag {
    /// The tag of an object written in one piece: the MD5 of its bytes.
    pub fn from_md5(digest: [u8; 16]) -> Self {
        Self(hex::encode_upper(digest))
    }

    /// The tag of a multipart object: `digest` is the MD5 of the concatenated part tags.
    pub fn from_multipart(digest: [u8; 16], parts: usize) -> Self {
        Self(format!("{}-{parts}", hex::encode_upper(digest)))
    }

    /// A tag as a client or a record spells it; quotes are dropped, the case is kept.
    pub fn parse(text: &str) -> Self {
        Self(text.trim().trim_matches('"').to_owned())
    }

    /// The tag without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag as headers and XML carry it; nothing of what has none.
    pub fn quoted(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        ["\"", &self.0, "\""].concat()
    }

    /// Equality as clients expect it: hexadecimal digits compare without case.
    pub fn matches(&self, other: &ETag) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_tags_as_oss_does() {
        assert_eq!(
            ETag::from_md5([0xab; 16]).quoted(),
            format!("\"{}\"", "AB".repeat(16))
        );
        assert_eq!(
            ETag::from_multipart([1; 16], 3).as_str(),
            format!("{}-3", "01".repeat(16))
        );
        assert!(ETag::parse("\"ab\"").matches(&ETag::parse("AB")));
    }
}
