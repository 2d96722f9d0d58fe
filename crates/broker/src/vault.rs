use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Collection, IdentityKey, VaultHost};
use parking_lot::Mutex;

use crate::probe::Listing;
use crate::storm::Refusals;

/// One identity's view of one vault.
pub(crate) type VaultKey = (Arc<IdentityKey>, VaultHost);

/// What one check covers.
pub(crate) type GroupKey = (Arc<IdentityKey>, VaultHost, Collection);

/// What was learnt about vaults, as each identity sees them.
#[derive(Default)]
pub(crate) struct Vaults {
    vaults: Mutex<HashMap<VaultKey, Vault>>,
}

/// One identity's view of one vault.
#[derive(Default)]
pub(crate) struct Vault {
    pub(crate) watched: usize,
    pub(crate) refusals: Refusals,
    /// Whether a storm was on when last looked at.
    storm: bool,
    /// Failures logged in a row.
    pub(crate) warned: u32,
    collections: [Group; 3],
}

/// What was learnt about one collection. Times are on the boot clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Group {
    pub(crate) denied_until: Duration,
    /// Objects in the last listing, and until when that is believed.
    pub(crate) size: Option<(usize, Duration)>,
    /// Where in the jitter this round lies; one for the whole group, so that its objects stay aligned.
    pub(crate) random: f64,
}

impl Vaults {
    pub(crate) fn with<R>(
        &self,
        identity: &Arc<IdentityKey>,
        host: &VaultHost,
        act: impl FnOnce(&mut Vault) -> R,
    ) -> R {
        act(self.vaults.lock().entry((identity.clone(), host.clone())).or_default())
    }

    pub(crate) fn with_group<R>(&self, key: &GroupKey, act: impl FnOnce(&mut Group) -> R) -> R {
        self.with(&key.0, &key.1, |vault| act(vault.group(key.2)))
    }

    /// Permissions may have changed: listings may be tried again.
    pub(crate) fn forget_denials(&self, identity: &IdentityKey) {
        for (key, vault) in self.vaults.lock().iter_mut() {
            if *key.0 == *identity {
                vault.collections.iter_mut().for_each(|group| group.denied_until = Duration::ZERO);
            }
        }
    }

    /// Forgets vaults of which `keep` says that nothing is held.
    pub(crate) fn retain(&self, keep: impl Fn(&VaultKey) -> bool) {
        self.vaults.lock().retain(|key, _| keep(key));
    }
}

impl Vault {
    /// Whether a storm is on, when that differs from the last answer.
    pub(crate) fn storm_turned(&mut self) -> Option<bool> {
        let storm = self.refusals.is_storm(self.watched);
        (std::mem::replace(&mut self.storm, storm) != storm).then_some(storm)
    }

    pub(crate) fn group(&mut self, collection: Collection) -> &mut Group {
        let [secrets, keys, certificates] = &mut self.collections;
        match collection {
            Collection::Secrets => secrets,
            Collection::Keys => keys,
            Collection::Certificates => certificates,
        }
    }
}

impl Group {
    pub(crate) fn listing(&self, now: Duration) -> Listing {
        Listing {
            allowed: self.denied_until <= now,
            size: self.size.filter(|(_, until)| *until > now).map(|(size, _)| size),
        }
    }
}
