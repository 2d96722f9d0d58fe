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
use keyward_volume::{Change, Declared, Kept, Outputs, Parts, Pass};

pub(crate) use outputs::prepare;

/// Replaced generations stay readable for one to two of these.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// The sidecar's one volume, and what only a sidecar does beside it: it tells the application's processes of a change,
/// and keeps the snapshot for a restart.
pub(crate) struct Engine {
    pub(crate) volume: keyward_volume::Engine,
    pub(crate) notifier: Notifier,
    kept: Option<Kept>,
}

impl Engine {
    /// Begins to watch what `config` declares, for `identity`.
    pub(crate) fn new(
        parts: Parts,
        config: &Config,
        identity: Arc<IdentityKey>,
        outputs: Option<Outputs>,
        kept: Option<Kept>,
        notifier: Notifier,
    ) -> Self {
        Self {
            volume: keyward_volume::Engine::new(parts, declared(config, identity), outputs),
            notifier,
            kept,
        }
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
        if self.volume.is_complete() && pass.failure.is_none() {
            self.keep().await;
        }
        pass
    }

    /// Keeps the current snapshot for a restart.
    pub(crate) async fn keep(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.save(self.volume.parts().broker.export()).await;
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
