use std::collections::HashSet;

use azure_core::http::Url;
use keyward_core::{Code, Error, Result, VaultHost};

use super::clients::Listing;
use super::wire::{Page, PageItem};

/// A listing of 10,000 objects; whoever has more than that in one vault watches them by single gets.
pub(super) const MAX_PAGES: usize = 400;

/// Follows a listing from page to page: never to another origin, never in a circle, never without end.
pub(super) struct Walk<'a> {
    host: &'a VaultHost,
    endpoint: &'a Url,
    listing: Listing<'a>,
    limit: usize,
    pages: usize,
    seen: HashSet<String>,
    pub(super) items: Vec<PageItem>,
}

/// Where to go from here.
#[derive(Debug)]
pub(super) enum Step {
    /// The listing is complete, or `limit` entries are there.
    Done,
    /// The next page.
    Next(Url),
}

impl<'a> Walk<'a> {
    pub(super) fn new(host: &'a VaultHost, endpoint: &'a Url, listing: Listing<'a>, limit: usize) -> Self {
        Self { host, endpoint, listing, limit, pages: 0, seen: HashSet::new(), items: Vec::new() }
    }

    /// Takes in a page.
    pub(super) fn take(&mut self, page: Page) -> Result<Step> {
        if !page.items.iter().all(|item| self.belongs(item)) {
            return Err(Error::new(Code::VaultProtocol, "the listing holds what was not asked for"));
        }
        self.pages = self.pages.saturating_add(1);
        self.items.extend(page.items);
        if self.items.len() >= self.limit {
            self.items.truncate(self.limit);
            return Ok(Step::Done);
        }
        let Some(link) = page.next else { return Ok(Step::Done) };
        let url = self.endpoint.join(&link).map_err(|_| {
            Error::new(Code::VaultProtocol, "the link to the listing's next page is not a URL")
        })?;
        if url.origin() != self.endpoint.origin() {
            return Err(Error::new(
                Code::OriginRefused,
                "the listing's next page lies at another host, which gets no token from us",
            ));
        }
        if !self.seen.insert(url.as_str().to_owned()) {
            return Err(Error::new(Code::VaultProtocol, "the listing leads in a circle"));
        }
        if self.pages >= MAX_PAGES {
            return Err(Error::new(
                Code::VaultProtocol,
                format!("the listing does not end within {MAX_PAGES} pages"),
            ));
        }
        Ok(Step::Next(url))
    }

    fn belongs(&self, item: &PageItem) -> bool {
        let of_listing = match self.listing {
            Listing::Objects(collection) => item.id.collection() == collection,
            Listing::Versions(object) => {
                item.id.collection() == object.collection()
                    && item.id.name().eq_ignore_ascii_case(object.name())
                    && item.id.version().is_some()
            }
        };
        of_listing && item.id.host().name() == self.host.name()
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Attributes, parse_id};
    use super::*;
    use keyward_core::Collection;
    use proptest::prelude::*;

    fn page(next: &str) -> Page {
        let id = parse_id("https://shop.vault.azure.net/secrets/a").unwrap();
        Page {
            items: vec![PageItem { id, attributes: Attributes::default() }],
            next: Some(next.to_owned()).filter(|next| !next.is_empty()),
        }
    }

    fn walk<T>(limit: usize, act: impl FnOnce(&mut Walk<'_>) -> T) -> T {
        let host = VaultHost::parse("shop.vault.azure.net").unwrap();
        let endpoint = Url::parse("https://shop.vault.azure.net/").unwrap();
        act(&mut Walk::new(&host, &endpoint, Listing::Objects(Collection::Secrets), limit))
    }

    #[test]
    fn a_link_is_followed_only_within_the_vaults_own_origin() {
        for (link, code) in [
            ("https://evil.example/secrets?$skiptoken=1", Some(Code::OriginRefused)),
            ("http://shop.vault.azure.net/secrets", Some(Code::OriginRefused)),
            ("https://shop.vault.azure.net:8443/secrets", Some(Code::OriginRefused)),
            ("//evil.example/secrets", Some(Code::OriginRefused)),
            ("data:text/plain,x", Some(Code::OriginRefused)),
            ("https://shop.vault.azure.net:443/secrets?$skiptoken=1", None),
            ("https://SHOP.vault.azure.net/secrets?$skiptoken=1", None),
            ("/secrets?$skiptoken=1", None),
        ] {
            let step = walk(100, |walk| walk.take(page(link)));
            assert_eq!(step.err().map(|error| error.code()), code, "{link}");
        }
    }

    #[test]
    fn a_listing_that_leads_in_a_circle_or_never_ends_is_given_up() {
        walk(usize::MAX, |walk| {
            assert!(matches!(walk.take(page("/secrets?a")), Ok(Step::Next(_))));
            assert!(walk.take(page("/secrets?a")).is_err());
        });
        walk(usize::MAX, |walk| {
            let pages = (0..).take_while(|n| walk.take(page(&format!("/secrets?{n}"))).is_ok()).count();
            assert_eq!(pages, MAX_PAGES - 1);
        });
    }

    #[test]
    fn a_listing_stops_at_its_limit_and_refuses_foreign_objects() {
        assert!(matches!(walk(1, |walk| walk.take(page("/secrets?a"))), Ok(Step::Done)));
        for other in ["https://evil.example/secrets/a", "https://shop.vault.azure.net/keys/a"] {
            let mut foreign = page("");
            foreign.items[0].id = parse_id(other).unwrap();
            assert_eq!(walk(9, |walk| walk.take(foreign)).unwrap_err().code(), Code::VaultProtocol);
        }
    }

    proptest! {
        #[test]
        fn no_link_leads_away(link in "(https://|http://|//|/|shop\\.vault\\.azure\\.net|evil\\.example|@|:443|\\?a|#|\\\\|[a-z]{1,4}){1,6}") {
            if let Ok(Step::Next(url)) = walk(100, |walk| walk.take(page(&link))) {
                prop_assert_eq!(url.origin().ascii_serialization(), "https://shop.vault.azure.net");
            }
        }
    }
}
