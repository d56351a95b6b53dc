//! A resolved, half-open interval of an object's bytes.

/// Bytes `start..end` of an object, already checked against its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// The whole of an object of `length` bytes.
    pub fn whole(length: u64) -> Self {
        Self {
            start: 0,
            end: length,
        }
    }

    /// Number of bytes in the range.
    pub fn length(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True when the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.length() == 0
    }
}
