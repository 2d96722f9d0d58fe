//! Keeps the Secret, what the API server is told, and the certificate and paths in use in step.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Clock, Result};
use keyward_kubernetes::{Change, OwnObjects, Told};
use time::OffsetDateTime;

use super::material::{CA_CERTIFICATES, CERTIFICATE, Data, KEY, Material};
use super::plan::Step;
use super::{Serving, issue, plan};
use crate::paths::{self, Paths, Written};

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
    /// This replica's own.
    pub(crate) replica: String,
}

/// A certificate of our own.
pub(crate) struct Own {
    pub(crate) serving: Arc<Serving>,
    /// The names in it.
    pub(crate) dns: Vec<String>,
}

/// Keeps the webhook's paths, and a serving certificate where it is our own.
pub(crate) struct Keeper {
    pub(crate) objects: OwnObjects,
    pub(crate) names: Names,
    pub(crate) certificate: Option<Own>,
    pub(crate) paths: Arc<Paths>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Keeper {
    /// Works for ever; `look` is called after each round.
    pub(crate) async fn run(self, look: impl Fn() + Send) {
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
                    tracing::warn!(%error, "the webhook's certificate and path cannot be looked after; trying again");
                }
                Err(_) => {}
            }
            // What is in use stays in use: a webhook that can be reached is better than none.
            look();
            tokio::time::sleep(pause).await;
        }
    }

    /// One look; `false` when there is more to do at once.
    async fn round(&self, in_use: &mut Data) -> Result<bool> {
        let secret = self.objects.secret(&self.names.secret).await?;
        let now = self.now();
        let step = match &self.certificate {
            Some(own) => plan::next(&Material::read(&secret.data), &own.dns, now),
            None => Step::Nothing,
        };
        let written = Written::read(&secret.data);
        let path_step = paths::next(&written, now);
        let due = step != Step::Nothing || path_step != paths::Step::Nothing;
        if due {
            let (lease, replica) = (&self.names.lease, &self.names.replica);
            if self.objects.hold_lease(lease, replica, LEASE, now).await? {
                let mut changes = paths::perform(path_step, &written, now)?;
                if let Some(own) = &self.certificate {
                    changes.extend(issue::perform(step, &secret.data, &own.dns, now)?);
                }
                let change = self.objects.fill_secret(&self.names.secret, &secret, &changes).await?;
                if change == Change::Done {
                    tracing::info!(certificates = ?step, paths = ?path_step, "what the webhook keeps is renewed");
                }
                self.objects.release_lease(lease, replica).await?;
            }
        }
        // First answered at and trusted, then told and shown.
        let Some(path) = written.told(now).map(paths::path) else { return Ok(false) };
        self.paths.exchange(&written);
        let bundle = secret.data.get(CA_CERTIFICATES).map(|bundle| bundle.as_slice());
        if self.certificate.is_some() && (step == Step::Everything || bundle.is_none()) {
            return Ok(false);
        }
        let told = Told { bundle: bundle.filter(|_| self.certificate.is_some()), path: &path };
        if self.objects.tell(&self.names.webhook, told).await? == Change::Overtaken {
            return Ok(false);
        }
        if let Some(own) = &self.certificate {
            show(own, &secret.data, in_use)?;
        }
        Ok(!due)
    }

    fn now(&self) -> OffsetDateTime {
        let since = time::Duration::try_from(self.clock.wall()).unwrap_or(time::Duration::MAX);
        OffsetDateTime::UNIX_EPOCH.saturating_add(since)
    }
}

/// Serves with the certificate of the Secret, if it is another.
fn show(own: &Own, data: &Data, in_use: &mut Data) -> Result<()> {
    let shown = [CERTIFICATE, KEY];
    if shown.iter().any(|part| in_use.get(*part) != data.get(*part))
        && let [Some(chain), Some(key)] = shown.map(|part| data.get(part))
    {
        own.serving.exchange(chain, key)?;
        for (part, value) in [(CERTIFICATE, chain), (KEY, key)] {
            in_use.insert(part.to_owned(), value.clone());
        }
        tracing::info!("serving with the certificate of the Secret");
    }
    Ok(())
}
