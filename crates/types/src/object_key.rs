//! Object names: 1 to 1023 bytes of UTF-8 that do not start with `/` or `\` (OSS API reference).

use std::fmt;

use crate::limits::OBJECT_KEY_BYTES_MAX;

/// An object name that obeys the OSS naming rules. Compared byte by byte, as listings are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// The bytes are not a legal object name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the specified object is not valid")]
pub struct InvalidObjectKey;

impl ObjectKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as bytes, the form the metadata orders by.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The key as owned text.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl TryFrom<&str> for ObjectKey {
    type Error = InvalidObjectKey;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let fits = !text.is_empty() && text.len() <= OBJECT_KEY_BYTES_MAX;
        if fits && !text.starts_with('/') && !text.starts_with('\\') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidObjectKey)
        }
    }
}

impl TryFrom<&[u8]> for ObjectKey {
    type Error = InvalidObjectKey;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        std::str::from_utf8(bytes)
            .map_err(|_| InvalidObjectKey)?
            .try_into()
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_naming_rules() {
        for good in ["a", "a/b", "a//b", "..", "\u{1}", "中文", &"k".repeat(1023)] {
            assert!(ObjectKey::try_from(good).is_ok(), "{good:?}");
        }
        for bad in ["", "/a", "\\a", &"k".repeat(1024)] {
            assert!(ObjectKey::try_from(bad).is_err(), "{bad:?}");
        }
        assert!(ObjectKey::try_from(&b"\xff"[..]).is_err());
    }
}
