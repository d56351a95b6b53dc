//! The digests of a body, those of a chunk, and one that goes on from body to body.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use granary_blob_api::Block;
use md5::digest::common::hazmat::{SerializableState as _, SerializedState};
use md5::{Digest as _, Md5};

/// What [`RunningMd5::to_bytes`] begins with: the layout of what follows.
const STATE_LAYOUT: u8 = 1;

/// An MD5 that goes on where an earlier body has ended: one digest of bytes that come in several
/// writes.
#[derive(Clone, Debug, Default)]
pub struct RunningMd5(Md5);

impl RunningMd5 {
    /// Goes on from [`RunningMd5::to_bytes`]; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&STATE_LAYOUT, state) = bytes.split_first()? else {
            return None;
        };
        let state = SerializedState::<Md5>::try_from(state).ok()?;
        Md5::deserialize(&state).ok().map(Self)
    }

    /// What it takes to go on: the layout's number, the four words, the blocks so far (both little
    /// endian), the length of the rest, and the rest, filled with zeros to 63 bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = vec![STATE_LAYOUT];
        bytes.extend_from_slice(&self.0.serialize());
        bytes.into()
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> [u8; 16] {
        self.0.clone().finalize().into()
    }
}

/// MD5 and CRC-64/XZ of bytes in order.
pub(crate) struct BodyDigests {
    md5: Md5,
    crc64: Crc,
    continued: Option<RunningMd5>,
}

/// The digests of a whole body.
pub(crate) struct Digested {
    pub(crate) md5: [u8; 16],
    /// CRC-64/XZ.
    pub(crate) crc64: u64,
    /// The digest that went on over the body.
    pub(crate) continued: Option<RunningMd5>,
}

impl BodyDigests {
    pub(crate) fn new(continues: Option<RunningMd5>) -> Self {
        Self {
            md5: Md5::new(),
            crc64: Crc::new(CrcAlgorithm::Crc64Xz),
            continued: continues,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc64.update(bytes);
        if let Some(RunningMd5(md5)) = &mut self.continued {
            md5.update(bytes);
        }
    }

    pub(crate) fn finish(self) -> Digested {
        Digested {
            md5: self.md5.finalize().into(),
            crc64: self.crc64.finalize(),
            continued: self.continued,
        }
    }
}

/// A chunk cut into blocks with their checksums.
pub(crate) struct CutChunk {
    pub(crate) blocks: Vec<Block>,
    pub(crate) length: u32,
    /// As `ChunkEntry::digest` defines it.
    pub(crate) digest: u32,
}

impl CutChunk {
    /// Cuts the pieces of a chunk, each but the last a multiple of the block size; copies nothing.
    pub(crate) fn from_pieces(pieces: Vec<Bytes>) -> Self {
        let blocks = pieces.into_iter().flat_map(Block::cut).collect();
        Self::from_blocks(blocks)
    }

    /// A chunk of blocks whose checksums are known.
    pub(crate) fn from_blocks(blocks: Vec<Block>) -> Self {
        let length: usize = blocks.iter().map(|block| block.data.len()).sum();
        Self {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            digest: chunk_digest(&blocks),
            blocks,
        }
    }
}

/// CRC-32C of the block checksums in order, little endian.
fn chunk_digest(blocks: &[Block]) -> u32 {
    blocks.iter().fold(0, |digest, block| {
        crc32c::crc32c_append(digest, &block.crc32c.to_le_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_published_ones() {
        let mut digests = BodyDigests::new(None);
        digests.update(b"1234");
        digests.update(b"56789");
        let digested = digests.finish();
        assert_eq!(digested.crc64, 0x995d_c9bb_df19_39fa);
        assert_eq!(
            u128::from_be_bytes(digested.md5),
            0x25f9_e794_323b_4538_85f5_181f_1b62_4d0b
        );
        assert!(digested.continued.is_none());
    }

    #[test]
    fn a_digest_goes_on_from_what_it_was_kept_as() {
        for cuts in [&[0, 9][..], &[4, 64, 63, 1], &[130, 1, 200]] {
            let (mut running, mut whole) = (RunningMd5::default(), Vec::new());
            for length in cuts {
                let body: Vec<u8> = (0..*length).map(|n| (n * 7 + whole.len()) as u8).collect();
                let mut digests = BodyDigests::new(RunningMd5::from_bytes(&running.to_bytes()));
                digests.update(&body);
                let digested = digests.finish();
                assert_eq!(digested.md5, <[u8; 16]>::from(Md5::digest(&body)));
                running = digested.continued.unwrap();
                whole.extend(body);
                assert_eq!(running.digest(), <[u8; 16]>::from(Md5::digest(&whole)));
            }
        }
    }

    #[test]
    fn a_kept_digest_keeps_its_bytes() {
        let mut running = RunningMd5::default();
        running.0.update([b'a'; 64]);
        running.0.update(b"bc");
        let bytes = running.to_bytes();
        let kept = "0156ffd48962d95c1233deca6925e33300010000000000000002626300";
        let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&shown[..kept.len()], bytes.len()), (kept, 89));
        assert!(RunningMd5::from_bytes(&bytes[..88]).is_none());
        let other = [&[STATE_LAYOUT + 1], &bytes[1..]].concat();
        assert!(RunningMd5::from_bytes(&other).is_none());
        assert!(RunningMd5::from_bytes(b"").is_none());
    }

    #[test]
    fn a_chunks_digest_does_not_depend_on_its_pieces() {
        let bytes = Bytes::from((0..200_000u32).map(|n| n as u8).collect::<Vec<_>>());
        let whole = CutChunk::from_pieces(vec![bytes.clone()]);
        let pieces = vec![bytes.slice(..131_072), bytes.slice(131_072..)];
        let cut = CutChunk::from_pieces(pieces);
        assert_eq!((whole.digest, whole.length), (cut.digest, 200_000));
        assert_eq!(whole.blocks, cut.blocks);
    }
}
