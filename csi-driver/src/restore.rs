//! What a start finds of earlier times: volumes to go on with, and leftovers to sweep.

#![expect(clippy::arithmetic_side_effects, reason = "counts of the volumes of an earlier start")]

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error, Result};
use keyward_volume::{Declared, Engine, Found as Recalled};

use crate::mounts::{Found, Mounts, Place};
use crate::node::Node;
use crate::plan::Expanded;
use crate::serve::Serving;
use crate::shares::Shares;
use crate::state::Record;
use crate::volume::{Histories, Keeper, Presented, Volume};

/// A mount of ours that kubelet does not ask about within this time belongs to a pod that is gone: it calls for every
/// volume of a running pod about once a minute.
const ABANDONED: Duration = Duration::from_secs(15 * 60);

impl Node {
    /// Goes on with every volume that is still mounted, and forgets the others: after a reboot of the node there are
    /// records, and nothing mounted.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the state directory cannot be read.
    pub(crate) async fn restore(self: &Arc<Self>) -> Result<()> {
        let state = self.state.clone();
        let records = self.blocking(move |_| state.load()).await?;
        let shared = self.recall_shared().await?;
        let (mut resumed, mut swept) = (0, 0);
        let mut here: HashSet<String> =
            self.blocking(Mounts::list).await?.iter().map(|place| place.volume_id().to_owned()).collect();
        for (volume_id, record) in records {
            match self.restore_one(&volume_id, record, &shared).await {
                Ok(true) => resumed += 1,
                Ok(false) => {
                    let state = self.state.clone();
                    here.remove(&volume_id);
                    // A pod that comes again finds what it had, as long as this process remembers it.
                    self.recall(&volume_id).await?;
                    self.blocking(move |_| state.forget(&volume_id)).await?;
                    swept += 1;
                }
                // The files stay as they are; kubelet's next call brings what is needed to go on.
                Err(error) => {
                    tracing::warn!(volume = volume_id, %error, "a mounted volume waits for kubelet's next call");
                }
            }
        }
        let snapshots = self.snapshots.clone();
        self.blocking(move |_| snapshots.sweep(&here)).await?;
        if resumed + swept > 0 {
            tracing::info!(resumed, swept, "volumes of an earlier start");
        }
        Ok(())
    }

    /// Takes in what was kept of a volume, for it and for pods that prove the same identity.
    pub(crate) async fn recall(&self, volume_id: &str) -> Result<Recalled> {
        let (snapshots, volume_id) = (self.snapshots.clone(), volume_id.to_owned());
        let found = self.blocking(move |_| snapshots.find(&volume_id)).await?;
        Ok(Recalled { objects: self.broker.restore(found.objects), ..found })
    }

    /// Takes in what an earlier release kept for all volumes in one file. Each volume that is gone on with takes its own
    /// part, and writes it down as its own at its first pass; the file goes once every running pod was heard of.
    async fn recall_shared(&self) -> Result<Recalled> {
        let snapshots = self.snapshots.clone();
        let found = self.blocking(move |_| snapshots.find_shared()).await?;
        Ok(Recalled { objects: self.broker.restore(found.objects), ..found })
    }

    async fn restore_one(
        self: &Arc<Self>,
        volume_id: &str,
        record: Record,
        shared: &Recalled,
    ) -> Result<bool> {
        let place = record.place()?;
        if place.volume_id() != volume_id {
            return Ok(false);
        }
        let looked_at = place.clone();
        let found = self.blocking(move |mounts| mounts.inspect(&looked_at)).await?;
        if !matches!(found, Found::Ours(_)) {
            return Ok(false);
        }
        let opened = place.clone();
        let root = self.blocking(move |mounts| mounts.reopen(&opened)).await?;
        let own = self.recall(volume_id).await?;
        let found = if own.objects.is_empty() { shared.clone() } else { own };
        self.resume(place, record, root, found, Presented::default()).await.map(|()| true)
    }

    /// Goes on with a mounted volume. Until a credential proves the identity again, what it holds is shown as stale.
    ///
    /// # Errors
    /// What the plan says, when the administrator's configuration no longer allows it; `KW_FILE_SYSTEM`.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        place: Place,
        record: Record,
        root: OwnedFd,
        found: Recalled,
        presented: Presented,
    ) -> Result<()> {
        let plan = self.plan(&record.basis, &record.pod).await?;
        let tenant = self.identities.join(plan.way.settings(), &plan.cloud)?;
        let histories = Histories::read(&record.histories, &self.account(&record.pod));
        let Expanded { specs, ids } = plan.expand(&|object| histories.of(object))?;
        let declared = Declared { specs, defaults: plan.defaults, identity: Arc::clone(&tenant.key) };
        let again = root
            .try_clone()
            .map_err(|error| Error::new(Code::Internal, "there is no file descriptor left").detail(error))?;
        // What is mounted is charged, and goes on, whatever the limits are by now.
        let account = self.account(&record.pod);
        let stat = rustix::fs::fstatvfs(&root).map_err(|errno| {
            Error::new(Code::FileSystem, format!("the volume cannot be measured ({errno})"))
        })?;
        let shares = Shares::mounted(&account, stat.f_blocks.saturating_mul(stat.f_frsize));
        let hosts = self.hosts.mounted(&account, &record.pod.uid, plan.hosts());
        // Sweeps what a killed driver left half written.
        let outputs = self.outputs(again, place.clone(), Arc::clone(&shares)).await?;
        let mut engine = Engine::resume(self.parts(&record.pod), declared, Some(outputs), found);
        let kept = self.snapshots.of(&place, self.account(&record.pod));
        engine.set_kept(kept.clone());
        // Before anybody can ask: nothing is read upstream in the pod's name until it has proved itself anew.
        engine.set_unproved(true);
        let serving = if record.grpc {
            Some(Serving::start(self, &root, engine.view(), record.basis.group, &record.pod)?)
        } else {
            None
        };
        let teller = self.teller(&record.pod, place.volume(), record.basis.class_name(), &record.target);
        let state = self.state.clone();
        let (saved, volume_id) = (record.clone(), place.volume_id().to_owned());
        let recorded = Arc::clone(&shares);
        let save = move |_: &_| {
            state.save(&volume_id, &saved, |bytes| {
                recorded.recorded(&account, bytes);
                Ok(())
            })
        };
        self.blocking(save).await?;
        let (volume, orders) =
            Volume::new(place, record.target.clone(), record.pod.clone(), root, kept, shares, presented);
        self.insert(Arc::clone(&volume));
        let keeper = Keeper {
            unkept: None,
            node: Arc::clone(self),
            volume,
            engine,
            tenant,
            plan: plan.expanded(),
            ids,
            histories,
            record,
            serving,
            teller,
            hosts,
        };
        tokio::spawn(Box::new(keeper).run(orders));
        Ok(())
    }

    /// Unmounts what nobody has asked about for long enough. Runs once, after every running pod's volume must have
    /// been published again.
    pub(crate) async fn sweep_abandoned(self: Arc<Self>) {
        tokio::time::sleep(ABANDONED).await;
        let snapshots = self.snapshots.clone();
        if let Err(error) = self.blocking(move |_| snapshots.forget_shared()).await {
            tracing::warn!(%error, "what an earlier release kept stays until the next start");
        }
        if let Err(error) = self.sweep_once().await {
            tracing::warn!(%error, "leftover volumes could not be swept");
        }
    }

    async fn sweep_once(&self) -> Result<()> {
        let mounted = self.blocking(Mounts::list).await?;
        for place in self.abandoned(mounted) {
            let Ok(_guard) = self.guard(&place) else { continue };
            // Kubelet may have called since.
            let Some(place) = self.abandoned(vec![place]).pop() else { continue };
            tracing::warn!(
                pod = place.pod_uid(),
                volume = place.volume(),
                "a volume that nobody asks about is unmounted"
            );
            let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
            self.blocking(move |mounts| {
                mounts.unmount(&place)?;
                state.forget(place.volume_id())?;
                snapshots.forget(place.volume_id())
            })
            .await?;
        }
        Ok(())
    }
}
