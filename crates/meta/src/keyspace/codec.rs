//! Order-preserving encoding of key fields.
//!
//! Bytes of variable length are escaped (0x00 becomes 0x00 0xFF) and end with 0x00 0x01, so that
//! a key sorts before every key it is a prefix of, whatever field follows.

use bytes::Bytes;
use granary_types::BucketId;

/// A field that sorts as its encoding does.
pub(crate) trait KeyField: Sized {
    /// Appends the encoding.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes the encoding off the front; `None` when it is not one.
    fn read(input: &mut &[u8]) -> Option<Self>;
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

impl KeyField for u32 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        take(input).map(u32::from_be_bytes)
    }
}

impl KeyField for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        take(input).map(u64::from_be_bytes)
    }
}

impl KeyField for BucketId {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        u64::read(input).map(BucketId)
    }
}

/// Sixteen bytes: an object id, an upload id, a command id or a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) [u8; 16]);

impl Id {
    /// The id in a message; `None` when it has another length.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id as messages carry it.
    pub(crate) fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl KeyField for Id {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        take(input).map(Self)
    }
}

/// A version stamp that sorts newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Newest(pub(crate) u64);

impl Ord for Newest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

impl PartialOrd for Newest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl KeyField for Newest {
    fn write(&self, out: &mut Vec<u8>) {
        (!self.0).write(out);
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        u64::read(input).map(|stamp| Self(!stamp))
    }
}

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;

/// Appends `bytes` escaped, without the terminator: the common start of everything that begins
/// with `bytes`.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == ESCAPE {
            out.push(ESCAPED_ZERO);
        }
    }
}

impl KeyField for Bytes {
    fn write(&self, out: &mut Vec<u8>) {
        escape(self, out);
        out.extend_from_slice(&[ESCAPE, TERMINATOR]);
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        let mut bytes = Vec::new();
        loop {
            match take::<1>(input)? {
                [ESCAPE] => match take::<1>(input)? {
                    [TERMINATOR] => return Some(bytes.into()),
                    [ESCAPED_ZERO] => bytes.push(ESCAPE),
                    _ => return None,
                },
                [byte] => bytes.push(byte),
            }
        }
    }
}
