use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::{
    Clock, Code, Collection, Content, Error, FetchRequest, Fetched, IdentityKey, ObjectKey, ObjectMetadata,
    ObjectRef, Parts, Provider, Result, SecretBytes, UnixTime, VaultHost, Version, VersionInfo,
};
use parking_lot::Mutex;

/// A vault of secrets as a model: it remembers its whole past, so that a listing may lag and a test may ask what was
/// true when. It lives on tokio's clock and fails as it is told to.
pub struct ModelVault {
    host: VaultHost,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// With this code.
    Code(Code),
    /// Throttled, with a `Retry-After`.
    RetryAfter(Duration),
    /// No answer; the caller's deadline passes after 10 s.
    Hang,
}

/// Requests so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Reads of an object.
    pub gets: usize,
    /// Pages of listings.
    pub pages: usize,
    /// Warm-ups.
    pub warm_ups: usize,
    /// Most reads at the same time.
    pub most_at_once: usize,
}

impl Counts {
    /// All that costs quota.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.gets + self.pages
    }
}

struct State {
    random: fastrand::Rng,
    objects: BTreeMap<String, Vec<Moment>>,
    forbidden: BTreeSet<String>,
    fault: Option<Fault>,
    object_faults: BTreeMap<String, Fault>,
    list_fault: Option<Fault>,
    loss: f64,
    latency: (Duration, Duration),
    lag: Duration,
    at_once: usize,
    counts: Counts,
}

/// One object from `at` on.
#[derive(Clone)]
struct Moment {
    at: UnixTime,
    updated: UnixTime,
    version: Version,
    value: String,
    enabled: bool,
    present: bool,
}

const PAGE: usize = 25;
const DEADLINE: Duration = Duration::from_secs(10);

impl ModelVault {
    /// An empty, healthy vault without latency at `<name>.vault.azure.net`.
    #[must_use]
    pub fn new(name: &str, clock: Arc<dyn Clock>, seed: u64) -> Arc<Self> {
        let host = VaultHost::parse(&format!("{name}.vault.azure.net")).expect("tests name vaults well");
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            objects: BTreeMap::new(),
            forbidden: BTreeSet::new(),
            fault: None,
            object_faults: BTreeMap::new(),
            list_fault: None,
            loss: 0.0,
            latency: (Duration::ZERO, Duration::ZERO),
            lag: Duration::ZERO,
            at_once: 0,
            counts: Counts::default(),
        };
        Arc::new(Self { host, clock, state: Mutex::new(state) })
    }

    /// An identity for tests.
    #[must_use]
    pub fn identity(client: &str) -> Arc<IdentityKey> {
        Arc::new(IdentityKey {
            method: "workload-identity",
            authority: "https://login.microsoftonline.com".to_owned(),
            tenant: "tenant".to_owned(),
            client: client.to_owned(),
        })
    }

    /// The key of a secret of this vault, at its current version.
    #[must_use]
    pub fn key(&self, identity: &Arc<IdentityKey>, name: &str) -> ObjectKey {
        let object = ObjectRef::new(self.host.clone(), Collection::Secrets, name, None)
            .expect("tests name objects well");
        ObjectKey { identity: identity.clone(), request: FetchRequest { object, parts: Parts::Object } }
    }

    /// Where it is.
    #[must_use]
    pub fn host(&self) -> &VaultHost {
        &self.host
    }

    /// Writes a new version and returns it. A deleted object comes back.
    pub fn set(&self, name: &str, value: &str) -> Version {
        let version =
            Version::parse(&format!("{:032x}", self.state.lock().random.u128(..))).expect("32 hex digits");
        let moment = |at| Moment {
            at,
            updated: whole_seconds(at),
            version: version.clone(),
            value: value.to_owned(),
            enabled: true,
            present: true,
        };
        let at = self.clock.wall();
        self.state.lock().objects.entry(name.to_owned()).or_default().push(moment(at));
        version
    }

    /// Disables or enables the current version.
    pub fn enable(&self, name: &str, enabled: bool) {
        self.amend(name, |moment| moment.enabled = enabled);
    }

    /// Deletes or recovers the object.
    pub fn present(&self, name: &str, present: bool) {
        self.amend(name, |moment| moment.present = present);
    }

    /// Refuses or allows reading the object; listings show it all the same.
    pub fn forbid(&self, name: &str, forbidden: bool) {
        let mut state = self.state.lock();
        if forbidden {
            state.forbidden.insert(name.to_owned());
        } else {
            state.forbidden.remove(name);
        }
    }

    /// Makes every operation fail, or none.
    pub fn fail(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    /// Makes reads of one object fail, or not.
    pub fn fail_object(&self, name: &str, fault: Option<Fault>) {
        let mut state = self.state.lock();
        match fault {
            Some(fault) => state.object_faults.insert(name.to_owned(), fault),
            None => state.object_faults.remove(name),
        };
    }

    /// Makes listings fail, or not.
    pub fn fail_list(&self, fault: Option<Fault>) {
        self.state.lock().list_fault = fault;
    }

    /// Loses this share of the requests.
    pub fn lose(&self, share: f64) {
        self.state.lock().loss = share;
    }

    /// Lets each request take between `least` and `most`.
    pub fn delay(&self, least: Duration, most: Duration) {
        self.state.lock().latency = (least, most);
    }

    /// Lets listings show what was true `lag` ago.
    pub fn lag(&self, lag: Duration) {
        self.state.lock().lag = lag;
    }

    /// Requests so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Whether `value` was the readable value of `name` at some time from `since` to now.
    #[must_use]
    pub fn held_since(&self, name: &str, value: &str, since: UnixTime) -> bool {
        let state = self.state.lock();
        let moments = state.objects.get(name).map_or(&[][..], Vec::as_slice);
        let first = moments.iter().rposition(|moment| moment.at <= since).unwrap_or(0);
        // While it cannot be read, the value before remains what readers should see.
        let shown =
            moments[..=first.min(moments.len().saturating_sub(1))].iter().rposition(Moment::is_readable);
        moments[shown.unwrap_or(0)..].iter().any(|moment| moment.is_readable() && moment.value == value)
    }

    fn amend(&self, name: &str, change: impl FnOnce(&mut Moment)) {
        let at = self.clock.wall();
        let mut state = self.state.lock();
        let moments = state.objects.get_mut(name).expect("the object was written before");
        let mut moment = moments.last().expect("an object has a moment").clone();
        change(&mut moment);
        (moment.at, moment.updated) = (at, whole_seconds(at));
        moments.push(moment);
    }

    /// The way there and, when dropped or done, the request's end.
    async fn travel(&self, special: impl FnOnce(&State) -> Option<Fault>) -> Result<()> {
        let (fault, lost, wait) = {
            let mut state = self.state.lock();
            let (least, most) = state.latency;
            let wait = least + (most - least).mul_f64(state.random.f64());
            let lost = state.loss > 0.0 && state.random.f64() < state.loss;
            (state.fault.or_else(|| special(&state)), lost, wait)
        };
        if lost || fault == Some(Fault::Hang) {
            tokio::time::sleep(DEADLINE).await;
            return Err(Error::new(Code::Timeout, "no answer within the deadline"));
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match fault {
            Some(Fault::Code(code)) => Err(Error::new(code, "the model fails as it was told")),
            Some(Fault::RetryAfter(wait)) => {
                Err(Error::new(Code::VaultThrottled, "the model throttles").retry_after(Some(wait)))
            }
            _ => Ok(()),
        }
    }

    fn look(&self, request: &FetchRequest) -> Result<Fetched> {
        let object = &request.object;
        let state = self.state.lock();
        if state.forbidden.contains(object.name()) {
            return Err(Error::new(Code::VaultForbidden, "the vault refused"));
        }
        let missing = || Error::new(Code::ObjectNotFound, "there is no such object");
        let moments = state.objects.get(object.name()).ok_or_else(missing)?;
        let current = moments.last().filter(|moment| moment.present).ok_or_else(missing)?;
        let moment = match object.version() {
            None => current,
            Some(version) => moments.iter().rfind(|moment| moment.version == *version).ok_or_else(missing)?,
        };
        if !moment.enabled {
            return Err(Error::new(Code::ObjectDisabled, "the version is disabled"));
        }
        Ok(Fetched {
            object: object.at(moment.version.clone()),
            version: moment.version.clone(),
            content: Content::Secret { value: SecretBytes::copy_from(moment.value.as_bytes()), bundle: None },
            content_type: None,
            created: None,
            updated: Some(moment.updated),
            expires: None,
            not_before: None,
            request_id: None,
        })
    }
}

impl Moment {
    fn is_readable(&self) -> bool {
        self.enabled && self.present
    }
}

#[async_trait]
impl Provider for ModelVault {
    fn name(&self) -> &'static str {
        "model"
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let flying = {
            let mut state = self.state.lock();
            state.counts.gets += 1;
            state.at_once += 1;
            state.counts.most_at_once = state.counts.most_at_once.max(state.at_once);
            Flying(self)
        };
        self.travel(|state| state.object_faults.get(request.object.name()).copied()).await?;
        let answer = self.look(request);
        drop(flying);
        answer
    }

    async fn list(
        &self,
        host: &VaultHost,
        collection: Collection,
        limit: usize,
    ) -> Result<Vec<ObjectMetadata>> {
        self.state.lock().counts.pages += 1;
        self.travel(|state| state.list_fault).await?;
        let mut state = self.state.lock();
        let as_of = self.clock.wall().saturating_sub(state.lag);
        let lines: Vec<_> = state
            .objects
            .iter()
            .filter_map(|(name, moments)| {
                let moment =
                    moments.iter().rfind(|moment| moment.at <= as_of).filter(|moment| moment.present)?;
                let object = ObjectRef::new(host.clone(), collection, name, None).ok()?;
                Some(ObjectMetadata { object, enabled: moment.enabled, updated: Some(moment.updated) })
            })
            .take(limit)
            .collect();
        state.counts.pages += self.list_cost(lines.len()) - 1;
        Ok(lines)
    }

    async fn versions(&self, object: &ObjectRef, limit: usize) -> Result<Vec<VersionInfo>> {
        self.travel(|state| state.list_fault).await?;
        let state = self.state.lock();
        let moments = state.objects.get(object.name()).map_or(&[][..], Vec::as_slice);
        let mut versions: Vec<VersionInfo> = Vec::new();
        for moment in moments.iter().rev() {
            if versions.iter().all(|known| known.version != moment.version) {
                let (version, enabled) = (moment.version.clone(), moment.enabled);
                versions.push(VersionInfo { version, enabled, created: None, updated: Some(moment.updated) });
            }
        }
        versions.truncate(limit);
        Ok(versions)
    }

    fn list_cost(&self, count: usize) -> usize {
        count.div_ceil(PAGE).max(1)
    }

    async fn warm_up(&self, _host: &VaultHost) {
        self.state.lock().counts.warm_ups += 1;
        let _ = self.travel(|_| None).await;
    }
}

/// One read under way.
struct Flying<'a>(&'a ModelVault);

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.state.lock().at_once -= 1;
    }
}

fn whole_seconds(at: UnixTime) -> UnixTime {
    Duration::from_secs(at.as_secs())
}
