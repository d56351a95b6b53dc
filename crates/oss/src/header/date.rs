//! Dates of the protocol: RFC 9110 dates in headers, ISO 8601 in XML and signatures.
//!
//! All are UTC. Out: exactly one spelling each. In: the three forms that HTTP obliges servers to read.

use granary_types::Timestamp;
use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `Wed, 28 Dec 2022 10:27:41 GMT`, as `Date`, `Last-Modified` and V1 signatures carry it.
pub fn format_http_date(at: Timestamp) -> String {
    let t = civil(at);
    let day = DAYS[usize::from(t.weekday().number_days_from_monday())];
    let month = MONTHS[usize::from(u8::from(t.month()) - 1)];
    let (hour, minute, second) = t.to_hms();
    // Three in each answer: without the formatter, which takes ten times as long.
    let mut text = String::with_capacity("Wed, 28 Dec 2022 10:27:41 GMT".len());
    text.push_str(day);
    text.push_str(", ");
    push_two(&mut text, t.day());
    text.push(' ');
    text.push_str(month);
    text.push(' ');
    push_year(&mut text, t);
    for (mark, number) in [(' ', hour), (':', minute), (':', second)] {
        text.push(mark);
        push_two(&mut text, number);
    }
    text.push_str(" GMT");
    text
}

fn push_year(text: &mut String, t: OffsetDateTime) {
    for two in [t.year() / 100, t.year() % 100] {
        push_two(text, u8::try_from(two).unwrap_or(99));
    }
}

fn push_two(text: &mut String, number: u8) {
    text.push(char::from(b'0' + number / 10 % 10));
    text.push(char::from(b'0' + number % 10));
}

/// `2022-12-28T10:27:41.000Z`: the service shows whole seconds and literal zero milliseconds.
pub fn format_iso8601(at: Timestamp) -> String {
    let t = civil(at);
    // One for each object of a listing.
    let mut text = String::with_capacity("2022-12-28T10:27:41.000Z".len());
    push_year(&mut text, t);
    let parts = [
        ('-', u8::from(t.month())),
        ('-', t.day()),
        ('T', t.hour()),
        (':', t.minute()),
        (':', t.second()),
    ];
    for (mark, number) in parts {
        text.push(mark);
        push_two(&mut text, number);
    }
    text.push_str(".000Z");
    text
}

/// `20221228T102741Z`, as V4 signatures carry it.
pub fn format_basic_iso8601(at: Timestamp) -> String {
    let t = civil(at);
    let mut text = String::with_capacity("20221228T102741Z".len());
    push_year(&mut text, t);
    push_two(&mut text, t.month().into());
    push_two(&mut text, t.day());
    text.push('T');
    for number in [t.hour(), t.minute(), t.second()] {
        push_two(&mut text, number);
    }
    text.push('Z');
    text
}

/// Reads an HTTP date: IMF-fixdate, RFC 850 or asctime. The day of the week is not compared with
/// the date, and `UTC` or `+0000` may stand for `GMT`; a one-digit day of the month is refused
/// except by asctime, as the service does.
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    match text.split_once(',') {
        Some((_, rest)) => {
            let mut words = rest.split_ascii_whitespace();
            let first = words.next()?;
            let (day, month, year) = match first.split_once('-') {
                Some((day, rest)) => {
                    let (month, year) = rest.split_once('-')?;
                    (day, month, year)
                }
                None => (first, words.next()?, words.next()?),
            };
            let clock = words.next()?;
            let zone_fits = matches!(words.next()?, "GMT" | "UTC" | "+0000");
            let day = Some(day).filter(|day| day.len() == 2)?;
            (zone_fits && words.next().is_none()).then(|| assemble(year, month, day, clock))?
        }
        None => {
            // Sun Nov  6 08:49:37 1994
            let mut words = text.split_ascii_whitespace().skip(1);
            let (month, day, clock, year) =
                (words.next()?, words.next()?, words.next()?, words.next()?);
            words
                .next()
                .is_none()
                .then(|| assemble(year, month, day, clock))?
        }
    }
}

fn assemble(year: &str, month: &str, day: &str, clock: &str) -> Option<Timestamp> {
    let year = match (year.len(), number(year)?) {
        (4, year) => year,
        // RFC 850: two digits; HTTP reads values that look too far ahead as the past century.
        (2, year) if year < 70 => year + 2000,
        (2, year) => year + 1900,
        _ => return None,
    };
    let month = MONTHS
        .iter()
        .position(|name| name.eq_ignore_ascii_case(month))?
        + 1;
    let mut parts = clock
        .split(':')
        .map(|part| number(part).filter(|_| part.len() == 2));
    let clock = (parts.next()??, parts.next()??, parts.next()??);
    parts
        .next()
        .is_none()
        .then(|| timestamp(year, month as u32, number(day)?, clock))?
}

fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// A civil time as a timestamp; `None` when it does not exist or lies before 1970. A leap second
/// counts as the second before it.
pub(crate) fn timestamp(
    year: u32,
    month: u32,
    day: u32,
    (hour, minute, second): (u32, u32, u32),
) -> Option<Timestamp> {
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?);
    let second = if second == 60 { 59 } else { second };
    let small = |value: u32| u8::try_from(value).ok();
    let clock = Time::from_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
    let seconds = OffsetDateTime::new_in_offset(date.ok()?, clock, UtcOffset::UTC).unix_timestamp();
    Some(Timestamp(u64::try_from(seconds).ok()?.checked_mul(1000)?))
}

/// Times beyond the year 9999 are shown as its end.
fn civil(at: Timestamp) -> OffsetDateTime {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(at.as_secs()).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).expect("seconds lie between 1970 and 9999")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn formats_as_the_service_does() {
        let at = Timestamp(1_672_223_261_789);
        assert_eq!(format_http_date(at), "Wed, 28 Dec 2022 10:27:41 GMT");
        assert_eq!(format_iso8601(at), "2022-12-28T10:27:41.000Z");
        assert_eq!(format_basic_iso8601(at), "20221228T102741Z");
        assert_eq!(
            format_http_date(Timestamp(u64::MAX)),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
    }

    #[test]
    fn reads_the_forms_of_http() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sun, 06 Nov 1994 08:49:37 UTC", Some(784_111_777)),
            ("Sun, 06 Nov 1994 08:49:37 +0000", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_799)),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 PST", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 31 Feb 2021 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:49:37 GMT", None),
            ("Wed, 31 Dec 1969 23:59:59 GMT", None),
            ("Sun, +6 Nov 1994 08:49:37 GMT", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(
                parse_http_date(text).map(Timestamp::as_secs),
                seconds,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_is_read(seconds in 0u64..253_402_300_800) {
            let at = Timestamp(seconds * 1000);
            prop_assert_eq!(parse_http_date(&format_http_date(at)), Some(at));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = parse_http_date(&text);
        }
    }
}
