//! How much a read fetches ahead: much for a client that keeps up, little for a slow one, least
//! when memory is short. Pure.

use std::time::Duration;

/// The largest and the smallest piece, in bytes; multiples of the block size.
const PIECE_MAX: u32 = 1024 * 1024;
const PIECE_MIN: u32 = 64 * 1024;
/// The largest piece while memory is getting short.
const PIECE_SHORT: u32 = 256 * 1024;
/// A piece taken within this time makes the next ones larger, beyond the other smaller.
const FAST: Duration = Duration::from_millis(250);
const SLOW: Duration = Duration::from_secs(1);

/// What one read may fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Bytes of the next piece at most.
    pub(crate) piece_bytes: u32,
    /// Pieces fetched beyond the one that is being sent.
    pub(crate) ahead: usize,
}

impl Pace {
    /// The pace of a client of unknown speed: most objects are one piece, which costs the least.
    pub(crate) fn new() -> Self {
        Self {
            piece_bytes: PIECE_MAX,
            ahead: 1,
        }
    }

    /// The pace after the consumer took a piece in `took`.
    pub(crate) fn after(self, took: Duration) -> Self {
        if took <= FAST {
            Self {
                piece_bytes: (self.piece_bytes * 2).min(PIECE_MAX),
                ahead: 2,
            }
        } else if took >= SLOW {
            Self {
                piece_bytes: (self.piece_bytes / 2).max(PIECE_MIN),
                ahead: 0,
            }
        } else {
            Self { ahead: 1, ..self }
        }
    }

    /// The same pace with `free_percent` of the memory left.
    pub(crate) fn under(self, free_percent: u64) -> Self {
        match free_percent {
            0..25 => Self {
                piece_bytes: PIECE_MIN,
                ahead: 0,
            },
            25..50 => Self {
                piece_bytes: self.piece_bytes.min(PIECE_SHORT),
                ahead: self.ahead.min(1),
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_client_holds_little_and_a_fast_one_grows() {
        let (mut slow, mut fast) = (Pace::new(), Pace::new());
        for _ in 0..10 {
            slow = slow.after(Duration::from_secs(3));
            fast = fast.after(Duration::from_millis(1));
        }
        assert_eq!((slow.piece_bytes, slow.ahead), (PIECE_MIN, 0));
        assert_eq!((fast.piece_bytes, fast.ahead), (PIECE_MAX, 2));
        assert_eq!(fast.under(10).ahead, 0);
        assert_eq!(fast.under(30).piece_bytes, PIECE_SHORT);
        assert_eq!(fast.under(90), fast);
    }
}
