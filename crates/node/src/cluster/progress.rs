//! How long something still takes, at the speed it has had since it began. Pure.
//!
//! No estimate rather than a silly one: not before enough was done to speak of a speed, and none that
//! is so long that it only says "slow".

use std::time::Duration;

/// No estimate is made of less than this.
const RUNNING_MIN: Duration = Duration::from_secs(5);
/// Nor before this part of all is done: one in so many.
const DONE_MIN_PART: u64 = 50;
/// Nor one that is longer than this.
const LEFT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The time left for the rest of `all`, when `done` of it took `running`; `None` when nobody can tell,
/// or nothing is left.
pub(crate) fn time_left(running: Duration, done: u64, all: u64) -> Option<Duration> {
    let left = all.checked_sub(done).filter(|left| *left > 0)?;
    if running < RUNNING_MIN || done == 0 || done < all.div_ceil(DONE_MIN_PART) {
        return None;
    }
    let millis = running.as_millis().checked_mul(u128::from(left))? / u128::from(done);
    let left = Duration::from_millis(u64::try_from(millis).ok()?);
    (left <= LEFT_MAX).then_some(left)
}

/// As people say it: "about 4 min left".
pub(crate) fn left_text(left: Duration) -> String {
    let secs = left.as_secs();
    match secs {
        0..60 => format!("about {} s left", secs.max(1)),
        60..5400 => format!("about {} min left", (secs + 30) / 60),
        5400..172_800 => format!("about {} h left", (secs + 1800) / 3600),
        _ => format!("about {} days left", (secs + 43_200) / 86_400),
    }
}

/// A time that is known: "41 s", "14 min".
pub(crate) fn wait_text(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", (secs + 30) / 60),
        _ => format!("{} h", (secs + 1800) / 3600),
    }
}

/// A number with a comma between every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_made_only_when_it_means_something() {
        let secs = Duration::from_secs;
        for (running, done, all, expected) in [
            // Half of it took a minute.
            (secs(60), 500, 1000, Some(secs(60))),
            (secs(10), 9, 10, Some(Duration::from_millis(1111))),
            (secs(100), 20, 1000, Some(secs(4900))),
            // Too early.
            (secs(4), 500, 1000, None),
            (secs(60), 0, 1000, None),
            (secs(60), 19, 1000, None),
            (secs(60), 1, 1_000_000, None),
            // Nothing is left, or more was done than there was.
            (secs(60), 1000, 1000, None),
            (secs(60), 1001, 1000, None),
            (secs(60), 0, 0, None),
            // Months.
            (secs(10_000_000), 20, 1000, None),
            (Duration::MAX, u64::MAX / 2, u64::MAX, None),
        ] {
            let left = time_left(running, done, all);
            assert_eq!(left, expected, "{done} of {all} in {running:?}");
        }
    }

    #[test]
    fn times_and_numbers_are_what_people_read() {
        for (secs, expected) in [
            (0, "about 1 s left"),
            (59, "about 59 s left"),
            (60, "about 1 min left"),
            (240, "about 4 min left"),
            (5399, "about 90 min left"),
            (5400, "about 2 h left"),
            (36_000, "about 10 h left"),
            (259_200, "about 3 days left"),
        ] {
            assert_eq!(left_text(Duration::from_secs(secs)), expected);
        }
        for (secs, expected) in [
            (0, "0 s"),
            (41, "41 s"),
            (119, "119 s"),
            (840, "14 min"),
            (7200, "2 h"),
        ] {
            assert_eq!(wait_text(secs), expected);
        }
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_300, "12,300"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }
}
