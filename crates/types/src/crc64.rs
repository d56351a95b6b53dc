//! CRC-64/XZ of a concatenation from the CRCs of its pieces, without the bytes.
//!
//! Appending `n` zero bytes multiplies a CRC, seen as a polynomial over GF(2), by x^(8n) modulo the
//! generator. The squares x^(2^k) are computed at compile time, so that one combination costs about
//! a microsecond whatever the length.

/// ECMA-182 generator, bit-reflected: the polynomial of `x-oss-hash-crc64ecma`.
const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;

/// x^0: the reflected form has the lowest power in the highest bit.
const ONE: u64 = 1 << 63;

/// Exponents 2^k that a length of 64 bits, times eight bits, can need.
const SQUARES: usize = 67;

/// `x^(2^k) mod P` at index k.
const POWERS: [u64; SQUARES] = powers();

/// CRC-64/XZ of `A ‖ B` from those of `A` and `B` and the length of `B` in bytes.
pub fn combine(crc_a: u64, crc_b: u64, length_b: u64) -> u64 {
    multiply(zeros(length_b), crc_a) ^ crc_b
}

/// x^(8 * length) mod P.
fn zeros(mut length: u64) -> u64 {
    let mut product = ONE;
    // Bit 0 of a length in bytes stands for 2^3 bits.
    let mut k = 3;
    while length != 0 {
        if length & 1 == 1 {
            product = multiply(POWERS[k], product);
        }
        length >>= 1;
        k += 1;
    }
    product
}

const fn powers() -> [u64; SQUARES] {
    let mut table = [0; SQUARES];
    table[0] = ONE >> 1;
    let mut k = 1;
    while k < SQUARES {
        table[k] = multiply(table[k - 1], table[k - 1]);
        k += 1;
    }
    table
}

/// Product of two polynomials modulo P, reflected.
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
            if a & (bit - 1) == 0 {
                break;
            }
        }
        b = if b & 1 == 1 {
            (b >> 1) ^ POLYNOMIAL
        } else {
            b >> 1
        };
        bit >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crc_fast::{CrcAlgorithm, checksum};
    use proptest::prelude::*;

    fn crc(bytes: &[u8]) -> u64 {
        checksum(CrcAlgorithm::Crc64Xz, bytes)
    }

    #[test]
    fn agrees_with_the_published_check_value() {
        assert_eq!(crc(b"123456789"), 0x995d_c9bb_df19_39fa);
        assert_eq!(
            combine(crc(b"1234"), crc(b"56789"), 5),
            0x995d_c9bb_df19_39fa
        );
    }

    #[test]
    fn lengths_beyond_memory_compose() {
        // Two pieces of 2^40 zero bytes each equal one of 2^41: shift twice or once.
        let (length, seed) = (1u64 << 40, crc(b"seed"));
        let twice = multiply(zeros(length), multiply(zeros(length), seed));
        assert_eq!(twice, multiply(zeros(length * 2), seed));
    }

    proptest! {
        #[test]
        fn equals_the_crc_of_the_concatenation(a: Vec<u8>, b: Vec<u8>) {
            let whole = [a.as_slice(), b.as_slice()].concat();
            prop_assert_eq!(combine(crc(&a), crc(&b), b.len() as u64), crc(&whole));
        }
    }
}
