use std::time::{Duration, UNIX_EPOCH};

use keyward_core::UnixTime;

/// No wait that a peer asks for counts as longer than this.
pub const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(300);

/// How long the answer's headers ask us to wait, at most [`RETRY_AFTER_LIMIT`].
///
/// `header` looks up a header by its lower-case name; `now` is wall time, for `Retry-After` as a date. The order is that
/// of the Azure SDKs: `x-ms-retry-after-ms`, `retry-after-ms`, `retry-after`. What cannot be read counts as not there; a
/// date in the past asks for no wait.
#[must_use]
pub fn parse_retry_after<'a>(header: impl Fn(&str) -> Option<&'a str>, now: UnixTime) -> Option<Duration> {
    let milliseconds = |name| number(header(name)?).map(Duration::from_millis);
    let wait = milliseconds("x-ms-retry-after-ms")
        .or_else(|| milliseconds("retry-after-ms"))
        .or_else(|| header("retry-after").and_then(|value| seconds_or_date(value, now)))?;
    Some(wait.min(RETRY_AFTER_LIMIT))
}

/// RFC 9110 §10.2.3: delay in seconds, or an HTTP date.
fn seconds_or_date(value: &str, now: UnixTime) -> Option<Duration> {
    if let Some(seconds) = number(value) {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.saturating_sub(now))
}

/// Digits only; a number too large for 64 bits is as good as the largest.
fn number(value: &str) -> Option<u64> {
    let value = value.trim();
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixTime = Duration::from_secs(1_800_000_000);

    fn parse(headers: &[(&str, &str)]) -> Option<Duration> {
        parse_retry_after(|name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value), NOW)
    }

    #[test]
    fn seconds_dates_and_both_millisecond_headers_are_understood_in_the_sdks_order() {
        assert_eq!(parse(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            parse(&[("retry-after-ms", "1500"), ("retry-after", "7")]),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(
            parse(&[("x-ms-retry-after-ms", "20"), ("retry-after-ms", "1500"), ("retry-after", "7")]),
            Some(Duration::from_millis(20))
        );
        assert_eq!(parse(&[("retry-after", "Fri, 15 Jan 2027 08:00:09 GMT")]), Some(Duration::from_secs(9)));
    }

    #[test]
    fn a_past_date_asks_for_no_wait_and_nonsense_for_nothing() {
        assert_eq!(parse(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]), Some(Duration::ZERO));
        for nonsense in ["", "-1", "soon", "1.5", "0x10", "+3"] {
            assert_eq!(parse(&[("retry-after", nonsense)]), None, "{nonsense:?}");
        }
    }

    #[test]
    fn an_hour_is_cut_to_the_limit_and_so_is_a_number_beyond_64_bits() {
        assert_eq!(parse(&[("retry-after", "3600")]), Some(RETRY_AFTER_LIMIT));
        assert_eq!(parse(&[("retry-after", "99999999999999999999999")]), Some(RETRY_AFTER_LIMIT));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_never_beyond_the_limit(a in "\\PC{0,40}", b in "[ 0-9a-zA-Z:,]{0,40}") {
            for wait in [parse(&[("retry-after", &a)]), parse(&[("retry-after", &b)]), parse(&[("x-ms-retry-after-ms", &b)])].into_iter().flatten() {
                prop_assert!(wait <= RETRY_AFTER_LIMIT);
            }
        }

        #[test]
        fn every_whole_number_of_seconds_within_the_limit_is_taken_as_written(seconds in 0u64..=300) {
            prop_assert_eq!(parse(&[("retry-after", &seconds.to_string())]), Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn every_http_date_ahead_is_the_distance_to_it(ahead in 0u64..=300) {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + NOW + Duration::from_secs(ahead));
            prop_assert_eq!(parse(&[("retry-after", &date)]), Some(Duration::from_secs(ahead)));
        }
    }
}
