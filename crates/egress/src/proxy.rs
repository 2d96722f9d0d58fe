use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// Which proxy HTTPS requests go through, by the variables that curl made customary.
#[derive(Clone, Default)]
pub struct ProxySettings {
    matcher: Option<Arc<Matcher>>,
}

impl ProxySettings {
    /// No proxy for anything.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper case first and then in lower case.
    ///
    /// The scheme of a proxy is `http` (also when none is written) or `https`; user and password in its URL become
    /// basic authentication. Anything else, SOCKS included, counts as not set. `HTTP_PROXY` is not read: no plain HTTP
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
        Self { matcher: Some(Arc::new(Matcher::builder().https(https.trim().to_owned()).no(no).build())) }
    }

    /// Host and port of the proxy that a request to `host` goes through, for `doctor`.
    #[must_use]
    pub fn for_host(&self, host: &str) -> Option<String> {
        let uri = Uri::builder().scheme("https").authority(host).path_and_query("/").build().ok()?;
        self.intercept(&uri)
            .and_then(|intercept| intercept.uri().authority().map(|authority| authority.as_str().to_owned()))
    }

    /// The proxy for `uri`, which is HTTPS. Loopback never goes through one, as in most HTTP clients.
    pub(crate) fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let loopback = host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if loopback {
            return None;
        }
        self.matcher
            .as_ref()?
            .intercept(uri)
            .filter(|intercept| matches!(intercept.uri().scheme_str(), Some("http" | "https")))
    }
}

/// Without user and password.
impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.matcher.is_some() { "ProxySettings(set)" } else { "ProxySettings(none)" })
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

    proptest! {
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
