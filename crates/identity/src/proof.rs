use std::path::PathBuf;

use async_trait::async_trait;
use keyward_core::{Result, SecretBytes};

use crate::entra::Entra;
use crate::exchange::{Exchange, Issued};

/// Where that which proves who we are is found. There is no `Debug`: some of it is held in memory.
pub(crate) enum ProofSource {
    /// A federated token in a file, read anew each time.
    TokenFile(PathBuf),
    /// A federated token that was passed to us.
    Token(SecretBytes),
    /// A client secret in a file, read anew each time.
    SecretFile(PathBuf),
    /// A client secret that was passed to us.
    Secret(SecretBytes),
    /// A certificate that signs assertions, read anew each time.
    CertificateFile { path: PathBuf, password_file: Option<PathBuf>, send_chain: bool },
}

impl ProofSource {
    /// Whether reading it again may give another proof.
    pub(crate) fn may_change(&self) -> bool {
        !matches!(self, Self::Token(_) | Self::Secret(_))
    }
}

/// Entra with one proof for good: what a process with one identity uses.
pub(crate) struct EntraExchange {
    pub(crate) entra: Entra,
    pub(crate) source: ProofSource,
}

#[async_trait]
impl Exchange for EntraExchange {
    async fn exchange(&self, resource: &str) -> Result<Issued> {
        self.entra.exchange(&self.source, resource).await
    }
}
