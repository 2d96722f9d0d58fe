//! Wire contracts of Keyward: the keyward.secrets.v1 package.
