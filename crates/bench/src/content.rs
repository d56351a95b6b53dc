//! What stands in objects: bytes that neither compress nor repeat themselves, and that can be told again.
//!
//! Every body has a number. Its frames of 64 KiB are one random block, each word of it XORed with a word of the frame's
//! own; so no two frames of a run have eight bytes in common at the same place (below eight bytes there are not so many
//! different bodies), whatever making and checking them costs no more than reading memory does, and nothing of what was
//! sent has to be kept.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use granary_runtime::Entropy;
use http_body::{Body, Frame, SizeHint};

use crate::pulse::Pulse;

/// Bytes of a frame; the last one of a body is shorter.
const FRAME_BYTES: usize = 64 * 1024;
const WORD_BYTES: usize = size_of::<u64>();
/// Frames of the largest body, 5 GiB, and room.
const FRAME_BITS: u32 = 20;

/// The random block. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Content {
    block: Bytes,
}

impl Content {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut block = vec![0; FRAME_BYTES];
        entropy.fill(&mut block);
        Self {
            block: block.into(),
        }
    }

    /// The body of this number.
    pub(crate) fn body(&self, number: u64, length: u64) -> ObjectBody {
        ObjectBody {
            content: self.clone(),
            number,
            length,
            sent: 0,
            digest: Digest::new(CrcAlgorithm::Crc64Xz),
            crc64: Arc::default(),
            pulse: None,
        }
    }

    /// Whether these bytes stand in a body at an offset.
    pub(crate) fn matches(&self, number: u64, offset: u64, mut bytes: &[u8]) -> bool {
        let mut offset = offset;
        while !bytes.is_empty() {
            let (frame, at) = place(offset);
            let here = bytes.len().min(FRAME_BYTES - at);
            let (part, rest) = bytes.split_at(here);
            let mut word = word(number, frame);
            word.rotate_left(at % WORD_BYTES);
            if !is_masked(&self.block[at..at + here], word, part) {
                return false;
            }
            offset += here as u64;
            bytes = rest;
        }
        true
    }

    /// The frame of a body that begins at an offset, a multiple of the frame's length.
    fn frame(&self, number: u64, offset: u64, length: usize) -> Bytes {
        let (frame, _) = place(offset);
        let word = word(number, frame);
        let mut bytes = self.block[..length].to_vec();
        let (words, rest) = bytes.as_chunks_mut();
        for chunk in words {
            *chunk = (u64::from_ne_bytes(*chunk) ^ u64::from_ne_bytes(word)).to_ne_bytes();
        }
        for (byte, with) in rest.iter_mut().zip(word) {
            *byte ^= with;
        }
        bytes.into()
    }
}

/// Whether bytes are those of the block, each word of it XORed with a word.
fn is_masked(block: &[u8], word: [u8; WORD_BYTES], bytes: &[u8]) -> bool {
    let (expected, expected_rest) = block.as_chunks();
    let (found, found_rest) = bytes.as_chunks();
    let mask = u64::from_ne_bytes(word);
    let off = expected.iter().zip(found).fold(0, |off, (left, right)| {
        off | (u64::from_ne_bytes(*left) ^ mask ^ u64::from_ne_bytes(*right))
    });
    let rest = expected_rest
        .iter()
        .zip(word)
        .map(|(byte, with)| byte ^ with);
    off == 0 && rest.eq(found_rest.iter().copied())
}

/// The frame of an offset, and where in it.
fn place(offset: u64) -> (u64, usize) {
    let frame_bytes = FRAME_BYTES as u64;
    // What is left of a division fits.
    (offset / frame_bytes, (offset % frame_bytes) as usize)
}

/// The word of a frame. One to one, so no two frames have the same: the last steps of SplitMix64.
fn word(number: u64, frame: u64) -> [u8; WORD_BYTES] {
    let mut word = (number << FRAME_BITS) ^ frame;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)).to_le_bytes()
}

/// The body of a request, made while it is sent.
pub(crate) struct ObjectBody {
    content: Content,
    number: u64,
    length: u64,
    sent: u64,
    digest: Digest,
    crc64: Arc<OnceLock<u64>>,
    /// Beats whenever the connection takes more of it.
    pulse: Option<Arc<Pulse>>,
}

impl ObjectBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        let none = Content {
            block: Bytes::new(),
        };
        none.body(0, 0)
    }

    /// Whoever sends it wants to know whether it moves.
    pub(crate) fn beats(&mut self, pulse: Arc<Pulse>) {
        self.pulse = Some(pulse);
    }

    /// Where the CRC-64/XZ of all of it is once all of it has been made.
    pub(crate) fn crc64(&self) -> Arc<OnceLock<u64>> {
        Arc::clone(&self.crc64)
    }
}

impl Body for ObjectBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pulse) = &self.pulse {
            pulse.beat();
        }
        let left = self.length - self.sent;
        if left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(left).map_or(FRAME_BYTES, |left| left.min(FRAME_BYTES));
        let frame = self.content.frame(self.number, self.sent, length);
        self.digest.update(&frame);
        self.sent += length as u64;
        if self.sent == self.length {
            // It is set once: nothing is made after the end.
            let _ = self.crc64.set(self.digest.finalize());
        }
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length - self.sent)
    }
}

/// The CRC-64/XZ of some bytes.
pub(crate) fn crc64(bytes: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use granary_runtime::SeededEntropy;
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;

    use super::*;

    async fn made(content: &Content, number: u64, length: u64) -> Vec<u8> {
        let body = content.body(number, length);
        assert_eq!(body.size_hint().exact(), Some(length));
        let crc = body.crc64();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        assert_eq!(bytes.len() as u64, length);
        assert_eq!(crc.get().copied(), (length > 0).then(|| crc64(&bytes)));
        bytes
    }

    #[tokio::test]
    async fn bodies_differ_everywhere_and_from_frame_to_frame() {
        let content = Content::new(&SeededEntropy::new(1));
        let mut seen = HashSet::new();
        for number in 0..8 {
            let body = made(&content, number, 3 * FRAME_BYTES as u64).await;
            for frame in body.chunks(FRAME_BYTES) {
                for at in (0..FRAME_BYTES).step_by(4096) {
                    assert!(
                        seen.insert((at, frame[at..at + 8].to_vec())),
                        "{number} at {at}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn bodies_are_known_again_and_nothing_else_is() {
        let content = Content::new(&SeededEntropy::new(2));
        for length in [0, 1, 7, 8, 9, 4096, 65_535, 65_536, 65_537, 200_001] {
            let body = made(&content, 7, length).await;
            assert!(content.matches(7, 0, &body), "{length}");
            for at in [0, length / 2, length.saturating_sub(1)] {
                let mut wrong = body.clone();
                if let Some(byte) = wrong.get_mut(usize::try_from(at).unwrap()) {
                    *byte ^= 1;
                    assert!(!content.matches(7, 0, &wrong), "{length} at {at}");
                }
            }
            assert!(length < 8 || !content.matches(8, 0, &body), "{length}");
        }
    }

    proptest! {
        #[test]
        fn however_an_answer_is_cut_it_is_known_again(mut cuts in proptest::collection::vec(0u64..150_001, 0..6)) {
            let content = Content::new(&SeededEntropy::new(3));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let body = runtime.block_on(made(&content, 11, 150_001));
            cuts.extend([0, 150_001]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                let part = &body[usize::try_from(pair[0]).unwrap()..usize::try_from(pair[1]).unwrap()];
                prop_assert!(content.matches(11, pair[0], part), "{pair:?}");
            }
        }
    }
}
