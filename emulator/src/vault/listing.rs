//! Pages of listings.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::error::VaultError;
use crate::faults::ListingFaults;

/// Entries on a page, at most and by default.
const PAGE: usize = 25;

/// Which page of a listing was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageRequest {
    pub(crate) size: usize,
    /// The sort key after which the page begins.
    pub(crate) after: Option<String>,
    /// Set on the continuation of a page that was left empty by a fault.
    pub(crate) emptied: bool,
}

impl PageRequest {
    pub(crate) fn parse(max_results: Option<&str>, skip_token: Option<&str>) -> Result<Self, VaultError> {
        let size = match max_results {
            None => PAGE,
            Some(text) => text.parse().ok().filter(|size| (1..=PAGE).contains(size)).ok_or_else(|| {
                VaultError::bad_parameter("Property maxresults has an invalid value: 1 to 25.")
            })?,
        };
        let Some(token) = skip_token else {
            return Ok(Self { size, after: None, emptied: false });
        };
        let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let bad = || VaultError::bad_parameter("The skip token is not valid.");
        let (emptied, after) = match decoded.ok_or_else(bad)?.split_once(':') {
            Some(("next", after)) => (false, after.to_owned()),
            Some(("full", after)) => (true, after.to_owned()),
            _ => return Err(bad()),
        };
        Ok(Self { size, after: Some(after), emptied })
    }

    fn token(kind: &str, after: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{kind}:{after}"))
    }
}

/// Where the listing lives, for `nextLink`.
pub(crate) struct ListingAddress<'a> {
    /// Host and port as the client wrote them.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) api_version: &'a str,
}

impl ListingAddress<'_> {
    /// Key Vault writes the port even when it is the default one.
    fn link(&self, origin: Option<&str>, size: usize, token: &str) -> String {
        let origin = match origin {
            Some(foreign) => foreign.to_owned(),
            None if self.authority.contains(':') => format!("https://{}", self.authority),
            None => format!("https://{}:443", self.authority),
        };
        format!("{origin}{}?api-version={}&$skiptoken={token}&maxresults={size}", self.path, self.api_version)
    }
}

/// Cuts one page out of `entries`, which are sorted by their first member.
pub(crate) fn page(
    entries: Vec<(String, Value)>,
    request: &PageRequest,
    address: &ListingAddress<'_>,
    faults: &ListingFaults,
) -> Value {
    let origin = faults.foreign_origin.as_deref();
    let after = request.after.clone().unwrap_or_default();
    if faults.empty_pages && !request.emptied {
        let token = PageRequest::token("full", &after);
        return json!({ "value": [], "nextLink": address.link(origin, request.size, &token) });
    }
    let mut rest = entries.into_iter().filter(|(key, _)| request.after.is_none() || *key > after).peekable();
    let mut shown = Vec::new();
    let mut last = after.clone();
    while shown.len() < request.size {
        let Some((key, entry)) = rest.next() else { break };
        last = key;
        shown.push(entry);
    }
    let next = if faults.endless {
        Some(PageRequest::token("next", &after))
    } else if rest.peek().is_some() || origin.is_some() {
        Some(PageRequest::token("next", &last))
    } else {
        None
    };
    json!({ "value": shown, "nextLink": next.map(|token: String| address.link(origin, request.size, &token)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: ListingAddress<'static> =
        ListingAddress { authority: "shop.vault.azure.net", path: "/secrets", api_version: "7.4" };

    fn entries(count: usize) -> Vec<(String, Value)> {
        (0..count).map(|n| (format!("{n:04}"), json!(n))).collect()
    }

    fn follow(count: usize, faults: &ListingFaults, most_pages: usize) -> (Vec<i64>, usize) {
        let (mut seen, mut pages, mut token) = (Vec::new(), 0, None::<String>);
        loop {
            let request = PageRequest::parse(None, token.as_deref()).expect("own token");
            let page = page(entries(count), &request, &ADDRESS, faults);
            pages += 1;
            seen.extend(page["value"].as_array().expect("array").iter().filter_map(Value::as_i64));
            let next = page["nextLink"].as_str();
            let Some(next) = next.filter(|_| pages < most_pages) else { return (seen, pages) };
            token = next
                .split_once("$skiptoken=")
                .and_then(|(_, t)| t.split_once('&'))
                .map(|(t, _)| t.to_owned());
        }
    }

    #[test]
    fn pages_hold_25_and_together_everything_once() {
        for (count, pages) in [(0, 1), (1, 1), (25, 1), (26, 2), (50, 2), (51, 3)] {
            let (seen, took) = follow(count, &ListingFaults::default(), 100);
            assert_eq!(seen, (0..i64::try_from(count).expect("small")).collect::<Vec<_>>());
            assert_eq!(took, pages, "{count}");
        }
    }

    #[test]
    fn empty_pages_come_between_but_nothing_is_lost() {
        let faults = ListingFaults { empty_pages: true, ..ListingFaults::default() };
        let (seen, pages) = follow(30, &faults, 100);
        assert_eq!((seen.len(), pages), (30, 4));
    }

    #[test]
    fn an_endless_listing_never_ends() {
        let faults = ListingFaults { endless: true, ..ListingFaults::default() };
        assert_eq!(follow(3, &faults, 40).1, 40);
    }

    #[test]
    fn the_next_link_names_the_port_even_when_it_is_443() {
        let request = PageRequest::parse(Some("1"), None).expect("valid");
        let page = page(entries(2), &request, &ADDRESS, &ListingFaults::default());
        let link = page["nextLink"].as_str().expect("there is more");
        assert!(
            link.starts_with("https://shop.vault.azure.net:443/secrets?api-version=7.4&$skiptoken="),
            "{link}"
        );
    }

    #[test]
    fn page_sizes_above_25_and_made_up_tokens_are_refused() {
        for (size, token) in [(Some("26"), None), (Some("0"), None), (Some("x"), None), (None, Some("%%"))] {
            assert!(PageRequest::parse(size, token).is_err());
        }
    }
}
