//! Keeps the Secret, the API server's trust and the certificate in use in step.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Clock, Result};
use keyward_kubernetes::{Change, OwnObjects};
use time::OffsetDateTime;

use super::material::{CA_CERTIFICATES, CERTIFICATE, Data, KEY, Material};
use super::plan::Step;
use super::{Serving, issue, plan};

/// How often the Secret is read.
const EVERY: Duration = Duration::from_secs(10);
/// After a failure, or when someone else is at it.
const SOON: Duration = Duration::from_secs(1);
/// How long a replica has the right to renew.
const LEASE: Duration = Duration::from_secs(15);

/// Which objects.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) secret: String,
    pub(crate) webhook: String,
    pub(crate) lease: String,
    /// The serving certificate's.
    pub(crate) dns: Vec<String>,
    /// This replica's own.
    pub(crate) replica: String,
}

/// Keeps a serving certificate of our own.
pub(crate) struct Keeper {
    pub(crate) objects: OwnObjects,
    pub(crate) names: Names,
    pub(crate) serving: Arc<Serving>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Keeper {
    /// Works for ever; `is_well` hears after each round whether the API server trusts what is served.
    pub(crate) async fn run(self, is_well: impl Fn(bool) + Send) {
        let mut in_use = Data::new();
        let mut complained = false;
        loop {
            let outcome = self.round(&mut in_use).await;
            let pause = match &outcome {
                Ok(true) => EVERY,
                Ok(false) | Err(_) => SOON,
            };
            match outcome {
                Ok(_) => complained = false,
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%error, "the webhook's certificate cannot be looked after; trying again");
                }
                Err(_) => {}
            }
            // What is in use stays in use: a webhook that can be reached is better than none.
            is_well(self.serving.is_there());
            tokio::time::sleep(pause).await;
        }
    }

    /// One look; `false` when there is more to do at once.
    async fn round(&self, in_use: &mut Data) -> Result<bool> {
        let secret = self.objects.secret(&self.names.secret).await?;
        let now = OffsetDateTime::UNIX_EPOCH + self.clock.wall();
        let step = plan::next(&Material::read(&secret.data), &self.names.dns, now);
        if step != Step::Nothing {
            let (lease, replica) = (&self.names.lease, &self.names.replica);
            if self.objects.hold_lease(lease, replica, LEASE, now).await? {
                let changes = issue::perform(step, &secret.data, &self.names.dns, now)?;
                let change = self.objects.fill_secret(&self.names.secret, &secret, &changes).await?;
                if change == Change::Done {
                    tracing::info!(?step, "the webhook's certificates are renewed");
                }
                self.objects.release_lease(lease, replica).await?;
            }
            if step == Step::Everything {
                return Ok(false);
            }
        }
        let Some(bundle) = secret.data.get(CA_CERTIFICATES) else { return Ok(false) };
        // First trusted, then shown.
        if self.objects.trust(&self.names.webhook, bundle).await? == Change::Overtaken {
            return Ok(false);
        }
        let shown = [CERTIFICATE, KEY];
        if shown.iter().any(|part| in_use.get(*part) != secret.data.get(*part))
            && let [Some(chain), Some(key)] = shown.map(|part| secret.data.get(part))
        {
            self.serving.exchange(chain, key)?;
            for (part, value) in [(CERTIFICATE, chain), (KEY, key)] {
                in_use.insert(part.to_owned(), value.clone());
            }
            tracing::info!("serving with the certificate of the Secret");
        }
        Ok(step == Step::Nothing)
    }
}
