use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use keyward_core::address;
use percent_encoding::percent_decode_str;

/// Which proxy HTTPS requests go through, by the variables that curl made customary.
#[derive(Clone, Default)]
pub struct ProxySettings {
    set: Option<Arc<Set>>,
}

struct Set {
    /// Never told the user part: nothing can print what it does not hold.
    matcher: Matcher,
    authorization: Option<HeaderValue>,
}

/// The proxy of one request. No `Debug`: it holds a password.
pub(crate) struct Proxy {
    /// Scheme, host and port.
    pub(crate) uri: Uri,
    /// Basic authentication, when the address has a user part.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Host and port, as it may be printed.
    pub(crate) fn name(&self) -> String {
        self.uri.authority().map_or_else(|| "?".to_owned(), |authority| authority.as_str().to_owned())
    }
}

impl ProxySettings {
    /// No proxy for anything.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper case first and then in lower case.
    ///
    /// The scheme of a proxy is `http` (also when none is written) or `https`. What stands before the last `@` is user
    /// and password, percent-decoded and sent as basic authentication (RFC 7617). Anything else, SOCKS included, counts as not set. `HTTP_PROXY` is not read: no plain HTTP
    /// request of Keyward may go through a proxy. `NO_PROXY` holds names (with their subdomains), addresses, networks or `*`, separated by
    /// commas.
    #[must_use]
    pub fn from_vars(vars: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&str; 2]| {
            names.iter().find_map(|name| vars(name)).filter(|value| !value.trim().is_empty())
        };
        let https = first(["HTTPS_PROXY", "https_proxy"]).or_else(|| first(["ALL_PROXY", "all_proxy"]));
        let Some(https) = https else { return Self::none() };
        let no = first(["NO_PROXY", "no_proxy"]).unwrap_or_default();
        let (address, authorization) = without_user(https.trim());
        let matcher = Matcher::builder().https(address).no(no).build();
        Self { set: Some(Arc::new(Set { matcher, authorization })) }
    }

    /// Host and port of the proxy that a request to `host` goes through, for `doctor`.
    #[must_use]
    pub fn for_host(&self, host: &str) -> Option<String> {
        let uri = Uri::builder().scheme("https").authority(host).path_and_query("/").build().ok()?;
        self.intercept(&uri).map(|proxy| proxy.name())
    }

    /// The proxy for `uri`, which is HTTPS. Loopback never goes through one, as in most HTTP clients.
    pub(crate) fn intercept(&self, uri: &Uri) -> Option<Proxy> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let loopback = host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if loopback {
            return None;
        }
        let set = self.set.as_ref()?;
        let uri = set.matcher.intercept(uri)?.uri().clone();
        matches!(uri.scheme_str(), Some("http" | "https"))
            .then(|| Proxy { uri, authorization: set.authorization.clone() })
    }
}

/// A proxy's address without its user part, and that part as basic authentication. The user ends at the first colon.
fn without_user(text: &str) -> (String, Option<HeaderValue>) {
    let (scheme, rest) = text.split_once("://").map_or(("http", text), |(scheme, rest)| (scheme, rest));
    let (user, rest) = address::split_user(rest);
    let authorization = user.and_then(|user| {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let mut pair: Vec<u8> = percent_decode_str(user).collect();
        pair.push(b':');
        pair.extend(percent_decode_str(password));
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(&pair))).ok()?;
        value.set_sensitive(true);
        Some(value)
    });
    (format!("{scheme}://{rest}"), authorization)
}

/// Without user and password.
impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.set.is_some() { "ProxySettings(set)" } else { "ProxySettings(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(pairs: &[(&str, &str)]) -> ProxySettings {
        ProxySettings::from_vars(&|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn https_proxy_is_used_for_a_vault_and_the_upper_case_name_wins() {
        let proxy =
            settings(&[("HTTPS_PROXY", "http://a.example:3128"), ("https_proxy", "http://b.example:1")]);
        assert_eq!(proxy.for_host("shop.vault.azure.net").as_deref(), Some("a.example:3128"));
    }

    #[test]
    fn all_proxy_stands_in_and_a_scheme_may_be_missing() {
        let proxy = settings(&[("all_proxy", "proxy.example:8080")]);
        assert_eq!(proxy.for_host("shop.vault.azure.net").as_deref(), Some("proxy.example:8080"));
    }

    #[test]
    fn no_proxy_spares_names_subdomains_addresses_and_networks() {
        let proxy = settings(&[
            ("HTTPS_PROXY", "http://p.example:3128"),
            ("NO_PROXY", "azure.net, .internal ,10.0.0.0/8,192.0.2.7"),
        ]);
        for spared in [
            "shop.vault.azure.net",
            "azure.net",
            "a.internal",
            "10.1.2.3",
            "192.0.2.7",
            "127.0.0.1",
            "[::1]:8443",
            "localhost",
        ] {
            assert_eq!(proxy.for_host(spared), None, "{spared}");
        }
        for proxied in ["notazure.net", "shop.vault.azure.cn", "11.0.0.1", "192.0.2.8"] {
            assert!(proxy.for_host(proxied).is_some(), "{proxied}");
        }
    }

    #[test]
    fn an_empty_unknown_or_socks_proxy_counts_as_none() {
        for value in ["", "  ", "socks5://p:1080", "ftp://p:21", "http://"] {
            assert_eq!(settings(&[("HTTPS_PROXY", value)]).for_host("a.example"), None, "{value:?}");
        }
    }

    #[test]
    fn http_proxy_alone_proxies_nothing() {
        assert_eq!(settings(&[("HTTP_PROXY", "http://p:3128")]).for_host("a.example"), None);
    }

    #[test]
    fn the_password_of_a_proxy_is_not_in_its_debug_text() {
        let proxy = settings(&[("HTTPS_PROXY", "http://user:hunter2@p:3128")]);
        assert!(!format!("{proxy:?}").contains("hunter2"));
    }

    #[test]
    fn the_last_at_sign_splits_and_the_proxy_gets_the_whole_password() {
        for (address, pair) in [
            ("http://user:sec@ret@127.0.0.1:3129", &b"user:sec@ret"[..]),
            ("user:sec@ret@127.0.0.1:3129", b"user:sec@ret"),
            ("http://user:se/c?r#et@127.0.0.1:3129", b"user:se/c?r#et"),
            ("http://user:12/secret@127.0.0.1:3129/", b"user:12/secret"),
            ("http://user:s:e%40c%20ret@127.0.0.1:3129", b"user:s:e@c ret"),
            ("http://user:%ffsecret@127.0.0.1:3129", b"user:\xffsecret"),
            ("http://secret@127.0.0.1:3129", b"secret:"),
            ("http://:secret@127.0.0.1:3129", b":secret"),
            ("http://user:100%secret@127.0.0.1:3129", b"user:100%secret"),
        ] {
            let uri = Uri::from_static("https://a.example/");
            let proxy = settings(&[("HTTPS_PROXY", address)]).intercept(&uri).unwrap();
            assert_eq!(proxy.name(), "127.0.0.1:3129", "{address}");
            let sent = proxy.authorization.unwrap();
            let sent = sent.to_str().unwrap().strip_prefix("Basic ").unwrap();
            assert_eq!(STANDARD.decode(sent).unwrap(), pair, "{address}");
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_user_part_is_in_the_proxys_name(user in "\\PC{0,12}", password in "[ -~]{0,24}") {
            let address = format!("http://{user}:{password}@p.example:3128");
            if let Some(name) = settings(&[("HTTPS_PROXY", &address)]).for_host("a.example") {
                prop_assert_eq!(name, "p.example:3128");
            }
        }

        #[test]
        fn any_variables_are_read_without_panic_and_star_spares_everything(value in "\\PC{0,80}", no in "\\PC{0,80}", host in "[a-z]{1,12}(\\.[a-z]{1,12}){0,3}") {
            let _ = settings(&[("HTTPS_PROXY", &value), ("NO_PROXY", &no)]).for_host(&host);
            prop_assert_eq!(settings(&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "*")]).for_host(&host), None);
        }

        #[test]
        fn a_name_in_no_proxy_spares_itself_and_its_subdomains_only(name in "[a-z]{1,10}\\.[a-z]{2,5}", label in "[a-z]{1,8}") {
            let proxy = settings(&[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", &name)]);
            prop_assert_eq!(proxy.for_host(&name), None);
            prop_assert_eq!(proxy.for_host(&format!("{label}.{name}")), None);
            let other = format!("{label}{name}");
            prop_assert!(proxy.for_host(&other).is_some());
        }
    }
}
