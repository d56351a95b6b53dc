//! Bucket names: 3 to 63 bytes of `[a-z0-9-]`, neither first nor last a hyphen (OSS API reference, PutBucket).

use std::fmt;

use crate::limits::{BUCKET_NAME_BYTES_MAX, BUCKET_NAME_BYTES_MIN};

/// A bucket name that obeys the OSS naming rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(String);

/// The text is not a legal bucket name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the specified bucket is not valid")]
pub struct InvalidBucketName;

impl BucketName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for BucketName {
    type Error = InvalidBucketName;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let bytes = text.as_bytes();
        let length_fits = (BUCKET_NAME_BYTES_MIN..=BUCKET_NAME_BYTES_MAX).contains(&bytes.len());
        let alphabet_fits = bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if length_fits
            && alphabet_fits
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidBucketName)
        }
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_naming_rules() {
        for good in ["abc", "a-b", "0bucket", &"a".repeat(63)] {
            assert!(BucketName::try_from(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ab",
            "-abc",
            "abc-",
            "Abc",
            "a_b",
            "a.b",
            &"a".repeat(64),
            "bücket",
        ] {
            assert!(BucketName::try_from(bad).is_err(), "{bad}");
        }
    }
}
