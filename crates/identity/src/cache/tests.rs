use std::sync::atomic::{AtomicUsize, Ordering};

use keyward_core::SecretBytes;
use keyward_core::observe::Silent;
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use super::*;

const VAULT: &str = "https://vault.azure.net";

/// Follows tokio's paused time; `suspend` moves the boot clock alone, as a suspended machine does.
struct TestClock {
    start: Instant,
    suspended: Mutex<Duration>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), suspended: Mutex::default() })
    }
}

impl Clock for TestClock {
    fn wall(&self) -> UnixTime {
        Duration::from_secs(1_800_000_000) + self.boot()
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(1000) + self.start.elapsed() + *self.suspended.lock()
    }
}

/// Numbers its tokens; each exchange takes `takes` and fails with `failing`, if set.
#[derive(Default)]
struct Script {
    exchanges: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    takes: Mutex<Duration>,
    lifetime: Mutex<Duration>,
    failing: Mutex<Option<Error>>,
}

impl Script {
    fn count(&self) -> usize {
        self.exchanges.load(Ordering::SeqCst)
    }

    fn fail(&self, code: Code) {
        *self.failing.lock() = Some(Error::new(code, "as scripted"));
    }

    fn work(&self) {
        *self.failing.lock() = None;
    }
}

struct Fake(Arc<Script>);

#[async_trait]
impl Exchange for Fake {
    async fn exchange(&self, resource: &str) -> Result<Issued> {
        let number = self.0.exchanges.fetch_add(1, Ordering::SeqCst) + 1;
        let now = self.0.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_at_once.fetch_max(now, Ordering::SeqCst);
        let takes = *self.0.takes.lock();
        sleep(takes).await;
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
        match self.0.failing.lock().clone() {
            Some(error) => Err(error),
            None => Ok(Issued {
                secret: SecretBytes::from(format!("{resource}#{number}")),
                lifetime: *self.0.lifetime.lock(),
                refresh_in: None,
            }),
        }
    }
}

fn key() -> IdentityKey {
    IdentityKey {
        method: "workload-identity",
        authority: "https://login.test".to_owned(),
        tenant: "t".to_owned(),
        client: "c".to_owned(),
    }
}

/// A cache over tokens of one hour.
fn cache() -> (Arc<TokenCache>, Arc<Script>, Arc<TestClock>) {
    let script = Arc::new(Script::default());
    *script.lifetime.lock() = Duration::from_secs(3600);
    let clock = TestClock::new();
    let cache = TokenCache::new(key(), Box::new(Fake(Arc::clone(&script))), clock.clone(), Arc::new(Silent));
    (Arc::new(cache), script, clock)
}

async fn number(cache: &TokenCache) -> std::result::Result<usize, Code> {
    let token = cache.token(VAULT).await.map_err(|error| error.code())?;
    Ok(token.secret.expose_str().unwrap().rsplit_once('#').unwrap().1.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_without_a_token_cost_one_exchange() {
    let (cache, script, _) = cache();
    *script.takes.lock() = Duration::from_secs(2);
    let mut readers = JoinSet::new();
    for _ in 0..1000 {
        let cache = Arc::clone(&cache);
        readers.spawn(async move { number(&cache).await });
    }
    assert_eq!(readers.join_all().await, vec![Ok(1); 1000]);
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_outlives_the_caller_who_started_it() {
    let (cache, script, _) = cache();
    *script.takes.lock() = Duration::from_secs(2);
    let first = tokio::time::timeout(Duration::from_secs(1), number(&cache)).await;
    assert!(first.is_err(), "the first caller gives up half way");
    let start = Instant::now();
    assert_eq!(number(&cache).await, Ok(1));
    assert_eq!((start.elapsed(), script.count()), (Duration::from_secs(1), 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_in_the_background_at_half_its_life_and_the_old_one_serves_meanwhile() {
    let (cache, script, _) = cache();
    assert_eq!(number(&cache).await, Ok(1));
    *script.takes.lock() = Duration::from_secs(30);
    sleep(Duration::from_secs(1805)).await;
    assert_eq!(script.count(), 2, "nobody asked, and yet the refresh is under way");
    let start = Instant::now();
    let served = number(&cache).await;
    assert!(start.elapsed().is_zero() && served.is_ok());
    sleep(Duration::from_secs(31)).await;
    assert_eq!(number(&cache).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn limit_6_a_failing_refresh_makes_nobody_wait_while_the_token_is_valid() {
    let (cache, script, _) = cache();
    assert_eq!(number(&cache).await, Ok(1));
    script.fail(Code::TokenUnavailable);
    *script.takes.lock() = Duration::from_secs(2);
    sleep(Duration::from_secs(3600 - 200)).await;
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(number(&cache).await, Ok(1));
    }
    assert!(start.elapsed().is_zero());
    let tried = script.count() - 1;
    assert!((5..=20).contains(&tried), "the background backs off: {tried} tries in half an hour");
}

#[tokio::test(start_paused = true)]
async fn a_token_serves_until_its_true_end_while_the_authority_is_down_and_work_resumes_when_it_is_back() {
    let (cache, script, _) = cache();
    assert_eq!(number(&cache).await, Ok(1));
    script.fail(Code::TokenUnavailable);
    sleep(Duration::from_secs(3594)).await;
    assert_eq!(number(&cache).await, Ok(1));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(number(&cache).await, Err(Code::TokenUnavailable));
    script.work();
    sleep(Duration::from_secs(16)).await;
    assert!(number(&cache).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_definite_refusal_is_repeated_for_ten_seconds_without_asking_again() {
    let (cache, script, _) = cache();
    script.fail(Code::TokenRefused);
    for _ in 0..100 {
        assert_eq!(number(&cache).await, Err(Code::TokenRefused));
    }
    assert_eq!(script.count(), 1);
    sleep(Duration::from_secs(11)).await;
    script.work();
    assert_eq!(number(&cache).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn an_outage_without_a_token_is_not_hammered() {
    let (cache, script, _) = cache();
    script.fail(Code::TokenUnavailable);
    for _ in 0..6000 {
        assert!(number(&cache).await.is_err());
        sleep(Duration::from_millis(10)).await;
    }
    assert!((4..=12).contains(&script.count()), "{} exchanges in a minute", script.count());
}

#[tokio::test(start_paused = true)]
async fn an_error_names_the_identity() {
    let (cache, script, _) = cache();
    script.fail(Code::TokenRefused);
    let error = cache.token(VAULT).await.err().unwrap();
    assert_eq!(error.identity_name(), Some("workload-identity client c tenant t"));
}

#[tokio::test(start_paused = true)]
async fn limit_10_a_401_leads_to_one_fresh_exchange_and_not_to_a_storm() {
    let (cache, script, _) = cache();
    let refused = cache.token(VAULT).await.ok().unwrap();
    cache.reject(VAULT, &refused);
    cache.reject(VAULT, &refused);
    assert_eq!(number(&cache).await, Ok(2), "a fresh token, not the refused one again");
    let second = cache.token(VAULT).await.ok().unwrap();
    for _ in 0..10 {
        cache.reject(VAULT, &second);
        assert_eq!(number(&cache).await, Ok(2));
    }
    assert_eq!(script.count(), 2);
    sleep(REJECT_INTERVAL).await;
    cache.reject(VAULT, &second);
    assert_eq!(number(&cache).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_401_for_an_older_token_leaves_the_newer_one_alone() {
    let (cache, script, _) = cache();
    let first = cache.token(VAULT).await.ok().unwrap();
    cache.reject(VAULT, &first);
    assert_eq!(number(&cache).await, Ok(2));
    sleep(REJECT_INTERVAL * 2).await;
    cache.reject(VAULT, &first);
    assert_eq!((number(&cache).await, script.count()), (Ok(2), 2));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_comes_back_when_the_authority_is_down_and_no_better_one_can_be_had() {
    let (cache, script, _) = cache();
    let token = cache.token(VAULT).await.ok().unwrap();
    script.fail(Code::TokenUnavailable);
    cache.reject(VAULT, &token);
    assert_eq!(number(&cache).await, Err(Code::TokenUnavailable));
    assert_eq!(number(&cache).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn time_spent_suspended_counts() {
    let (cache, script, clock) = cache();
    assert_eq!(number(&cache).await, Ok(1));
    *clock.suspended.lock() = Duration::from_secs(2000);
    assert_eq!(number(&cache).await, Ok(1), "still valid, and due");
    sleep(Duration::from_millis(1)).await;
    assert_eq!((number(&cache).await, script.count()), (Ok(2), 2));
    *clock.suspended.lock() = Duration::from_secs(20_000);
    assert_eq!(number(&cache).await, Ok(3), "ended while suspended: never served");
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_replaces_tokens_in_the_background_and_forgets_refusals() {
    let (cache, script, _) = cache();
    assert_eq!(number(&cache).await, Ok(1));
    *script.takes.lock() = Duration::from_secs(1);
    cache.reload();
    assert_eq!(number(&cache).await, Ok(1));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(number(&cache).await, Ok(2));

    let (cache, script, _) = self::cache();
    script.fail(Code::IdentityFile);
    assert_eq!(number(&cache).await, Err(Code::IdentityFile));
    script.work();
    cache.reload();
    assert_eq!(number(&cache).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn refresh_goes_on_after_a_first_failure_a_rejection_and_a_reload() {
    let (cache, script, _) = cache();
    script.fail(Code::TokenUnavailable);
    assert!(number(&cache).await.is_err());
    script.work();
    sleep(Duration::from_secs(2)).await;
    let token = cache.token(VAULT).await.ok().unwrap();
    cache.reject(VAULT, &token);
    assert!(number(&cache).await.is_ok());
    cache.reload();
    let before = script.count();
    sleep(Duration::from_secs(86_400)).await;
    let refreshes = script.count() - before;
    assert!((45..=60).contains(&refreshes), "{refreshes} refreshes in a day of tokens of one hour");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ended_while_it_was_fetched_is_fetched_again() {
    let (cache, script, clock) = cache();
    *script.takes.lock() = Duration::from_secs(1);
    *script.lifetime.lock() = Duration::from_secs(40);
    let suspend = async {
        sleep(Duration::from_millis(500)).await;
        *clock.suspended.lock() += Duration::from_secs(3600);
    };
    let (token, ()) = tokio::join!(cache.token(VAULT), suspend);
    assert!(token.ok().unwrap().expires_boot > clock.boot());
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_cache_ends_its_background_work() {
    let (cache, script, _) = cache();
    assert_eq!(number(&cache).await, Ok(1));
    drop(cache);
    sleep(Duration::from_secs(86_400)).await;
    assert_eq!(script.count(), 1);
    assert_eq!(Arc::strong_count(&script), 1, "nothing holds the exchange any more");
}

#[tokio::test(start_paused = true)]
async fn each_resource_has_a_token_of_its_own_and_their_number_is_bounded() {
    let (cache, script, _) = cache();
    for number in 0..RESOURCES {
        let resource = format!("https://r{number}.test");
        assert!(
            cache.token(&resource).await.ok().unwrap().secret.expose_str().unwrap().starts_with(&resource)
        );
    }
    assert_eq!(script.count(), RESOURCES);
    assert!(cache.token("https://one-more.test").await.is_err());
    assert_eq!(cache.token("https://r0.test&x=y").await.err().unwrap().code(), Code::ConfigInvalid);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_token_is_known_and_told() {
    #[derive(Default)]
    struct Told(Mutex<Vec<Event>>);
    impl Observer for Told {
        fn event(&self, event: &Event) {
            self.0.lock().push(*event);
        }
    }
    let (script, clock, told) = (Arc::new(Script::default()), TestClock::new(), Arc::new(Told::default()));
    *script.lifetime.lock() = Duration::from_secs(3600);
    let cache = TokenCache::new(key(), Box::new(Fake(Arc::clone(&script))), clock.clone(), told.clone());
    assert_eq!(cache.expires(), None);
    let end = clock.wall() + Duration::from_secs(3600);
    number(&cache).await.unwrap();
    assert_eq!(cache.expires(), Some(end));
    script.fail(Code::TokenThrottled);
    sleep(Duration::from_secs(1801)).await;
    let event = |error| Event::Token { method: "workload-identity", error, expires_wall: Some(end) };
    assert_eq!(told.0.lock()[..2], [event(None), event(Some(Code::TokenThrottled))]);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Suspend(u64),
    Ask,
    Reject,
    Reload,
    Break(bool),
    Lifetime(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u64..4000).prop_map(Step::Wait),
        (1u64..4000).prop_map(Step::Suspend),
        Just(Step::Ask),
        Just(Step::Reject),
        Just(Step::Reload),
        any::<bool>().prop_map(Step::Break),
        (10u64..10_000).prop_map(Step::Lifetime),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_no_ended_token_is_served_and_one_exchange_runs_at_a_time(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (ended, most) = runtime.block_on(async {
            let (cache, script, clock) = cache();
            *script.takes.lock() = Duration::from_secs(1);
            let mut ended = 0;
            let mut last = None;
            for step in steps {
                match step {
                    Step::Wait(seconds) => sleep(Duration::from_secs(seconds)).await,
                    Step::Suspend(seconds) => *clock.suspended.lock() += Duration::from_secs(seconds),
                    Step::Ask => {
                        if let Ok(token) = cache.token(VAULT).await {
                            ended += usize::from(token.expires_boot <= clock.boot());
                            last = Some(token);
                        }
                    }
                    Step::Reject => last.iter().for_each(|token| cache.reject(VAULT, token)),
                    Step::Reload => cache.reload(),
                    Step::Break(true) => script.fail(Code::TokenUnavailable),
                    Step::Break(false) => script.work(),
                    Step::Lifetime(seconds) => *script.lifetime.lock() = Duration::from_secs(seconds),
                }
            }
            (ended, script.most_at_once.load(Ordering::SeqCst))
        });
        prop_assert_eq!(ended, 0);
        prop_assert!(most <= 1);
    }
}
