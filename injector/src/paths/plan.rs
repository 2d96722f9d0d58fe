//! Which paths there are, and what must be done about them at a given moment: pure functions of what the Secret holds.
//!
//! A new path is answered at by every replica before the API server is told of it, and the old one for a while after.

use keyward_core::{Code, Error, Result};
use rustls::crypto::aws_lc_rs;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::certificates::Data;

/// The random texts, the newest first, one a line.
const TOKENS: &str = "paths";
/// When the newest was made, RFC 3339.
const SINCE: &str = "paths.since";

/// Bytes of randomness of a path.
const RANDOM: usize = 32;
/// Their length as text. Hexadecimal digits, because the API server wants each segment of a webhook's path to be a DNS
/// subdomain (RFC 1123): lower case, at most 253 characters.
const LENGTH: usize = 64;
/// Most paths at a time.
const MOST: usize = 4;

/// How long a path is the newest. Short, since the API server's errors quote it to whoever creates a pod while the
/// injector does not answer.
const RENEW: Duration = Duration::hours(1);
/// From making a path until the API server is told of it: every replica has read it by then.
const SPREAD: Duration = Duration::minutes(2);
/// From telling the API server of a path until the old ones are no longer answered at.
const OVERLAP: Duration = Duration::minutes(10);

/// What the Secret holds, read with tolerance: what is not sound counts as absent.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Written {
    /// The newest first.
    pub(crate) tokens: Vec<Zeroizing<String>>,
    /// When the newest was made.
    pub(crate) since: Option<OffsetDateTime>,
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// All is well, or it is too early for more.
    Nothing,
    /// A new path, beside those that are there.
    New,
    /// Paths that are no longer needed go.
    Forget,
}

impl Written {
    pub(crate) fn read(data: &Data) -> Self {
        let text =
            |key: &str| data.get(key).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        Self {
            tokens: text(TOKENS)
                .lines()
                .filter(|line| is_token(line))
                .take(MOST)
                .map(|line| Zeroizing::new(line.to_owned()))
                .collect(),
            since: OffsetDateTime::parse(text(SINCE).trim(), &Rfc3339).ok(),
        }
    }

    /// The one that the API server is told of.
    pub(crate) fn told(&self, now: OffsetDateTime) -> Option<&str> {
        let spread = self.since.is_none_or(|since| since.saturating_add(SPREAD) <= now);
        let before = self.tokens.get(1).filter(|_| !spread);
        before.or(self.tokens.first()).map(|token| token.as_str())
    }
}

fn is_token(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What must be done at `now`.
pub(crate) fn next(written: &Written, now: OffsetDateTime) -> Step {
    let Some(since) = written.since.filter(|since| *since <= now.saturating_add(RENEW)) else {
        return Step::New;
    };
    if written.tokens.is_empty() || since.saturating_add(RENEW) <= now {
        Step::New
    } else if written.tokens.len() > 1 && since.saturating_add(SPREAD).saturating_add(OVERLAP) <= now {
        Step::Forget
    } else {
        Step::Nothing
    }
}

/// What of the Secret changes with `step`.
///
/// # Errors
/// `KW_INTERNAL` when there is no randomness or the time cannot be written.
pub(crate) fn perform(step: Step, written: &Written, now: OffsetDateTime) -> Result<Data> {
    let defect =
        |what: &str| Error::new(Code::Internal, format!("a path for the webhook cannot be made: {what}"));
    let mut changes = Data::new();
    let mut put =
        |key: &str, value: String| changes.insert(key.to_owned(), Zeroizing::new(value.into_bytes()));
    let lines = |tokens: &[Zeroizing<String>]| {
        tokens.iter().map(|token| token.as_str()).collect::<Vec<_>>().join("\n")
    };
    match step {
        Step::Nothing => {}
        Step::New => {
            let mut random = Zeroizing::new([0_u8; RANDOM]);
            let source = aws_lc_rs::default_provider().secure_random;
            source.fill(random.as_mut_slice()).map_err(|_| defect("no randomness"))?;
            let newest = Zeroizing::new(hex::encode(random.as_slice()));
            let all: Vec<_> =
                std::iter::once(newest).chain(written.tokens.iter().cloned()).take(MOST).collect();
            put(TOKENS, lines(&all));
            put(SINCE, now.format(&Rfc3339).map_err(|_| defect("the time cannot be written"))?);
        }
        Step::Forget => {
            put(TOKENS, lines(written.tokens.get(..1).unwrap_or_default()));
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

    fn advance(data: &mut Data, now: OffsetDateTime) -> Step {
        let written = Written::read(data);
        let step = next(&written, now);
        data.extend(perform(step, &written, now).unwrap());
        step
    }

    fn told(data: &Data, now: OffsetDateTime) -> String {
        Written::read(data).told(now).unwrap().to_owned()
    }

    #[test]
    fn a_new_path_is_answered_at_before_it_is_told_and_the_old_one_for_a_while_after() {
        let mut data = Data::new();
        assert_eq!(advance(&mut data, START), Step::New);
        let old = told(&data, START);
        assert_eq!(old.len(), LENGTH);
        assert_eq!(advance(&mut data, START + RENEW - Duration::seconds(1)), Step::Nothing);
        let mut now = START + RENEW;
        assert_eq!(advance(&mut data, now), Step::New);
        assert_eq!(told(&data, now), old, "not yet known to every replica");
        now += SPREAD;
        assert_eq!(advance(&mut data, now), Step::Nothing);
        assert_ne!(told(&data, now), old);
        assert!(Written::read(&data).tokens.iter().any(|token| **token == old), "still answered at");
        now += OVERLAP;
        assert_eq!(advance(&mut data, now), Step::Forget);
        assert_eq!(Written::read(&data).tokens.len(), 1);
        assert_eq!(advance(&mut data, now), Step::Nothing);
    }

    #[test]
    fn without_its_date_a_path_is_replaced_and_still_answered_at() {
        let mut data = Data::new();
        advance(&mut data, START);
        let old = told(&data, START);
        data.remove(SINCE);
        assert_eq!(advance(&mut data, START), Step::New);
        assert_eq!(told(&data, START), old);
        // A date in the future, by a clock that was wrong, does not keep a path for ever.
        data.insert(SINCE.to_owned(), Zeroizing::new(b"2036-01-01T00:00:00Z".to_vec()));
        assert_eq!(advance(&mut data, START), Step::New);
    }

    proptest! {
        /// Whatever the moments at which a replica looks: what the API server was told of is answered at for as long as the
        /// overlap.
        #[test]
        fn what_the_api_server_was_told_is_answered_at(waits in proptest::collection::vec(0_i64..5000, 1..40)) {
            let mut data = Data::new();
            let mut now = START;
            advance(&mut data, now);
            let mut last = (told(&data, now), now);
            for wait in waits {
                now += Duration::seconds(wait);
                advance(&mut data, now);
                let written = Written::read(&data);
                prop_assert!(!written.tokens.is_empty() && written.tokens.len() <= MOST);
                if now - last.1 <= OVERLAP {
                    prop_assert!(written.tokens.iter().any(|token| **token == last.0));
                }
                last = (told(&data, now), now);
            }
        }

        #[test]
        fn any_contents_are_read(tokens in "\\PC{0,200}", since in "[0-9TZ:+-]{0,30}|9999-12-31T23:59:59Z") {
            let mut data = Data::new();
            data.insert(TOKENS.to_owned(), Zeroizing::new(tokens.into_bytes()));
            data.insert(SINCE.to_owned(), Zeroizing::new(since.into_bytes()));
            let written = Written::read(&data);
            let _ = (next(&written, START), written.told(START));
            advance(&mut data, START);
            prop_assert!(!Written::read(&data).tokens.is_empty());
        }
    }
}
