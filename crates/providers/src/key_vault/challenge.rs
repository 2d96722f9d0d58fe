use keyward_core::{Code, Error, Result, VaultHost};
use url::Url;

/// Longest challenge that is looked at, in bytes.
const MAX_CHALLENGE: usize = 4096;

/// What a vault says when it is asked without a token
/// ([authentication, requests and responses](https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The tenant that the vault trusts: the first path segment of `authorization` (or `authorization_uri`), when it
    /// is written in letters, digits, dots and hyphens.
    pub tenant: Option<String>,
    /// The audience that a token must have, without a trailing slash or `/.default`.
    pub resource: String,
}

/// Parses the `WWW-Authenticate` header of a 401: parameters in any order, separated by commas or blanks.
///
/// # Errors
/// `KW_VAULT_PROTOCOL` when it names neither `resource` nor `scope`.
pub fn parse_challenge(header: &[u8]) -> Result<Challenge> {
    let bad = || Error::new(Code::VaultProtocol, "the vault's challenge names no resource");
    let text = std::str::from_utf8(header).ok().filter(|text| text.len() <= MAX_CHALLENGE).ok_or_else(bad)?;
    let resource = parameter(text, "resource").or_else(|| parameter(text, "scope")).ok_or_else(bad)?;
    let resource = resource.strip_suffix("/.default").unwrap_or(resource).trim_end_matches('/');
    if resource.is_empty() || !resource.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad());
    }
    let tenant = parameter(text, "authorization")
        .or_else(|| parameter(text, "authorization_uri"))
        .and_then(|authority| authority.split_once("://"))
        .and_then(|(_, rest)| rest.split('/').nth(1))
        .filter(|tenant| is_tenant(tenant))
        .map(str::to_owned);
    Ok(Challenge { tenant, resource: resource.to_owned() })
}

impl Challenge {
    /// The resource, if `host` lies below it: a vault may ask for tokens of its own service and no other, so that a
    /// token never reaches a host that could use it elsewhere. The dot matters: `evilvault.azure.net` is not below
    /// `vault.azure.net`.
    ///
    /// # Errors
    /// `KW_CHALLENGE_MISMATCH` otherwise.
    pub(super) fn verify(&self, host: &VaultHost) -> Result<String> {
        let resource = Url::parse(&self.resource).ok().filter(|url| url.scheme() == "https");
        let domain = resource.as_ref().and_then(Url::domain);
        match domain {
            Some(domain) if host.name().strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')) => {
                Ok(format!("https://{domain}"))
            }
            _ => Err(Error::new(
                Code::ChallengeMismatch,
                format!(
                    "the vault {host} asks for a token of a service that it does not belong to, so it gets none; \
                     for a vault behind another name an administrator may list the host as one whose challenge is not \
                     verified"
                ),
            )),
        }
    }

    /// The vault's tenant, when it is certainly not `ours`: both are known and written as ids.
    pub(super) fn other_tenant(&self, ours: &str) -> Option<&str> {
        let theirs = self.tenant.as_deref()?;
        (is_guid(theirs) && is_guid(ours) && !theirs.eq_ignore_ascii_case(ours)).then_some(theirs)
    }
}

/// The quoted value of a parameter, found at a word's beginning so that `resource_id` is not `resource`.
fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("=\"") {
        let key = before.rsplit([',', ' ', '\t']).next().unwrap_or_default();
        let (value, behind) = after.split_once('"')?;
        if key.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = behind;
    }
    None
}

fn is_tenant(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TENANT: &str = "11111111-2222-3333-4444-555555555555";

    fn parse(text: &str) -> Result<Challenge> {
        parse_challenge(text.as_bytes())
    }

    #[test]
    fn the_observed_challenge_and_its_variants_say_the_same() {
        let plain = format!(
            r#"Bearer authorization="https://login.windows.net/{TENANT}", resource="https://vault.azure.net""#
        );
        let expected =
            Challenge { tenant: Some(TENANT.to_owned()), resource: "https://vault.azure.net".to_owned() };
        assert_eq!(parse(&plain).unwrap(), expected);
        for other in [
            format!(
                r#"Bearer resource="https://vault.azure.net/" authorization="https://x.y/{TENANT}/oauth2""#
            ),
            format!(
                r#"bearer Scope="https://vault.azure.net/.default",AUTHORIZATION_URI="https://x.y/{TENANT}""#
            ),
            format!(
                r#"PoP nonce="=", Bearer authorization="https://x.y/{TENANT}", resource="https://vault.azure.net""#
            ),
        ] {
            assert_eq!(parse(&other).unwrap(), expected, "{other}");
        }
    }

    #[test]
    fn a_challenge_without_resource_is_refused() {
        for text in [
            "",
            "Bearer",
            r#"Bearer authorization="https://x/y""#,
            r#"Bearer resource="""#,
            r#"Bearer resource="x"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_vault_may_ask_for_tokens_of_its_own_service_only() {
        let verify = |host: &str, resource: &str| {
            Challenge { tenant: None, resource: resource.to_owned() }.verify(&VaultHost::parse(host).unwrap())
        };
        assert_eq!(
            verify("shop.vault.azure.net", "https://vault.azure.net").unwrap(),
            "https://vault.azure.net"
        );
        assert_eq!(
            verify("shop.vault.azure.net:8443", "https://vault.azure.net").unwrap(),
            "https://vault.azure.net"
        );
        for (host, resource) in [
            ("evilvault.azure.net", "https://vault.azure.net"),
            ("vault.azure.net", "https://vault.azure.net"),
            ("shop.vault.azure.net", "https://management.azure.com"),
            ("shop.vault.azure.net", "http://vault.azure.net"),
            ("shop.vault.azure.net", "vault.azure.net"),
            ("127.0.0.1", "https://0.0.1"),
        ] {
            assert_eq!(
                verify(host, resource).unwrap_err().code(),
                Code::ChallengeMismatch,
                "{host} {resource}"
            );
        }
    }

    #[test]
    fn only_two_ids_that_differ_are_different_tenants() {
        let challenge = Challenge { tenant: Some(TENANT.to_owned()), resource: String::new() };
        assert_eq!(challenge.other_tenant("99999999-2222-3333-4444-555555555555"), Some(TENANT));
        assert_eq!(challenge.other_tenant(&TENANT.to_uppercase()), None);
        assert_eq!(challenge.other_tenant("contoso.onmicrosoft.com"), None);
        assert_eq!(challenge.other_tenant(""), None);
    }

    proptest! {
        #[test]
        fn any_header_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "(Bearer|authorization|resource|scope|=\"|\"|,| |https://|/|[a-z.]{1,5}){0,20}") {
            for header in [bytes.as_slice(), text.as_bytes()] {
                if let Ok(challenge) = parse_challenge(header) {
                    prop_assert!(!challenge.resource.is_empty());
                    prop_assert!(challenge.tenant.is_none_or(|tenant| is_tenant(&tenant)));
                }
            }
        }

        #[test]
        fn a_verified_resource_is_always_a_parent_domain_of_the_host(host in "[a-c]{1,3}(\\.[a-c]{1,3}){0,3}", resource in "https://[a-c]{1,3}(\\.[a-c]{1,3}){0,3}/?") {
            let challenge = parse(&format!("Bearer resource=\"{resource}\"")).unwrap();
            if let Ok(verified) = challenge.verify(&VaultHost::parse(&host).unwrap()) {
                let suffix = format!(".{}", verified.strip_prefix("https://").unwrap());
                prop_assert!(host.ends_with(&suffix));
            }
        }
    }
}
