//! How versions are named to clients: the literal `null`, or 64 hexadecimal digits of the stamp.
//!
//! Clients treat the id as opaque; the length is the one that official tests expect.

use granary_meta_api::pb;
use granary_oss::OssError;
use granary_oss::error::ec;

const DIGITS: usize = 64;

/// Which version of a key a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum VersionRef {
    /// The current one.
    Current,
    /// The one that was written while versioning was not enabled.
    Null,
    /// The one with this stamp.
    Stamp(u64),
}

impl VersionRef {
    /// Reads an id as a client spells it; without one the current version is meant.
    ///
    /// # Errors
    /// InvalidArgument for an empty id and for one that is none of ours.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, OssError> {
        match text {
            None => Ok(Self::Current),
            Some("null") => Ok(Self::Null),
            // Whoever sends it wanted to name a version: a deletion would hit the current one.
            Some("") => Err(invalid("").ec(ec::VERSION_ID_EMPTY)),
            Some(id) if id.len() == DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
                let stamp = u64::from_str_radix(id.trim_start_matches('0'), 16);
                stamp.map(Self::Stamp).map_err(|_| invalid(id))
            }
            Some(other) => Err(invalid(other)),
        }
    }

    /// The stamp that a command or a query carries; 0 for none.
    pub(crate) fn stamp(self) -> u64 {
        match self {
            Self::Stamp(stamp) => stamp,
            Self::Current | Self::Null => 0,
        }
    }

    /// Whether the null version is meant.
    pub(crate) fn is_null(self) -> bool {
        self == Self::Null
    }
}

/// The id of a version, as answers show it.
pub(crate) fn of(version: &pb::state::Version) -> String {
    if version.is_null {
        "null".to_owned()
    } else {
        of_stamp(version.stamp)
    }
}

/// The id of the version with a stamp.
pub(crate) fn of_stamp(stamp: u64) -> String {
    format!("{stamp:0width$X}", width = DIGITS)
}

fn invalid(text: &str) -> OssError {
    OssError::invalid_argument("Invalid version id specified.", "versionId", text)
        .ec(ec::VERSION_ID_INVALID)
}

#[cfg(test)]
mod tests {
    use granary_oss::ErrorCode;

    use super::*;

    #[test]
    fn ids_are_read_back() {
        for stamp in [1, 0xABCD, u64::MAX] {
            let id = of_stamp(stamp);
            assert_eq!(id.len(), 64);
            assert_eq!(
                VersionRef::parse(Some(&id)).unwrap(),
                VersionRef::Stamp(stamp)
            );
        }
        assert_eq!(VersionRef::parse(Some("null")).unwrap(), VersionRef::Null);
        assert_eq!(VersionRef::parse(None).unwrap(), VersionRef::Current);
        for (bad, ec) in [
            ("", "0012-00000201"),
            ("x", "0012-00000202"),
            ("12", "0012-00000202"),
            (&"0".repeat(64), "0012-00000202"),
            (&"F".repeat(64), "0012-00000202"),
            (&"é".repeat(32), "0012-00000202"),
        ] {
            let error = VersionRef::parse(Some(bad)).unwrap_err();
            assert_eq!(
                (error.code(), error.ec_text()),
                (ErrorCode::InvalidArgument, ec),
                "{bad}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn an_id_that_is_read_is_the_one_that_is_shown(text in "0{40,64}[0-9a-fA-F]{0,24}|.{0,70}") {
            if let Ok(VersionRef::Stamp(stamp)) = VersionRef::parse(Some(&text)) {
                proptest::prop_assert_eq!(of_stamp(stamp), text.to_ascii_uppercase());
            }
        }
    }
}
