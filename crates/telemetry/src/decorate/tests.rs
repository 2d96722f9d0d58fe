use std::sync::atomic::{AtomicBool, Ordering};

use keyward_core::audit::Unaudited;
use keyward_core::observe::Silent;
use keyward_core::{Code, Content, Parts, SecretBytes, SystemClock, Version};
use parking_lot::Mutex;

use super::*;

const VERSION: &str = "0123456789abcdef0123456789abcdef";

#[derive(Default)]
struct Recorder {
    records: Mutex<Vec<AuditEvent>>,
    events: Mutex<Vec<Event>>,
    deny: AtomicBool,
}

impl AuditSink for Recorder {
    fn record(&self, event: AuditEvent) -> Result<()> {
        if self.deny.load(Ordering::Relaxed) {
            return Err(Error::new(Code::AuditUnavailable, "full"));
        }
        self.records.lock().push(event);
        Ok(())
    }
}

impl Observer for Recorder {
    fn event(&self, event: &Event) {
        self.events.lock().push(*event);
    }
}

struct OneSecret {
    fails: bool,
}

#[async_trait]
impl Provider for OneSecret {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if self.fails {
            return Err(Error::new(Code::VaultForbidden, "no"));
        }
        Ok(Fetched {
            object: request.object.clone(),
            version: Version::parse(VERSION)?,
            content: Content::Secret { value: SecretBytes::copy_from(b"canary"), bundle: None },
            content_type: None,
            created: None,
            updated: None,
            expires: None,
            not_before: None,
            request_id: Some("id-1".to_owned()),
        })
    }

    async fn list(&self, _: &VaultHost, _: Collection, _: usize) -> Result<Vec<ObjectMetadata>> {
        Ok(Vec::new())
    }

    async fn versions(&self, _: &ObjectRef, _: usize) -> Result<Vec<VersionInfo>> {
        Ok(Vec::new())
    }

    fn list_cost(&self, count: usize) -> usize {
        count
    }

    async fn warm_up(&self, _: &VaultHost) {}
}

fn identity() -> IdentityKey {
    IdentityKey {
        method: "workload-identity",
        authority: "https://login.microsoftonline.com".to_owned(),
        tenant: "t".to_owned(),
        client: "c".to_owned(),
    }
}

fn object() -> ObjectRef {
    let host = VaultHost::parse("shop.vault.azure.net").unwrap();
    ObjectRef::new(host, Collection::Secrets, "db", None).unwrap()
}

fn request() -> FetchRequest {
    FetchRequest { object: object(), parts: Parts::Object }
}

fn observed(fails: bool, recorder: &Arc<Recorder>) -> Observed {
    let inner = Arc::new(OneSecret { fails });
    Observed::new(
        inner,
        &identity(),
        Arc::clone(recorder) as _,
        Arc::clone(recorder) as _,
        Arc::new(SystemClock),
    )
}

#[tokio::test(start_paused = true)]
async fn a_fetch_leaves_one_record_and_one_measurement() {
    let recorder = Arc::new(Recorder::default());
    observed(false, &recorder).fetch(&request()).await.unwrap();
    let records = recorder.records.lock();
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(
        (record.action, record.object.as_str()),
        (Action::Fetch, "https://shop.vault.azure.net/secrets/db")
    );
    assert_eq!(record.version.as_deref(), Some(VERSION));
    assert_eq!(record.identity.as_deref(), Some("workload-identity client c tenant t"));
    assert_eq!((record.request_id.as_deref(), record.error), (Some("id-1"), None));
    assert!(!format!("{record:?}").contains("canary"));
    assert_eq!(
        *recorder.events.lock(),
        [Event::Upstream {
            provider: "memory",
            operation: "get",
            error: None,
            duration: Duration::from_millis(20)
        }]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_fetch_is_recorded_with_its_code_and_stays_what_it_was() {
    let recorder = Arc::new(Recorder::default());
    recorder.deny.store(true, Ordering::Relaxed);
    let error = observed(true, &recorder).fetch(&request()).await.err().unwrap();
    assert_eq!(error.code(), Code::VaultForbidden, "not the failure of the log");
    recorder.deny.store(false, Ordering::Relaxed);
    observed(true, &recorder).fetch(&request()).await.err().unwrap();
    assert_eq!(recorder.records.lock()[0].error, Some(Code::VaultForbidden));
}

#[tokio::test(start_paused = true)]
async fn content_that_cannot_be_recorded_is_not_handed_on() {
    let recorder = Arc::new(Recorder::default());
    recorder.deny.store(true, Ordering::Relaxed);
    let error = observed(false, &recorder).fetch(&request()).await.err().unwrap();
    assert_eq!(error.code(), Code::AuditUnavailable);
}

#[tokio::test]
async fn listings_are_recorded_as_such() {
    let recorder = Arc::new(Recorder::default());
    let provider = observed(false, &recorder);
    provider.list(object().host(), Collection::Secrets, 10).await.unwrap();
    provider.versions(&object(), 10).await.unwrap();
    let objects: Vec<_> = recorder.records.lock().iter().map(|r| (r.action, r.object.clone())).collect();
    assert_eq!(
        objects,
        [
            (Action::List, "https://shop.vault.azure.net/secrets".to_owned()),
            (Action::List, "https://shop.vault.azure.net/secrets/db/versions".to_owned()),
        ]
    );
}

struct Tokens {
    identity: IdentityKey,
    end: Mutex<Option<Duration>>,
}

#[async_trait]
impl TokenSource for Tokens {
    fn identity(&self) -> &IdentityKey {
        &self.identity
    }

    async fn token(&self, _: &str) -> Result<AccessToken> {
        let end = self.end.lock().ok_or_else(|| Error::new(Code::TokenRefused, "AADSTS700016"))?;
        Ok(AccessToken { secret: SecretBytes::copy_from(b"canary"), expires_boot: end, expires_wall: end })
    }

    fn reject(&self, _: &str, _: &AccessToken) {}
}

#[tokio::test]
async fn each_exchange_leaves_one_record_however_often_the_token_is_used() {
    let recorder = Arc::new(Recorder::default());
    let inner = Arc::new(Tokens { identity: identity(), end: Mutex::new(Some(Duration::from_secs(1))) });
    let tokens =
        ObservedTokens::new(Arc::clone(&inner) as _, Arc::clone(&recorder) as _, Arc::new(SystemClock));
    for _ in 0..5 {
        tokens.token("https://vault.azure.net").await.unwrap();
    }
    *inner.end.lock() = Some(Duration::from_secs(2));
    tokens.token("https://vault.azure.net").await.unwrap();
    tokens.token("https://management.azure.com").await.unwrap();
    *inner.end.lock() = None;
    assert!(tokens.token("https://vault.azure.net").await.is_err());
    let records = recorder.records.lock();
    let errors: Vec<_> = records.iter().map(|record| record.error).collect();
    assert_eq!(errors, [None, None, None, Some(Code::TokenRefused)]);
    assert_eq!(records[0].object, "https://vault.azure.net");
}

#[tokio::test]
async fn a_wrapped_provider_answers_as_the_one_inside() {
    let plain = Observed::new(
        Arc::new(OneSecret { fails: false }),
        &identity(),
        Arc::new(Unaudited),
        Arc::new(Silent),
        Arc::new(SystemClock),
    );
    assert_eq!((plain.name(), plain.list_cost(7)), ("memory", 7));
}
