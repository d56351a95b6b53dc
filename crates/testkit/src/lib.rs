//! Tools that stand beside the product and never in it: what tests and benchmarks compare it with.
//!
//! Invariant: no crate has this one as a normal dependency (`xtask check`).

/// Fills `bytes` with numbers that do not compress, the same ones for the same seed (xorshift64*; for
/// loads, not for secrets).
pub fn fill_random(bytes: &mut [u8], seed: u64) {
    // The state must not be 0, and neighbouring seeds must not begin alike.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for piece in bytes.chunks_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let number = state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
        piece.copy_from_slice(&number[..piece.len()]);
    }
}
