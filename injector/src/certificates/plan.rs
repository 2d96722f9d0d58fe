//! What must be done about the certificates at a given moment: a pure function of what there is.
//!
//! A new authority is trusted before it is used, and an old one for a while after it was: the API server learns of a
//! change of `caBundle` within a second or so, and each replica reads the Secret every ten.

use time::{Duration, OffsetDateTime};

use super::material::{Certificate, Material};

/// How long an authority is valid. Renewed when a third is left.
pub(super) const AUTHORITY: Duration = Duration::days(2 * 365);
/// How long a serving certificate is valid. Renewed when a third is left.
pub(super) const SERVING: Duration = Duration::days(60);
/// By how much certificates begin before they are made, for clocks that are behind.
pub(super) const BACKDATED: Duration = Duration::hours(1);
/// From making an authority until it issues, so that everyone trusts it by then.
pub(super) const SPREAD: Duration = Duration::seconds(30);
/// From the first certificate of a new authority until the old one is no longer trusted.
pub(super) const OVERLAP: Duration = Duration::minutes(10);

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// All is well, or it is too early for more.
    Nothing,
    /// A new authority and its first serving certificate, since no usable one is there.
    Everything,
    /// A new authority, beside those that are there.
    Authority,
    /// A new serving certificate from the newest authority.
    Serving,
    /// Authorities that are no longer needed go.
    Forget,
}

pub(super) fn next(material: &Material, names: &[String], now: OffsetDateTime) -> Step {
    let usable = |serving: &Certificate| serving.until > now && serving.dns_names == names;
    let serving = material.serving.as_ref().filter(|serving| usable(serving) && material.issuer().is_some());
    let authority = material.authorities.first().filter(|_| material.can_sign);
    match (authority, serving) {
        (None, None) => Step::Everything,
        (None, Some(_)) => Step::Authority,
        (Some(authority), None) if authority.until <= now => Step::Everything,
        (Some(_), None) => Step::Serving,
        (Some(authority), Some(serving)) => {
            let spread = made(authority).saturating_add(SPREAD) <= now;
            let from_newest = material.issuer() == Some(0);
            if wants_renewal(authority, now) {
                Step::Authority
            } else if spread && (!from_newest || wants_renewal(serving, now)) {
                Step::Serving
            } else if from_newest
                && material.authorities.len() > 1
                && made(serving).saturating_add(OVERLAP) <= now
            {
                Step::Forget
            } else {
                Step::Nothing
            }
        }
    }
}

fn made(certificate: &Certificate) -> OffsetDateTime {
    certificate.from.saturating_add(BACKDATED)
}

fn wants_renewal(certificate: &Certificate, now: OffsetDateTime) -> bool {
    // Whole seconds of validity; a certificate that ends before it begins is due.
    let seconds = certificate.until.unix_timestamp().saturating_sub(certificate.from.unix_timestamp());
    now >= certificate.until.saturating_sub(Duration::seconds(seconds.div_euclid(3)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::super::issue;
    use super::super::material::{CA_KEY, Data};
    use super::*;

    const START: OffsetDateTime = datetime!(2026-11-26 12:00 UTC);

    fn names() -> Vec<String> {
        vec!["keyward-injector.keyward-system.svc".to_owned()]
    }

    fn step(data: &Data, now: OffsetDateTime) -> Step {
        next(&Material::read(data), &names(), now)
    }

    /// Does what is to be done, once.
    fn advance(data: &mut Data, now: OffsetDateTime) -> Step {
        let step = step(data, now);
        data.extend(issue::perform(step, data, &names(), now).unwrap());
        step
    }

    #[test]
    fn an_empty_secret_is_filled_once_and_left_alone_until_a_third_of_the_lifetime_is_left() {
        let mut data = Data::new();
        assert_eq!(advance(&mut data, START), Step::Everything);
        assert_eq!(step(&data, START), Step::Nothing);
        assert_eq!(step(&data, START + SERVING * 0.6), Step::Nothing);
        assert_eq!(step(&data, START + SERVING * 0.7), Step::Serving);
    }

    #[test]
    fn a_new_authority_is_trusted_before_it_issues_and_the_old_one_for_a_while_after() {
        let mut data = Data::new();
        advance(&mut data, START);
        let mut now = START + AUTHORITY * 0.7;
        advance(&mut data, now);
        // The serving certificate was renewed long ago in a real life; here the authority's turn comes first.
        let renewed = Material::read(&data);
        assert_eq!(renewed.authorities.len(), if renewed.issuer() == Some(0) { 1 } else { 2 });
        while Material::read(&data).authorities.len() < 2 {
            advance(&mut data, now);
        }
        assert_eq!(step(&data, now), Step::Nothing, "not yet trusted everywhere");
        now += SPREAD;
        assert_eq!(advance(&mut data, now), Step::Serving);
        assert_eq!(Material::read(&data).issuer(), Some(0));
        assert_eq!(step(&data, now), Step::Nothing, "some replica may still show the old one");
        now += OVERLAP;
        assert_eq!(advance(&mut data, now), Step::Forget);
        assert_eq!(Material::read(&data).authorities.len(), 1);
        assert_eq!(step(&data, now), Step::Nothing);
    }

    #[test]
    fn without_the_authoritys_key_a_new_one_is_made_beside_it() {
        let mut data = Data::new();
        advance(&mut data, START);
        data.remove(CA_KEY);
        assert_eq!(advance(&mut data, START), Step::Authority);
        assert_eq!(Material::read(&data).authorities.len(), 2);
        assert_eq!(Material::read(&data).issuer(), Some(1), "the old certificate goes on");
    }

    #[test]
    fn another_name_of_the_service_needs_another_certificate() {
        let mut data = Data::new();
        advance(&mut data, START);
        assert_eq!(next(&Material::read(&data), &["other.svc".to_owned()], START), Step::Serving);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever the moments at which somebody looks, the certificate that is served is valid and its issuer trusted.
        #[test]
        fn what_is_served_is_always_trusted(hours in proptest::collection::vec(0_i64..2000, 1..12), lose in 0_usize..12) {
            let mut data = Data::new();
            let mut now = START;
            advance(&mut data, now);
            for (index, hour) in hours.into_iter().enumerate() {
                now += Duration::hours(hour);
                if index == lose {
                    data.remove(CA_KEY);
                }
                // A replica looks every ten seconds; a few looks settle what was due.
                for _ in 0..4 {
                    advance(&mut data, now);
                    let material = Material::read(&data);
                    let serving = material.serving.as_ref().unwrap();
                    prop_assert!(material.issuer().is_some());
                    prop_assert!(serving.from <= now && now < serving.until);
                    prop_assert!(material.authorities.len() <= 4);
                    now += SPREAD;
                }
            }
        }
        #[test]
        fn any_contents_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), name in "(ca|tls)\\.(crt|key)") {
            let mut data = Data::new();
            data.insert(name, zeroize::Zeroizing::new(bytes));
            let _ = Material::read(&data);
        }
    }
}
