use keyward_core::SecretBytes;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroize as _;

/// An `application/x-www-form-urlencoded` body that may hold a secret: no copy of it is left behind.
#[derive(Default)]
pub(super) struct Form(String);

impl Form {
    pub(super) fn field(self, name: &str, value: &str) -> Self {
        self.pair(name, value.as_bytes())
    }

    pub(super) fn secret(self, name: &str, value: &SecretBytes) -> Self {
        self.pair(name, value.expose())
    }

    pub(super) fn into_body(mut self) -> SecretBytes {
        SecretBytes::from(std::mem::take(&mut self.0))
    }

    fn pair(mut self, name: &str, value: &[u8]) -> Self {
        // Every byte takes at most three; growing by hand, since a reallocation would leave the old text unwiped.
        let needed = value
            .len()
            .saturating_mul(3)
            .saturating_add(name.len())
            .saturating_add(self.0.len())
            .saturating_add(2);
        if self.0.capacity() < needed {
            let mut larger = String::with_capacity(needed);
            larger.push_str(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(byte_serialize(value));
        self
    }
}

impl Drop for Form {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_reads_back_as_it_was_written() {
        let secret = SecretBytes::copy_from("a+b/c=& ä".as_bytes());
        let body = Form::default()
            .field("scope", "https://vault.azure.net/.default")
            .secret("client_secret", &secret)
            .into_body();
        let pairs: Vec<_> = url::form_urlencoded::parse(body.expose()).into_owned().collect();
        assert_eq!(pairs[0], ("scope".to_owned(), "https://vault.azure.net/.default".to_owned()));
        assert_eq!(pairs[1], ("client_secret".to_owned(), "a+b/c=& ä".to_owned()));
    }
}
