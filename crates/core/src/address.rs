//! Addresses that an administrator, an environment variable or a pod writes. Each may carry a password, so they are
//! read and shown here and nowhere else: an address with a user part is refused without quoting it, and what is shown
//! is scheme, host and port.

use url::Url;

/// Reads a URL without a user part.
///
/// An `@` is refused anywhere, not only where the URL standard sees a user part: in `https://user:1/2@host` the
/// standard finds the host `user`, while its writer meant a password. In a path or a query it is written `%40`.
///
/// # Errors
/// What is wrong, as the end of a sentence that begins with the setting's name. Nothing of the address is quoted.
pub fn parse(text: &str) -> Result<Url, &'static str> {
    if text.contains('@') {
        return Err("must not hold a user or a password; an @ in a path is written %40");
    }
    Url::parse(text).map_err(|_| "is not a URL")
}

/// The user part of an authority and what follows it. The last `@` splits, as in curl, so that a password may hold
/// one unescaped.
#[must_use]
pub fn split_user(authority: &str) -> (Option<&str>, &str) {
    match authority.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, authority),
    }
}

/// Scheme, host and port: all of a URL that may be printed.
#[must_use]
pub fn show(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_user_part_is_refused_in_every_form_and_not_quoted() {
        for text in [
            "https://user:hunter2@a.example/",
            "https://:hunter2@a.example",
            "https://hunter2@a.example",
            "https://user:hun@ter2@a.example",
            "https://user:hun/ter2@a.example",
            "https:/user:hunter2@a.example",
            "https:\\\\user:hunter2@a.example",
            "user:hunter2@a.example",
            "https://user:12/hunter2@a.example",
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains("must not hold a user or a password"), "{text}: {message}");
        }
    }

    #[test]
    fn the_last_at_sign_splits() {
        assert_eq!(split_user("user:sec@ret@127.0.0.1:3129"), (Some("user:sec@ret"), "127.0.0.1:3129"));
        assert_eq!(split_user("127.0.0.1:3129"), (None, "127.0.0.1:3129"));
        assert_eq!(split_user("@"), (Some(""), ""));
    }

    proptest! {
        #[test]
        fn what_is_shown_of_any_url_holds_neither_user_nor_path(user in "[a-z]{1,8}", password in "\\PC{1,20}", path in "[a-z]{9,12}") {
            let mut url = Url::parse("https://shop.example:8443/").unwrap();
            url.set_username(&user).unwrap();
            url.set_password(Some(&password)).unwrap();
            url.set_path(&path);
            prop_assert_eq!(show(&url), "https://shop.example:8443");
            prop_assert!(parse(url.as_str()).is_err());
        }
    }
}
