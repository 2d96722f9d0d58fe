use std::fmt;
use std::sync::Arc;

use azure_core::credentials::{AccessToken as SdkToken, TokenCredential, TokenRequestOptions};
use keyward_core::AccessToken;
use parking_lot::Mutex;
use time::OffsetDateTime;

/// The token in hand, for the SDK to sign requests with.
///
/// Tokens come from the [`TokenSource`](keyward_core::TokenSource) before the SDK is called at all, so that this never
/// waits: the SDK asks for a token under a lock, where one slow exchange would hold up every request in turn.
#[derive(Clone, Default)]
pub(super) struct TokenInHand(Arc<Mutex<Option<AccessToken>>>);

impl TokenInHand {
    pub(super) fn set(&self, token: AccessToken) {
        *self.0.lock() = Some(token);
    }

    pub(super) fn get(&self) -> Option<AccessToken> {
        self.0.lock().clone()
    }
}

/// Shows nothing of the token.
impl fmt::Debug for TokenInHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenInHand")
    }
}

#[async_trait::async_trait]
impl TokenCredential for TokenInHand {
    async fn get_token(
        &self,
        _scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<SdkToken> {
        let text = self.get().and_then(|token| token.secret.expose_str().map(str::to_owned));
        let text = text.ok_or_else(|| {
            azure_core::Error::with_message(azure_core::error::ErrorKind::Credential, "no token in hand")
        })?;
        // Long expired, so that the SDK keeps no cache of its own and asks again for each request.
        Ok(SdkToken::new(text, OffsetDateTime::UNIX_EPOCH))
    }
}
