//! The names of workloads: what is asked of the store, in which shares, with objects of which size.

use std::fmt;
use std::str::FromStr;

use granary_types::limits::{LIST_PAGE_MAX, PUT_BYTES_MAX};
use serde::{Serialize, Serializer};

/// Bytes of the objects of workloads whose name has no size.
const SIZE_BYTES_DEFAULT: u64 = 4 * 1024;
/// What `mixed` means.
const MIXED: [(Operation, u64); 3] = [
    (Operation::Get, 70),
    (Operation::Put, 20),
    (Operation::Head, 10),
];

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// GetObject.
    Get,
    /// PutObject.
    Put,
    /// HeadObject.
    Head,
    /// DeleteObject.
    Delete,
    /// ListObjectsV2.
    List,
}

impl Operation {
    const ALL: [Self; 5] = [Self::Get, Self::Put, Self::Head, Self::Delete, Self::List];

    /// As names of workloads spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }

    /// Whether its answers or requests carry bytes worth counting.
    pub(crate) fn moves_bytes(self) -> bool {
        matches!(self, Self::Get | Self::Put | Self::List)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What one run of requests does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// As the user spelled it, in lower case.
    pub(crate) name: String,
    /// Per cent of the requests by kind; together 100.
    pub(crate) shares: Vec<(Operation, u64)>,
    /// Bytes of every object.
    pub(crate) size_bytes: u64,
    /// Keys that a listing is asked for.
    pub(crate) page: u64,
}

/// Why a name is none of a workload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    #[error(
        "it is none of put-SIZE, get-SIZE, head, delete, list-KEYS, mixed-SIZE and get70+put20+head10-SIZE"
    )]
    Unknown,
    #[error("it needs a size, as in {0}-4k")]
    NoSize(String),
    #[error("a size is a number of bytes, KiB (k), MiB (m) or GiB (g), from 1 to 5g")]
    Size,
    #[error("it needs a number of keys from 1 to 1000, as in list-1000")]
    Page,
    #[error(
        "the shares of a mix are per cent of get, put and head, each at most once, and together 100"
    )]
    Shares,
}

impl Workload {
    /// Whether requests of this kind are among its own.
    pub(crate) fn has(&self, operation: Operation) -> bool {
        self.shares.iter().any(|(own, _)| *own == operation)
    }

    /// Whether it reads objects that must be there before: all but the written and the deleted ones.
    pub(crate) fn reads(&self) -> bool {
        [Operation::Get, Operation::Head, Operation::List]
            .into_iter()
            .any(|operation| self.has(operation))
    }

    /// The kind of request that a number below 100 stands for.
    pub(crate) fn pick(&self, percent: u64) -> Operation {
        let mut left = percent;
        for (operation, share) in &self.shares {
            if left < *share {
                return *operation;
            }
            left -= share;
        }
        self.shares.last().map_or(Operation::Get, |(last, _)| *last)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Workload {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.to_ascii_lowercase();
        let (what, size) = match name.split_once('-') {
            Some((what, size)) => (what, Some(size)),
            None => (name.as_str(), None),
        };
        let shares = match (what, Operation::named(what)) {
            ("mixed", _) => MIXED.to_vec(),
            (_, Some(operation)) => vec![(operation, 100)],
            _ => mix(what)?,
        };
        let only = |operation| shares == [(operation, 100)];
        let mut page = u64::from(LIST_PAGE_MAX);
        let size_bytes = if only(Operation::List) {
            page = size.and_then(number).ok_or(NameError::Page)?;
            if !(1..=u64::from(LIST_PAGE_MAX)).contains(&page) {
                return Err(NameError::Page);
            }
            SIZE_BYTES_DEFAULT
        } else if let Some(size) = size {
            bytes(size).ok_or(NameError::Size)?
        } else if only(Operation::Head) || only(Operation::Delete) {
            SIZE_BYTES_DEFAULT
        } else {
            return Err(NameError::NoSize(name));
        };
        Ok(Self {
            name,
            shares,
            size_bytes,
            page,
        })
    }
}

/// `get70+put20+head10`.
fn mix(text: &str) -> Result<Vec<(Operation, u64)>, NameError> {
    let mut shares: Vec<(Operation, u64)> = Vec::new();
    for part in text.split('+') {
        let digits = part.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let name = part.strip_suffix(digits).unwrap_or_default();
        let operation = Operation::named(name).ok_or(NameError::Unknown)?;
        let share = number(digits).ok_or(NameError::Shares)?;
        let fits = matches!(operation, Operation::Get | Operation::Put | Operation::Head)
            && (1..=100).contains(&share)
            && shares.iter().all(|(other, _)| *other != operation);
        if !fits {
            return Err(NameError::Shares);
        }
        shares.push((operation, share));
    }
    match shares.iter().map(|(_, share)| share).sum::<u64>() {
        100 => Ok(shares),
        _ => Err(NameError::Shares),
    }
}

/// `300`, `4k`, `1m`, `2g`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['k', 'm', 'g']);
    let unit = match text.strip_prefix(digits)? {
        "" => 1,
        "k" => 1024,
        "m" => 1024 * 1024,
        "g" => 1024 * 1024 * 1024,
        _ => return None,
    };
    let bytes = number(digits)?.checked_mul(unit)?;
    (1..=PUT_BYTES_MAX).contains(&bytes).then_some(bytes)
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_asked_how_often_and_of_which_size() {
        use Operation::{Delete, Get, Head, List, Put};
        for (text, shares, size_bytes, page) in [
            ("put-4k", &[(Put, 100)][..], 4096, 1000),
            ("GET-16M", &[(Get, 100)], 16 << 20, 1000),
            ("get-1g", &[(Get, 100)], 1 << 30, 1000),
            ("put-300", &[(Put, 100)], 300, 1000),
            ("put-5g", &[(Put, 100)], 5 << 30, 1000),
            ("head", &[(Head, 100)], 4096, 1000),
            ("head-1m", &[(Head, 100)], 1 << 20, 1000),
            ("delete", &[(Delete, 100)], 4096, 1000),
            ("list-1000", &[(List, 100)], 4096, 1000),
            ("list-7", &[(List, 100)], 4096, 7),
            (
                "mixed-64k",
                &[(Get, 70), (Put, 20), (Head, 10)],
                65536,
                1000,
            ),
            ("put50+get50-1k", &[(Put, 50), (Get, 50)], 1024, 1000),
            ("head100", &[(Head, 100)], 4096, 1000),
        ] {
            let expected = Workload {
                name: text.to_ascii_lowercase(),
                shares: shares.to_vec(),
                size_bytes,
                page,
            };
            let read: Workload = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_workload_is_refused_with_what_would_be_one() {
        for (text, word) in [
            ("", "none of"),
            ("post-4k", "none of"),
            ("put", "put-4k"),
            ("mixed", "mixed-4k"),
            ("get-", "from 1 to 5g"),
            ("get-0", "from 1 to 5g"),
            ("get-6g", "from 1 to 5g"),
            ("get-4kk", "from 1 to 5g"),
            ("get-4x", "from 1 to 5g"),
            ("get--4", "from 1 to 5g"),
            ("get-99999999999999999999", "from 1 to 5g"),
            ("get-18446744073709551615g", "from 1 to 5g"),
            ("list", "list-1000"),
            ("list-0", "list-1000"),
            ("list-1001", "list-1000"),
            ("list-1k", "list-1000"),
            ("get70+put20-4k", "together 100"),
            ("get50+get50-4k", "at most once"),
            ("get50+delete50-4k", "get, put and head"),
            ("get+put-4k", "per cent"),
            ("get0+put100-4k", "per cent"),
            ("get50+sing50-4k", "none of"),
        ] {
            let error = text.parse::<Workload>().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_mix_keeps_its_shares() {
        let workload: Workload = "mixed-4k".parse().unwrap();
        let count = |operation| (0..100).filter(|n| workload.pick(*n) == operation).count();
        assert_eq!(
            [Operation::Get, Operation::Put, Operation::Head].map(count),
            [70, 20, 10]
        );
        assert!(workload.reads() && workload.has(Operation::Put));
        assert!(!workload.has(Operation::Delete));
    }
}
