use std::sync::Arc;

use keyward_memory::LockedBytes;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Secret bytes: shared without copying, held in the locked arena, wiped when the last holder lets go.
///
/// There is no `Debug`, `Display`, `Serialize` or `PartialEq`: [`SecretBytes::expose`] is the one way to the bytes, so
/// that every place that touches a value can be found by that word.
#[derive(Clone)]
pub struct SecretBytes(Arc<LockedBytes>);

impl SecretBytes {
    /// Takes over `bytes` and wipes the vector it came in.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        let secret = Self::copy_from(&bytes);
        bytes.zeroize();
        secret
    }

    /// Copies `bytes`; the caller remains responsible for its own copy.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Arc::new(LockedBytes::copy_from(bytes)))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The bytes as text, or `None` when they are not UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(self.expose()).ok()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.expose().len()
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }

    /// Whether both are the very same memory: no byte is looked at.
    #[must_use]
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Equality in time that depends on the lengths only, and on whether both share the very same memory.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.expose().ct_eq(other.expose()).into()
    }
}

/// Lets `bytes::Bytes::from_owner` borrow a secret without a copy.
impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        self.expose()
    }
}

impl From<String> for SecretBytes {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

/// Fails to compile when someone gives the type one of the traits that would let it leak.
macro_rules! lacks {
    ($($name:ident),*) => {
        const _: () = {
            $(
                #[allow(non_snake_case, dead_code)]
                fn $name() {
                    trait Ambiguous<A> { fn item() {} }
                    impl<T: ?Sized> Ambiguous<()> for T {}
                    struct Has;
                    impl<T: ?Sized + probe::$name> Ambiguous<Has> for T {}
                    let _ = <SecretBytes as Ambiguous<_>>::item;
                }
            )*
        };
    };
}
mod probe {
    pub(super) use serde::Serialize;
    pub(super) use std::cmp::PartialEq as Equality;
    pub(super) use std::fmt::{Debug, Display};
}
lacks!(Debug, Display, Serialize, Equality);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_gives_back_its_bytes_only_through_expose() {
        let secret = SecretBytes::new(b"hunter2".to_vec());
        assert!(secret.expose() == b"hunter2" && secret.len() == 7 && !secret.is_empty());
        assert!(secret.same_as(&SecretBytes::copy_from(b"hunter2")));
        assert!(!secret.same_as(&SecretBytes::copy_from(b"hunter3")));
    }
}
