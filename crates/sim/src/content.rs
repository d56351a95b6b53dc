//! Object bytes whose length says which they are: every value of a run has its own length, so a
//! HEAD, a listing entry and a body each name the value they show.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::linearizability::Value;

/// One value: its bytes follow from its number and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Number.
    pub value: Value,
    /// Length in bytes, unique in the run.
    pub length: u64,
}

impl Content {
    /// The bytes.
    pub fn bytes(self) -> Bytes {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(length + 8);
        let mut state = u64::from(self.value) << 32 | self.length;
        while bytes.len() < length {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(length);
        bytes.into()
    }

    /// CRC-64/XZ of the bytes.
    pub fn crc64(self) -> u64 {
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &self.bytes())
    }
}

/// Lengths that a value may have, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Shortest.
    pub least: u64,
    /// Longest.
    pub most: u64,
}

/// The values of one run.
#[derive(Debug, Default)]
pub struct Contents {
    by_length: Mutex<BTreeMap<u64, Value>>,
}

impl Contents {
    /// A new value with a length of its own; the range is left upwards when it is used up.
    pub fn draw(&self, rng: &mut StdRng, lengths: Lengths) -> Content {
        let mut length = rng.random_range(lengths.least..=lengths.most);
        let mut by_length = self.by_length.lock();
        while by_length.contains_key(&length) {
            length += 1;
        }
        let value = Value::try_from(by_length.len() + 1).unwrap_or(Value::MAX);
        by_length.insert(length, value);
        Content { value, length }
    }

    /// The value of this length.
    pub fn of_length(&self, length: u64) -> Option<Content> {
        self.by_length.lock().get(&length).map(|value| Content {
            value: *value,
            length,
        })
    }
}
