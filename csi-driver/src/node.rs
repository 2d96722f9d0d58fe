use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyward_broker::Broker;
use keyward_core::audit::AuditSink;
use keyward_core::config::node::NodeConfig;
use keyward_core::ledger::{Account, Ledger};
use keyward_core::observe::Observer;
use keyward_core::{Clock, Code, Error, Result};
use keyward_delivery::conversions::Conversions;
use keyward_kubernetes::Cluster;
use keyward_telemetry::health::Health;
use parking_lot::Mutex;

use crate::facts::{Changes, Facts};
use crate::guards::{Guard, Guards};
use crate::identities::Identities;
use crate::mounts::{Mounts, Place};
use crate::plan::{Basis, Plan};
use crate::reports::Teller;
use crate::request::Pod;
use crate::shares::Hosts;
use crate::snapshots::Snapshots;
use crate::state::State;
use crate::threads::Threads;
use crate::volume::Volume;

/// The node plugin: all volumes of this node, and what they share.
pub(crate) struct Node {
    parts: Parts,
    guards: Guards,
    /// For calls to the mounter. Nothing else runs there: they wait for no look-up, no conversion and no large write.
    calls: Threads,
    /// For the files of volumes.
    pub(crate) files: Threads,
    volumes: Mutex<HashMap<String, Arc<Volume>>>,
    /// Mounted volumes that kubelet calls for although nothing is known of them: their pods run.
    asked_for: Mutex<HashSet<Place>>,
    /// The vaults that pods ask.
    pub(crate) hosts: Hosts,
}

/// What the command line and the administrator say.
pub(crate) struct Settings {
    pub(crate) node_id: String,
    pub(crate) driver_name: String,
    pub(crate) kubelet_dir: PathBuf,
    pub(crate) config: NodeConfig,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) mounts: Mounts,
    pub(crate) state: State,
    pub(crate) snapshots: Snapshots,
    pub(crate) broker: Arc<Broker>,
    pub(crate) identities: Identities,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) facts: Facts,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) health: Health,
    /// The local APIs of this node, which share its places for connections, and each pod's share of the thread.
    pub(crate) crowd: Arc<keyward_local_api::Crowd>,
    /// What is held for pods; see [`Node::account`].
    pub(crate) ledger: Arc<Ledger>,
    /// Where pods' content is converted, in turn.
    pub(crate) conversions: Conversions,
}

/// Total and used, of bytes and of inodes.
pub(crate) struct Usage {
    pub(crate) bytes: (u64, u64),
    pub(crate) inodes: (u64, u64),
}

/// Calls to the mounter that wait for one another: it answers one at a time.
const CALLS: usize = 4;
/// Volumes whose files are written at one time.
const FILES: usize = 8;
/// How long an unmount waits for a publish that is past giving up.
const YIELDS: Duration = Duration::from_secs(2);
/// A declaration of this many bytes is read within some milliseconds.
const AT_ONCE: usize = 16 << 10;
/// The mounter answers within this time or is stuck.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

impl Deref for Node {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            guards: Guards::default(),
            calls: Threads::new("mounter", CALLS),
            files: Threads::new("files", FILES),
            volumes: Mutex::default(),
            asked_for: Mutex::default(),
            hosts: Hosts::default(),
        })
    }

    /// The right to change a volume.
    ///
    /// # Errors
    /// `KW_VOLUME_BUSY` while another call has it.
    pub(crate) fn guard(&self, place: &Place) -> Result<Guard> {
        self.guards.enter(place.volume_id()).ok_or_else(busy)
    }

    /// Plans a volume. A large declaration is read in the pod's turn among the conversions, and not on the thread that
    /// answers calls.
    ///
    /// # Errors
    /// Those of [`Plan::make`]; `KW_SHUTTING_DOWN`, `KW_INTERNAL`.
    pub(crate) async fn plan(self: &Arc<Self>, basis: &Basis, pod: &Pod) -> Result<Plan> {
        if basis.size() <= AT_ONCE {
            return Plan::make(basis, pod, &self.settings.config);
        }
        let payer = self.conversions.payer(&pod.uid);
        let (node, basis, pod) = (Arc::clone(self), basis.clone(), pod.clone());
        Box::pin(payer.run(move |_| Plan::make(&basis, &pod, &node.settings.config))).await?
    }

    /// What is held for `pod` is charged here first.
    pub(crate) fn account(&self, pod: &Pod) -> Account {
        self.ledger.account(&pod.uid)
    }

    pub(crate) fn volume(&self, volume_id: &str) -> Option<Arc<Volume>> {
        self.volumes.lock().get(volume_id).cloned()
    }

    pub(crate) fn volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes.lock().values().cloned().collect()
    }

    /// Notes that kubelet calls for a mounted volume: whatever becomes of the call, its pod runs.
    pub(crate) fn asked_for(&self, place: &Place) {
        self.asked_for.lock().insert(place.clone());
    }

    /// Which of the mounted volumes belong to nobody that kubelet has called for.
    pub(crate) fn abandoned(&self, mounted: Vec<Place>) -> Vec<Place> {
        let (volumes, asked_for) = (self.volumes.lock(), self.asked_for.lock());
        let known = |place: &Place| volumes.contains_key(place.volume_id()) || asked_for.contains(place);
        mounted.into_iter().filter(|place| !known(place)).collect()
    }

    pub(crate) fn insert(&self, volume: Arc<Volume>) {
        self.volumes.lock().insert(volume.place.volume_id().to_owned(), volume);
    }

    pub(crate) fn remove(&self, volume_id: &str) -> Option<Arc<Volume>> {
        self.volumes.lock().remove(volume_id)
    }

    /// Runs blocking calls to mounter or file system off the thread that answers.
    ///
    /// # Errors
    /// What `work` says; `KW_INTERNAL` when it ended by a defect.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mounts) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_on(&self.calls, work).await
    }

    /// As [`Self::blocking`], for what reads and writes many files.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mounts) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_on(&self.files, work).await
    }

    async fn run_on<T: Send + 'static>(
        &self,
        threads: &Threads,
        work: impl FnOnce(&Mounts) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mounts = self.mounts.clone();
        threads
            .handle()
            .spawn_blocking(move || work(&mounts))
            .await
            .map_err(|_| Error::new(Code::Internal, "a call to the mounter ended by a defect"))?
    }

    /// Writes down again what a restart should find, where values were confirmed since without a change: when that makes
    /// them younger by `at_least`.
    pub(crate) async fn renew_kept(&self, at_least: Duration) {
        let (kept, broker): (Vec<_>, _) =
            (self.volumes().iter().map(|volume| volume.kept.clone()).collect(), Arc::clone(&self.broker));
        let renewed = self.blocking(move |_| {
            // All of them, whatever became of those before.
            let results: Vec<_> = kept.iter().map(|kept| kept.renew(&broker, at_least)).collect();
            results.into_iter().collect::<Result<()>>()
        });
        if let Err(error) = renewed.await {
            tracing::warn!(%error, "a restart would find a value older than it is");
        }
    }

    pub(crate) fn teller(&self, pod: &Pod, volume: &str, class: Option<&str>, target: &str) -> Teller {
        let reporter = self.cluster.as_ref().map(|cluster| cluster.reporter());
        Teller::new(reporter, pod, volume, class, target)
    }

    /// Unmounts a volume and forgets it. What was never published, or is gone already, is no error. A publish under way is
    /// given up, and so is whatever the volume's keeper is doing: neither a conversion nor a vault is waited for.
    ///
    /// # Errors
    /// `KW_VOLUME_BUSY`, `KW_FILE_SYSTEM`.
    pub(crate) async fn unpublish(self: &Arc<Self>, place: Place) -> Result<()> {
        let taken = tokio::time::timeout(YIELDS, self.guards.take(place.volume_id())).await;
        let guard = taken.map_err(|_| busy())?;
        let node = Arc::clone(self);
        let work = tokio::spawn(async move {
            let _guard = guard;
            let volume = node.remove(place.volume_id());
            if let Some(volume) = &volume {
                volume.stop().await;
            }
            let kept = volume.as_ref().map(|volume| volume.kept.clone());
            // Charged until the files are gone, which no descriptor may hold.
            let _shares = volume.map(|volume| Arc::clone(&volume.shares));
            node.asked_for.lock().remove(&place);
            let pod = place.pod_uid().to_owned();
            let (state, snapshots) = (node.state.clone(), node.snapshots.clone());
            node.blocking(move |mounts| {
                mounts.unmount(&place)?;
                state.forget(place.volume_id())?;
                // Closed, so that nobody who is still at work writes it again.
                kept.map_or_else(|| snapshots.forget(place.volume_id()), |kept| kept.forget())
            })
            .await?;
            node.conversions.forget(&pod);
            Ok(())
        });
        // A caller who goes away does not stop it half way.
        work.await.map_err(|_| Error::new(Code::Internal, "unpublish ended by a defect"))?
    }

    /// Room on the tmpfs of a volume.
    ///
    /// # Errors
    /// `KW_OBJECT_NOT_FOUND` when the volume is not at `path`.
    pub(crate) fn usage(&self, volume_id: &str, path: &str) -> Result<Usage> {
        let volume = self.served(volume_id, path)?;
        let root: &OwnedFd = &volume.root;
        let stat = rustix::fs::fstatvfs(root).map_err(|errno| {
            Error::new(Code::FileSystem, format!("the volume cannot be measured ({errno})"))
        })?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let bytes = (stat.f_blocks.saturating_mul(stat.f_frsize), used.saturating_mul(stat.f_frsize));
        Ok(Usage { bytes, inodes: (stat.f_files, stat.f_files.saturating_sub(stat.f_ffree)) })
    }

    /// What of a volume is not as it was declared, each as a word and a sentence.
    ///
    /// # Errors
    /// As [`Self::usage`]; the path may be empty.
    pub(crate) fn complaints(&self, volume_id: &str, path: &str) -> Result<Vec<(&'static str, String)>> {
        Ok(self.served(volume_id, path)?.complaints())
    }

    fn served(&self, volume_id: &str, path: &str) -> Result<Arc<Volume>> {
        self.volume(volume_id)
            .filter(|volume| volume.target == path || path.is_empty())
            .ok_or_else(|| Error::new(Code::UnknownName, "the volume is not published at this path"))
    }

    /// Whether the other process still answers.
    ///
    /// # Errors
    /// `KW_TIMEOUT` when it does not, `KW_INTERNAL` when it is gone.
    pub(crate) async fn is_alive(&self) -> Result<()> {
        let ask = self.blocking(|mounts| {
            let nowhere = Place::new("probe", "probe")?;
            mounts.inspect(&nowhere).map(drop)
        });
        tokio::time::timeout(SIGN_OF_LIFE, ask)
            .await
            .map_err(|_| Error::new(Code::Timeout, "the mounter does not answer"))?
    }

    /// Whether pods can be served: the CSIDriver object is as it must be.
    pub(crate) fn is_ready(&self) -> bool {
        self.facts.tokens_in_secrets().is_ok()
    }

    /// Waits for [`Self::is_ready`] to turn.
    pub(crate) fn facts_changed(&self) -> Changes {
        self.facts.changes()
    }
}

fn busy() -> Error {
    Error::new(Code::VolumeBusy, "another call for this volume is under way; it will be answered, try again")
}
