use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;

/// The little of HTTP that notification and trace export need; `app.rs` fills it from egress.
#[async_trait]
pub trait HttpPost: Send + Sync {
    /// Posts `body` and returns the status; redirects are not followed and the answer's body is dropped.
    ///
    /// # Errors
    /// When no answer comes within `timeout`, or the URL is not one that this client may reach.
    async fn post(&self, url: &str, content_type: &str, body: Bytes, timeout: Duration) -> Result<u16>;
}
