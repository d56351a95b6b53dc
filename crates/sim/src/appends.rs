//! What clients appended to which object, and what readers saw of it.
//!
//! Bytes of an object that is appended to never change and never move: so its bytes at the end of a
//! run are those of the appends, each where it said, and whatever was read before is their beginning.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use parking_lot::Mutex;

use crate::content::Content;
use crate::history::ObjectName;
use crate::linearizability::Value;

/// The appends of one run. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Appends {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    drawn: Value,
    logs: BTreeMap<ObjectName, Log>,
}

#[derive(Debug, Default)]
struct Log {
    appends: Vec<Append>,
    /// Length and CRC-64 of what was read.
    reads: Vec<(u64, u64)>,
    /// The object has at least so many bytes.
    acknowledged: u64,
}

#[derive(Debug)]
struct Append {
    position: u64,
    bytes: Bytes,
    outcome: Outcome,
}

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It may be there, or come to be there.
    Unknown,
    /// It is there.
    Acknowledged,
    /// It is not, and will not be.
    Refused,
}

impl Appends {
    /// Bytes that no other append of the run has.
    pub fn draw(&self, length: u64) -> Bytes {
        let mut state = self.state.lock();
        state.drawn += 1;
        let value = state.drawn;
        Content { value, length }.bytes()
    }

    /// Notes an append before it is sent; its number.
    pub fn begin(&self, name: &ObjectName, position: u64, bytes: Bytes) -> usize {
        let mut state = self.state.lock();
        let log = state.logs.entry(name.clone()).or_default();
        log.appends.push(Append {
            position,
            bytes,
            outcome: Outcome::Unknown,
        });
        log.appends.len() - 1
    }

    /// Notes how an append ended.
    pub fn end(&self, name: &ObjectName, number: usize, outcome: Outcome) {
        let mut state = self.state.lock();
        let log = state.logs.entry(name.clone()).or_default();
        let Some(append) = log.appends.get_mut(number) else {
            return;
        };
        append.outcome = outcome;
        if outcome == Outcome::Acknowledged {
            let end = append.position + append.bytes.len() as u64;
            log.acknowledged = log.acknowledged.max(end);
        }
    }

    /// Bytes that whoever reads from now on must see at least.
    pub fn acknowledged(&self, name: &ObjectName) -> u64 {
        let state = self.state.lock();
        state.logs.get(name).map_or(0, |log| log.acknowledged)
    }

    /// Notes what was read, from the first byte on.
    pub fn read(&self, name: &ObjectName, bytes: &[u8]) {
        let crc64 = checksum(CrcAlgorithm::Crc64Xz, bytes);
        let mut state = self.state.lock();
        let log = state.logs.entry(name.clone()).or_default();
        log.reads.push((bytes.len() as u64, crc64));
    }

    /// Every object that was appended to.
    pub fn names(&self) -> Vec<ObjectName> {
        self.state.lock().logs.keys().cloned().collect()
    }

    /// What is wrong with the bytes that an object has at the end.
    pub fn violations(&self, name: &ObjectName, bytes: &[u8]) -> Vec<String> {
        let state = self.state.lock();
        let Some(log) = state.logs.get(name) else {
            return Vec::new();
        };
        let mut wrong = Vec::new();
        let is_there = |append: &Append| {
            let start = usize::try_from(append.position).unwrap_or(usize::MAX);
            let end = start.saturating_add(append.bytes.len());
            bytes.get(start..end) == Some(&append.bytes[..])
        };
        for append in &log.appends {
            let (position, length) = (append.position, append.bytes.len());
            match append.outcome {
                Outcome::Acknowledged if !is_there(append) => wrong.push(format!(
                    "{name:?}: {length} bytes that were appended at {position} are not there"
                )),
                Outcome::Refused if is_there(append) => wrong.push(format!(
                    "{name:?}: {length} bytes that were refused at {position} are there"
                )),
                _ => {}
            }
        }
        let mut at = 0;
        while at < bytes.len() as u64 {
            let mut here = log.appends.iter();
            let here = here.find(|append| append.position == at && is_there(append));
            match here {
                Some(append) => at += append.bytes.len() as u64,
                None => {
                    wrong.push(format!("{name:?}: nobody appended what it has at {at}"));
                    break;
                }
            }
        }
        for (length, crc64) in &log.reads {
            let length = usize::try_from(*length).unwrap_or(usize::MAX);
            let beginning = bytes.get(..length);
            if beginning.map(|bytes| checksum(CrcAlgorithm::Crc64Xz, bytes)) != Some(*crc64) {
                wrong.push(format!(
                    "{name:?}: {length} bytes that were read are not its beginning"
                ));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_appends() {
        let (appends, name) = (Appends::default(), (1, "a".to_owned()));
        for (position, bytes, outcome) in [
            (0, "one", Outcome::Acknowledged),
            (3, "lost", Outcome::Unknown),
            (3, "two", Outcome::Unknown),
            (6, "no", Outcome::Refused),
            (6, "three", Outcome::Acknowledged),
        ] {
            let number = appends.begin(&name, position, Bytes::from(bytes));
            appends.end(&name, number, outcome);
        }
        appends.read(&name, b"onetwo");
        assert_eq!(appends.acknowledged(&name), 11);
        let none: [String; 0] = [];
        assert_eq!(appends.violations(&name, b"onetwothree"), none);
        for bytes in ["onetwo", "onetwotwo", "onetwonothree", "onetwothree+", ""] {
            assert_ne!(appends.violations(&name, bytes.as_bytes()), none, "{bytes}");
        }
    }
}
