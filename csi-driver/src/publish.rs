//! NodePublishVolume: commit, then mount (promise 1).

#![expect(
    clippy::arithmetic_side_effects,
    reason = "times a bounded wait ahead, and a part of one that is left"
)]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error, ErrorKind, Result};
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::tree::Tree;
use keyward_identity::Credential;
use keyward_proto::csi::v1::NodePublishVolumeRequest;
use keyward_volume::{Declared, Engine, Kept, Outputs, Parts};
use tokio::time::{Instant, timeout_at};

use crate::guards::Guard;
use crate::identities::{self, Tenant};
use crate::mounts::{Detached, Found, Place, Tmpfs};
use crate::node::Node;
use crate::plan::{Account, Basis, ClassText, Expanded, Plan};
use crate::reports::Teller;
use crate::request::{Pod, Wanted};
use crate::serve::{SOCKET, Serving};
use crate::shares::{self, OfVolume, Shares};
use crate::state::Record;
use crate::volume::{Histories, Intact, Keeper, Presented, Volume, credential, marker, versions};

mod room;

pub(crate) use room::{Grow, Owner, bytes_for};

/// A class that does not exist may be on its way: pods and classes are often applied together.
const CLASS_PATIENCE: Duration = Duration::from_secs(15);
/// A volume of which nothing is remembered is taken on as soon as its pod has proved itself; kubelet asks again anyway.
const ADOPTION: Duration = Duration::from_secs(5);
/// What is left of kubelet's own deadline to answer in.
const MARGIN: Duration = Duration::from_secs(2);

impl Node {
    /// Publishes a volume, or takes a fresh credential along when it is published already.
    ///
    /// # Errors
    /// The hop that failed, with its code; never once the volume is mounted and committed (promise 4).
    pub(crate) async fn publish(
        self: &Arc<Self>,
        request: NodePublishVolumeRequest,
        deadline: Option<Duration>,
    ) -> Result<()> {
        let wanted = Wanted::read(&self.settings.kubelet_dir, request)?;
        let guard = self.guard(&wanted.place)?;
        let longest = self.settings.config.limits.publish_deadline;
        let patience = deadline.map_or(longest, |deadline| deadline.saturating_sub(MARGIN).min(longest));
        let end = Instant::now() + patience;
        let node = Arc::clone(self);
        // In a task of its own: a caller who goes away leaves nothing half done, and what was fetched stays for the
        // retry.
        let pace = self.crowd.pace(&wanted.pod.uid);
        let work =
            tokio::spawn(
                async move { pace.measured(Box::pin(node.publish_guarded(wanted, end, &guard))).await },
            );
        work.await.map_err(|_| Error::new(Code::Internal, "publish ended by a defect"))?
    }

    async fn publish_guarded(self: &Arc<Self>, wanted: Wanted, end: Instant, guard: &Guard) -> Result<()> {
        let place = wanted.place.clone();
        let found = self.blocking(move |mounts| mounts.inspect(&place)).await?;
        if let Some(volume) = self.volume(wanted.place.volume_id()) {
            match volume.is_intact(&found) {
                Intact::Whole => {
                    self.take_along(&volume, &wanted);
                    return Ok(());
                }
                Intact::Damaged => {
                    self.take_along(&volume, &wanted);
                    volume.repair().await;
                    if volume.is_intact(&found) == Intact::Whole {
                        return Ok(());
                    }
                    // It stays where it is, because running containers see no other mount, and is whole as soon as its
                    // objects are read: a driver that was started a moment ago may have nothing to write yet.
                    return Err(Error::new(
                        Code::VaultUnavailable,
                        "the files of the volume were tampered with and are written anew once its objects are read",
                    ));
                }
                Intact::Gone => {
                    self.remove(wanted.place.volume_id());
                    volume.stop().await;
                    self.unkeep(volume.kept.clone()).await;
                }
            }
        } else if matches!(found, Found::Ours(_)) {
            self.asked_for(&wanted.place);
            if guard.unless_taken(self.adopt(&wanted)).await? {
                return Ok(());
            }
        }
        if matches!(found, Found::Ours(_)) {
            // Ours, and nothing that a pod should see.
            let place = wanted.place.clone();
            self.blocking(move |mounts| mounts.unmount(&place)).await?;
        }
        let class = Basis::of(&wanted).class_name().map(str::to_owned);
        let teller = self.teller(&wanted.pod, wanted.place.volume(), class.as_deref(), &wanted.target);
        let shares =
            Shares::admit(&self.account(&wanted.pod)).inspect_err(|error| teller.failed(error, false))?;
        // Only what asks somebody has a deadline: what is mounted is never given up half way.
        let gather = guard.unless_taken(self.gather(&wanted, end));
        let gathered = timeout_at(end, gather).await.unwrap_or_else(|_| {
            Err(Error::new(
                Code::Timeout,
                "the volume could not be published in the time of `limits.publishDeadline`; the next try begins with \
                 what was fetched",
            ))
        });
        let result = match gathered {
            Ok(gathered) => self.install(&wanted, gathered, shares, teller.clone()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            tracing::warn!(pod = %wanted.pod.name, namespace = %wanted.pod.namespace, %error, "a volume was not published");
            teller.failed(error, false);
        }
        result
    }

    /// A republish is a source of tokens, and whatever is wrong with them is no reason to fail (promise 4).
    fn take_along(&self, volume: &Arc<Volume>, wanted: &Wanted) {
        let presented =
            self.facts.tokens_in_secrets().and_then(|in_secrets| Presented::of(wanted, in_secrets));
        match presented {
            Ok(presented) => volume.present(presented),
            Err(error) => tracing::debug!(%error, "a republish brought no credential"),
        }
    }

    /// Goes on with a volume that is mounted and committed, but of which nothing was remembered. Says whether it did.
    async fn adopt(self: &Arc<Self>, wanted: &Wanted) -> Result<bool> {
        let place = wanted.place.clone();
        let root = self.blocking(move |mounts| mounts.reopen(&place)).await?;
        if !marker(&root) {
            return Ok(false);
        }
        let resolved = match self.resolve(wanted).await {
            Ok(resolved) => resolved,
            Err(error) => {
                // The files are there and whole; the next republish tries again to find out what they are.
                tracing::warn!(pod = %wanted.pod.name, %error, "a mounted volume is kept as it is");
                return Ok(true);
            }
        };
        // That it is mounted says nothing of what may be read on: the class may be another by now (promise 7).
        let proved = tokio::time::timeout(ADOPTION, self.prove_again(wanted, &resolved.plan)).await;
        let presented = match proved
            .unwrap_or_else(|_| Err(Error::new(Code::Timeout, "the token endpoint did not answer")))
        {
            Ok(presented) => presented,
            Err(error) => {
                tracing::warn!(pod = %wanted.pod.name, %error, "a mounted volume is kept as it is");
                return Ok(true);
            }
        };
        let record = Record::new(
            wanted.place.volume().to_owned(),
            wanted.target.clone(),
            wanted.pod.clone(),
            resolved.basis,
            wanted.grpc,
        );
        let found = self.recall(wanted.place.volume_id()).await?;
        let resumed = self.resume(wanted.place.clone(), record, root, found, presented).await;
        if let Err(error) = resumed {
            tracing::warn!(pod = %wanted.pod.name, %error, "a mounted volume is kept as it is");
        }
        Ok(true)
    }

    async fn prove_again(&self, wanted: &Wanted, plan: &Plan) -> Result<Presented> {
        let presented = Presented::of(wanted, self.facts.tokens_in_secrets()?)?;
        let tenant = self.identities.join(plan.way.settings(), &plan.cloud)?;
        self.prove(plan, &presented, &wanted.pod, &tenant).await.map(|_| presented)
    }

    /// Everything that a volume is made of, before anything is made.
    async fn gather(self: &Arc<Self>, wanted: &Wanted, end: Instant) -> Result<Gathered> {
        if wanted.grpc && !self.settings.config.grpc.enabled {
            return Err(Error::new(
                Code::VolumeInvalid,
                "grpc is switched off on this node (`grpc.enabled`); leave it out, or ask the administrator",
            ));
        }
        self.crowd.pace(&wanted.pod.uid).ready().await;
        let in_secrets = self.facts.tokens_in_secrets()?;
        let presented = Presented::of(wanted, in_secrets)?;
        let Resolved { basis, plan } = Box::pin(self.resolve(wanted)).await?;
        let account = self.account(&wanted.pod);
        let hosts = self.hosts.admit(&account, &wanted.pod.uid, plan.hosts())?;
        let tenant = self.identities.join(plan.way.settings(), &plan.cloud)?;
        let proof = self.prove(&plan, &presented, &wanted.pod, &tenant);
        let ready = identities::prepare(&tenant.provider, plan.hosts(), &wanted.pod);
        // The vault's challenge and the token are asked for at once; no value is, before the proof.
        let (proved, _) = tokio::join!(proof, ready);
        let credential = proved?;
        let histories = Histories::list(&plan, &tenant.provider, &account, &wanted.pod).await?;
        let Expanded { specs, ids } = plan.expand(&|object| histories.of(object))?;
        let reserved = shares::values(&account, specs.len())?;
        let declared = Declared { specs, defaults: plan.defaults, identity: Arc::clone(&tenant.key) };
        let mut engine = Engine::new(self.parts(&wanted.pod), declared, None);
        let tree = self.complete(&mut engine, end).await?;
        // The engine has charged what they really hold.
        drop(reserved);
        Ok(Gathered { presented, credential, basis, plan, tenant, histories, ids, engine, tree, hosts })
    }

    /// Fills a tmpfs that no pod sees, shows it at the target, and leaves it to a keeper.
    async fn install(
        self: &Arc<Self>,
        wanted: &Wanted,
        gathered: Gathered,
        shares: Arc<Shares>,
        teller: Teller,
    ) -> Result<()> {
        let Gathered { presented, credential, basis, plan, tenant, histories, ids, mut engine, tree, hosts } =
            gathered;
        let mut record = Record::new(
            wanted.place.volume().to_owned(),
            wanted.target.clone(),
            wanted.pod.clone(),
            basis,
            wanted.grpc,
        );
        record.histories = histories.write();
        let detached = self.stage(wanted, &tree, &shares).await?;
        let outputs = self.outputs(detached.directory()?, wanted.place.clone(), Arc::clone(&shares)).await?;
        engine.set_outputs(outputs);
        let kept = self.snapshots.of(&wanted.place, self.account(&wanted.pod));
        engine.set_kept(kept.clone());
        let pass = engine.deliver().await;
        if let Some(error) = pass.failure {
            self.unkeep(kept).await;
            return Err(error);
        }
        let serving = if wanted.grpc {
            let root = detached.directory()?;
            match Serving::start(self, &root, engine.view(), wanted.group, &wanted.pod) {
                Ok(serving) => Some(serving),
                Err(error) => {
                    self.unkeep(kept).await;
                    return Err(error);
                }
            }
        } else {
            None
        };
        let root = match self.commit(wanted, detached, &record, &shares).await {
            Ok(root) => root,
            Err(error) => {
                if let Some(serving) = serving {
                    serving.end().await;
                }
                self.unkeep(kept).await;
                return Err(error);
            }
        };
        self.identities.lend(&tenant, wanted.place.volume_id(), credential);
        let (volume, orders) = Volume::new(
            wanted.place.clone(),
            wanted.target.clone(),
            wanted.pod.clone(),
            root,
            kept,
            shares,
            presented,
        );
        teller.published(versions(&engine, &ids));
        tracing::info!(pod = %wanted.pod.name, namespace = %wanted.pod.namespace, volume = wanted.place.volume(), objects = ids.len(), "a volume is published");
        self.insert(Arc::clone(&volume));
        let keeper = Keeper {
            unkept: pass.unkept,
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

    /// Removes what was kept of a volume that was not published after all.
    async fn unkeep(&self, kept: Kept) {
        if let Err(error) = self.blocking(move |_| kept.forget()).await {
            tracing::warn!(%error, "the next start removes what was kept of a volume");
        }
    }

    pub(crate) fn parts(&self, pod: &Pod) -> Parts {
        Parts {
            broker: Arc::clone(&self.broker),
            audit: Arc::clone(&self.audit),
            observer: Arc::clone(&self.observer),
            clock: Arc::clone(&self.clock),
            actor: pod.actor(),
            account: self.account(pod),
            conversions: self.conversions.payer(&pod.uid),
            most_payload: usize::try_from(self.settings.config.limits.bytes_per_volume).unwrap_or(usize::MAX),
        }
    }

    async fn resolve(self: &Arc<Self>, wanted: &Wanted) -> Result<Resolved> {
        let mut basis = Basis::of(wanted);
        if let Some(name) = basis.class_name().map(str::to_owned) {
            basis.class = Some(self.class(&wanted.pod.namespace, &name).await?);
        }
        match self.plan(&basis, &wanted.pod).await {
            Ok(plan) => Ok(Resolved { basis, plan }),
            // Only then is the service account's annotation needed, and asked for.
            Err(error) if error.code() == Code::IdentityMissing && self.cluster.is_some() => {
                basis.account = Some(self.service_account(&wanted.pod).await?);
                let plan = self.plan(&basis, &wanted.pod).await?;
                Ok(Resolved { basis, plan })
            }
            Err(error) => Err(error),
        }
    }

    async fn class(&self, namespace: &str, name: &str) -> Result<ClassText> {
        let cluster = self.cluster.as_ref().ok_or_else(|| {
            Error::new(Code::ClassUnavailable, "classes cannot be read without the Kubernetes API; name the objects in the volume's own attributes")
        })?;
        let class = cluster.classes().wait_for(namespace, name, CLASS_PATIENCE).await?;
        Ok(ClassText {
            name: class.name.clone(),
            provider: class.provider.clone(),
            parameters: class.parameters.clone(),
        })
    }

    async fn service_account(&self, pod: &Pod) -> Result<Account> {
        let Some(cluster) = &self.cluster else { return Ok(Account::default()) };
        let found = cluster.service_account(&pod.namespace, &pod.service_account).await?.unwrap_or_default();
        Ok(Account { client_id: found.client_id, tenant_id: found.tenant_id })
    }

    async fn prove(
        &self,
        plan: &Plan,
        presented: &Presented,
        pod: &Pod,
        tenant: &Tenant,
    ) -> Result<Credential> {
        let credential = credential(&plan.way, presented, pod)?;
        self.identities.prove(tenant, &credential, pod).await?;
        Ok(credential)
    }

    /// Waits until all that is required is there. What fails says so at once, except for a vault that only asks for
    /// patience.
    async fn complete(&self, engine: &mut Engine, end: Instant) -> Result<Tree> {
        let answer_by = end - MARGIN.min(end - Instant::now());
        loop {
            let tried = timeout_at(answer_by, engine.ready()).await.is_ok();
            // The pool holds the conversions to their deadline, from when they begin.
            let (pass, tree) = engine.snapshot_tree().await;
            let Some((_, error)) = pass.missing.into_iter().next() else { return Ok(tree) };
            let patient = error.kind() == ErrorKind::Throttled || !tried;
            if !patient || Instant::now() >= answer_by {
                return Err(error);
            }
            // What changes next may be what was missing; if nothing does, the answer is due.
            let _ = timeout_at(answer_by, engine.changed()).await;
        }
    }

    async fn stage(&self, wanted: &Wanted, tree: &Tree, shares: &Shares) -> Result<Detached> {
        let bytes = bytes_for(tree.payload(), tree.files.len());
        shares.stage(bytes)?;
        let tmpfs = Tmpfs { bytes, mode: 0o755, gid: wanted.group };
        self.blocking(move |mounts| mounts.create(&tmpfs)).await
    }

    /// Where the files of a volume go, with whatever an earlier start committed.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub(crate) async fn outputs(
        &self,
        directory: OwnedFd,
        place: Place,
        shares: Arc<Shares>,
    ) -> Result<Outputs> {
        let threads = self.files.handle().clone();
        self.on_files(move |mounts| {
            let owner = Arc::new(Owner(mounts.clone()));
            let mut directory = AtomicDirectory::open_with(directory, owner)?;
            // No other writer shares it: whatever else is there was planted.
            directory.own_all_but(&[SOCKET]);
            let room = Arc::new(Grow { mounts: mounts.clone(), place, shares });
            Ok(Outputs::new(directory, room).on(threads))
        })
        .await
    }

    /// The record comes first: what is mounted is remembered, and what is remembered but not mounted is swept.
    async fn commit(
        &self,
        wanted: &Wanted,
        detached: Detached,
        record: &Record,
        shares: &Arc<Shares>,
    ) -> Result<OwnedFd> {
        let (place, state, record) = (wanted.place.clone(), self.state.clone(), record.clone());
        let shares = Arc::clone(shares);
        self.blocking(move |_| {
            state.save(place.volume_id(), &record, |bytes| shares.record(bytes))?;
            detached.commit(&place).inspect_err(|_| {
                // The next start would find that it is not mounted, and forget it too.
                let _ = state.forget(place.volume_id());
            })
        })
        .await
    }
}

/// What a first publish has gathered.
struct Gathered {
    presented: Presented,
    credential: Credential,
    basis: Basis,
    plan: Plan,
    tenant: Arc<Tenant>,
    histories: Histories,
    ids: Vec<(String, String)>,
    engine: Engine,
    tree: Tree,
    hosts: OfVolume,
}

/// What is to be delivered, as far as it can be known before anybody upstream is asked.
struct Resolved {
    basis: Basis,
    plan: Plan,
}
