//! CRC-64/XZ of a concatenation from the CRCs of its pieces, by arithmetic modulo the polynomial.
//!
//! Polynomials are bit-reflected as in the CRC: x^0 is the highest bit.

/// The reflected ECMA-182 polynomial.
const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;

/// x^0.
const ONE: u64 = 1 << 63;

/// a · b modulo the polynomial.
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        bit >>= 1;
        b = if b & 1 == 0 {
            b >> 1
        } else {
            (b >> 1) ^ POLYNOMIAL
        };
    }
    product
}

/// x^(8 · 2^n): what multiplies a CRC when 2^n bytes follow.
const fn powers() -> [u64; 64] {
    let mut powers = [0; 64];
    // x^8.
    let mut power = ONE >> 8;
    let mut n = 0;
    while n < 64 {
        powers[n] = power;
        power = multiply(power, power);
        n += 1;
    }
    powers
}

const POWERS: [u64; 64] = powers();

/// The CRC of A·B from the CRC of A, the CRC of B and the length of B in bytes.
pub(super) fn combine(first: u64, second: u64, second_bytes: u64) -> u64 {
    let mut shifted = first;
    let mut length = second_bytes;
    let mut n = 0;
    while length != 0 {
        if length & 1 == 1 {
            shifted = multiply(POWERS[n], shifted);
        }
        length >>= 1;
        n += 1;
    }
    shifted ^ second
}

#[cfg(test)]
mod tests {
    use crc_fast::{CrcAlgorithm, checksum};
    use proptest::prelude::*;

    use super::*;

    fn crc(bytes: &[u8]) -> u64 {
        checksum(CrcAlgorithm::Crc64Xz, bytes)
    }

    proptest! {
        #[test]
        fn pieces_give_the_crc_of_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 0usize..2000) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(combine(crc(a), crc(b), b.len() as u64), crc(&bytes));
        }
    }

    #[test]
    fn nothing_before_or_after_changes_nothing() {
        let known = 0x995D_C9BB_DF19_39FA;
        assert_eq!(crc(b"123456789"), known);
        assert_eq!(combine(0, known, 9), known);
        assert_eq!(combine(known, 0, 0), known);
    }
}
