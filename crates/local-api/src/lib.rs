//! The keyward.secrets.v1 service over the broker on a Unix socket.
