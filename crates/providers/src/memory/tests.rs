use keyward_test_support::TokioClock;

use super::*;
use crate::conformance::Backend;

struct Memory {
    provider: Arc<MemoryProvider>,
    clock: Arc<StepClock>,
    imported: Mutex<u8>,
}

/// A clock that moves only when the suite says so.
#[derive(Default)]
struct StepClock(Mutex<Duration>);

impl Clock for StepClock {
    fn wall(&self) -> Duration {
        Duration::from_millis(1_795_413_600_500) + *self.0.lock()
    }

    fn boot(&self) -> Duration {
        *self.0.lock()
    }
}

async fn memory() -> Memory {
    let clock = Arc::new(StepClock::default());
    Memory { provider: MemoryProvider::new(clock.clone()), clock, imported: Mutex::new(0) }
}

#[async_trait]
impl Backend for Memory {
    fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    fn host(&self) -> VaultHost {
        VaultHost::parse(MemoryProvider::HOST).unwrap()
    }

    async fn set_secret(&self, name: &str, value: &str, content_type: Option<&str>) -> Version {
        match content_type {
            Some(content_type) => self.provider.set_with_type(name, value, content_type),
            None => self.provider.set(name, value),
        }
    }

    async fn enable_secret(&self, secret: &ObjectRef, enabled: bool) {
        self.provider.enable(&secret.to_string(), enabled);
    }

    async fn delete_secret(&self, name: &str) {
        self.provider.delete(name);
    }

    async fn recover_secret(&self, name: &str) {
        self.provider.recover(name);
    }

    async fn create_key(&self, name: &str) -> Version {
        self.provider.set_key(&format!("kv://memory/keys/{name}"), r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#)
    }

    async fn import_certificate(&self, name: &str, form: BundleType) -> Vec<u8> {
        let leaf = {
            let mut imported = self.imported.lock();
            *imported += 1;
            vec![0x30, 0, *imported]
        };
        self.provider.set_certificate(&format!("kv://memory/certificates/{name}"), &leaf, form, &leaf);
        leaf
    }

    async fn permit(&self, get: bool, list: bool) {
        self.provider.forbid_gets(!get);
        self.provider.forbid_lists(!list);
    }

    async fn next_second(&self) {
        *self.clock.0.lock() += Duration::from_secs(1);
    }
}

mod conformance {
    crate::provider_conformance!(super::memory());
}

fn request(name: &str) -> FetchRequest {
    FetchRequest { object: MemoryProvider::object(name), parts: Parts::Object }
}

#[tokio::test(start_paused = true)]
async fn injected_failures_are_used_up_in_turn_and_lasting_ones_last() {
    let provider = MemoryProvider::new(Arc::new(TokioClock::new()));
    provider.set("db", "x");
    provider.fail_next(Error::new(Code::Timeout, "slow"));
    provider.set_failure(Some(Error::new(Code::VaultUnavailable, "down")));
    let code = |result: Result<Fetched>| result.err().map(|error| error.code());
    assert_eq!(code(provider.fetch(&request("db")).await), Some(Code::Timeout));
    assert_eq!(code(provider.fetch(&request("db")).await), Some(Code::VaultUnavailable));
    provider.set_failure(None);
    provider.set_failure_of("db", Some(Error::new(Code::VaultForbidden, "no")));
    assert_eq!(code(provider.fetch(&request("db")).await), Some(Code::VaultForbidden));
    provider.set_failure_of("db", None);
    assert_eq!(code(provider.fetch(&request("db")).await), None);
    assert_eq!(provider.gets(), 4);
}

#[tokio::test(start_paused = true)]
async fn latency_passes_in_tokios_time_and_calls_in_flight_are_counted_even_when_given_up() {
    let provider = MemoryProvider::new(Arc::new(TokioClock::new()));
    provider.set("db", "x");
    provider.set_latency(Duration::from_secs(2));
    let begun = tokio::time::Instant::now();
    let (one, two) = (request("db"), request("db"));
    let (a, b) = tokio::join!(provider.fetch(&one), provider.fetch(&two));
    assert!(a.is_ok() && b.is_ok() && begun.elapsed() == Duration::from_secs(2));
    assert_eq!((provider.counters().peak, provider.counters().in_flight), (2, 0));
    let given_up = tokio::time::timeout(Duration::from_secs(1), provider.fetch(&one)).await;
    assert!(given_up.is_err());
    assert_eq!(provider.counters().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lagging_listing_shows_the_past() {
    let provider = MemoryProvider::new(Arc::new(TokioClock::new()));
    provider.set("old", "x");
    tokio::time::advance(Duration::from_secs(60)).await;
    provider.set_listing_lag(Duration::from_secs(30));
    provider.set("new", "x");
    provider.delete("old");
    let host = VaultHost::parse(MemoryProvider::HOST).unwrap();
    let names = |lines: Vec<ObjectMetadata>| {
        lines.iter().map(|line| line.object.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(provider.list(&host, Collection::Secrets, 9).await.unwrap()), ["old"]);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(names(provider.list(&host, Collection::Secrets, 9).await.unwrap()), ["new"]);
    assert_eq!(provider.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_name_may_be_bare_or_a_whole_reference_into_another_vault() {
    let provider = MemoryProvider::new(Arc::new(TokioClock::new()));
    let version = provider.set("kv://shop/secrets/db", "x");
    assert_eq!(provider.fetch(&request("kv://SHOP/secrets/DB")).await.map(|f| f.version).ok(), Some(version));
    assert!(provider.fetch(&request("db")).await.is_err());
}
