//! The digests of a body, and those of a chunk.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use granary_blob_api::Block;
use md5::{Digest as _, Md5};

/// MD5 and CRC-64/XZ of bytes in order.
pub(crate) struct BodyDigests {
    md5: Md5,
    crc64: Crc,
}

impl BodyDigests {
    pub(crate) fn new() -> Self {
        Self {
            md5: Md5::new(),
            crc64: Crc::new(CrcAlgorithm::Crc64Xz),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc64.update(bytes);
    }

    /// The MD5 and the CRC-64/XZ.
    pub(crate) fn finish(self) -> ([u8; 16], u64) {
        (self.md5.finalize().into(), self.crc64.finalize())
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
        let mut digests = BodyDigests::new();
        digests.update(b"1234");
        digests.update(b"56789");
        let (md5, crc64) = digests.finish();
        assert_eq!(crc64, 0x995d_c9bb_df19_39fa);
        assert_eq!(
            u128::from_be_bytes(md5),
            0x25f9_e794_323b_4538_85f5_181f_1b62_4d0b
        );
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
