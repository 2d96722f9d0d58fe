mod outputs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::IdentityKey;
use keyward_core::audit::Actor;
use keyward_core::config::Config;
use keyward_core::spec::Notify;
use keyward_delivery::notify::Notifier;
use keyward_delivery::projection::Defaults;
use keyward_volume::{Change, Declared, Found, Kept, Outputs, Parts, Pass};

pub(crate) use outputs::prepare;

/// Replaced generations stay readable for one to two of these.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// The sidecar's one volume, and what only a sidecar does beside it: it tells the application's processes of a change,
/// and keeps the snapshot for a restart.
pub(crate) struct Engine {
    pub(crate) volume: keyward_volume::Engine,
    pub(crate) notifier: Notifier,
    /// That a restart would find nothing was told.
    told: bool,
}

impl Engine {
    /// Begins to watch what `config` declares, for `identity`.
    pub(crate) fn new(
        parts: Parts,
        config: &Config,
        identity: Arc<IdentityKey>,
        outputs: Option<Outputs>,
        kept: Option<(Kept, Found)>,
        notifier: Notifier,
    ) -> Self {
        let (kept, found) = kept.map_or_else(Default::default, |(kept, found)| (Some(kept), found));
        // Whatever an earlier process has delivered, with or without a place for its state.
        let mut volume = keyward_volume::Engine::resume(parts, declared(config, identity), outputs, found);
        if let Some(kept) = kept {
            volume.set_kept(kept);
        }
        Self { volume, notifier, told: false }
    }

    /// Goes on with another declaration.
    pub(crate) fn redeclare(&mut self, config: &Config, identity: Arc<IdentityKey>) {
        self.volume.redeclare(declared(config, identity));
    }

    /// Delivers what changed, and tells of it. The first delivery is no change: nobody had anything before.
    pub(crate) async fn pass(&mut self) -> Pass {
        let first = !self.volume.is_complete();
        let pass = self.volume.pass().await;
        if !first {
            self.tell(&pass.changed);
        }
        if let Some(error) = &pass.unkept
            && !self.told
        {
            tracing::warn!(%error, "what is served cannot be kept; a restart would begin with nothing");
        }
        self.told = pass.unkept.is_some();
        pass
    }

    /// Keeps for a restart how young the values are by now, when they are younger by `at_least`.
    pub(crate) async fn keep(&mut self, at_least: Duration) {
        let Some(kept) = self.volume.kept().cloned() else { return };
        let broker = Arc::clone(&self.volume.parts().broker);
        let renewed = tokio::task::spawn_blocking(move || kept.renew(&broker, at_least));
        // A panic was reported by the panic hook.
        if let Ok(Err(error)) = renewed.await {
            tracing::warn!(%error, "a restart would find a value older than it is");
        }
    }

    fn tell(&self, changed: &[Change]) {
        let mut groups: HashMap<&Notify, Vec<String>> = HashMap::new();
        for change in changed {
            if let Some(notify) = &change.notify {
                groups.entry(notify).or_default().push(change.name.clone());
            }
        }
        for (notify, names) in groups {
            self.notifier.changed(notify, names);
        }
    }
}

/// Who the sidecar's deliveries are recorded for: it serves one pod, and need not say which.
pub(crate) const ACTOR: Actor = Actor::Keyward;

fn declared(config: &Config, identity: Arc<IdentityKey>) -> Declared {
    Declared { specs: config.objects.clone(), defaults: defaults(config), identity }
}

fn defaults(config: &Config) -> Defaults {
    config.files.as_ref().map_or(Defaults { mode: 0o444, uid: None, gid: None }, |files| Defaults {
        mode: files.mode,
        uid: files.uid,
        gid: files.gid,
    })
}
