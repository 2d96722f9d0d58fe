use std::sync::mpsc;

use keyward_core::cloud::Cloud;
use keyward_core::spec::{Context, ObjectSource, Source, parse_objects_text};
use keyward_core::{Content, Fetched, ObjectRef, SecretBytes, Version};
use rustix::process::getpriority_process;

use super::*;
use crate::content::{Leaf, convert, order, parse_pem};
use crate::meter::Meter;
use crate::projection::{Defaults, project};

/// A clock that stands still until it is set.
#[derive(Default)]
struct Hands(Mutex<Duration>);

impl Hands {
    fn on(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for Hands {
    fn wall(&self) -> Duration {
        self.boot()
    }

    fn boot(&self) -> Duration {
        *self.0.lock()
    }
}

fn pool(places: usize, deadline: Option<Duration>) -> (Conversions, Arc<Hands>) {
    let hands = Arc::new(Hands::default());
    let clock = Arc::clone(&hands) as Arc<dyn Clock>;
    let places = NonZeroUsize::new(places).unwrap();
    (Conversions::new(Settings { deadline, places, clock, prepare: || {} }), hands)
}

/// Work that says that it began, and goes on when it is told to.
struct Gate {
    began: oneshot::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

fn gated() -> (Gate, impl FnOnce() + Send + 'static) {
    let (says, began) = oneshot::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let wait = move || {
        says.send(()).unwrap();
        // A gate that is dropped is open.
        let _ = may_go_on.recv();
    };
    (Gate { began, go_on }, wait)
}

fn source(settings: &str) -> ObjectSource {
    let text = format!("[{{from: 'kv://shop/secrets/a', name: it{settings}}}]");
    let cloud = Cloud::public();
    let context = Context { cloud: &cloud, listed_hosts: &[], notify: false };
    match parse_objects_text(text.as_bytes(), context).unwrap().remove(0).source {
        Source::Object(source) => source,
        Source::Template(_) => panic!("a template"),
    }
}

fn fetched(value: &[u8]) -> Arc<Fetched> {
    let (object, _) = ObjectRef::parse("kv://shop/secrets/a", &Cloud::public()).unwrap();
    Arc::new(Fetched {
        object,
        version: Version::parse("0123456789abcdef0123456789abcdef").unwrap(),
        content: Content::Secret { value: SecretBytes::copy_from(value), bundle: None },
        content_type: None,
        created: None,
        updated: None,
        expires: None,
        not_before: None,
        request_id: None,
    })
}

#[tokio::test]
async fn memory_can_be_handed_back_on_the_thread_of_each_piece_of_work_before_it_begins() {
    thread_local! {
        static PREPARED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    let settings = Settings::new(None, Arc::<Hands>::default());
    let pool = Conversions::new(settings.prepared_by(|| PREPARED.set(PREPARED.get() + 1)));
    for _ in 0..3 {
        assert_eq!(pool.payer("a").run(|_| PREPARED.get()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_conversion_yields_to_everybody_and_leaves_no_thread_so() {
    let before = getpriority_process(None).unwrap();
    let (pool, _) = pool(1, None);
    let least = pool.payer("a").run(|_| getpriority_process(None).unwrap()).await.unwrap();
    assert_eq!((least, getpriority_process(None).unwrap()), (LEAST, before));
}

/// The runtime of this test has one thread, and it is free while all places of the pool are taken.
#[tokio::test]
async fn pods_take_turns_however_much_one_of_them_asks_for() {
    let (pool, _) = pool(1, None);
    let (order, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let (gate, wait) = gated();
    let first = tokio::spawn({
        let payer = pool.payer("hostile");
        async move { payer.run(move |_| wait()).await }
    });
    gate.began.await.unwrap();
    let mut tasks = Vec::new();
    for (pod, number) in (0..8).map(|number| ("hostile", number)).chain([("quiet", 100), ("other", 200)]) {
        let (payer, order) = (pool.payer(pod), order.clone());
        tasks.push(tokio::spawn(async move { payer.run(move |_| order.send(number).unwrap()).await }));
        // Each has entered its line before the next one.
        tokio::task::yield_now().await;
    }
    drop(gate.go_on);
    first.await.unwrap().unwrap();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let order: Vec<_> = std::iter::from_fn(|| ended.try_recv().ok()).collect();
    assert_eq!(order, [100, 200, 0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn long_work_gives_way_to_another_pod_and_goes_on_after_it() {
    let (pool, hands) = pool(1, Some(Duration::from_secs(1)));
    let (order, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let (gate, wait) = gated();
    let long = tokio::spawn({
        let (payer, order) = (pool.payer("long"), order.clone());
        async move {
            payer
                .run(move |turn| {
                    wait();
                    let outcome = turn.check();
                    order.send("long").unwrap();
                    outcome
                })
                .await
        }
    });
    gate.began.await.unwrap();
    let short = tokio::spawn({
        let (payer, clock) = (pool.payer("short"), Arc::clone(&hands));
        async move {
            payer
                .run(move |_| {
                    // Time passes while the long one waits: it is not its own.
                    clock.on(Duration::from_secs(60));
                    order.send("short").unwrap();
                })
                .await
        }
    });
    tokio::task::yield_now().await;
    hands.on(Duration::from_millis(20));
    drop(gate.go_on);
    short.await.unwrap().unwrap();
    assert!(long.await.unwrap().unwrap().is_ok(), "a deadline counts work, not waiting");
    assert_eq!((ended.try_recv(), ended.try_recv()), (Ok("short"), Ok("long")));
}

#[tokio::test]
async fn a_deadline_runs_from_the_start_of_the_work() {
    let deadline = Duration::from_secs(20);
    let (pool, hands) = pool(1, Some(deadline));
    let (gate, wait) = gated();
    let first = tokio::spawn({
        let payer = pool.payer("a");
        async move { payer.run(move |_| wait()).await }
    });
    gate.began.await.unwrap();
    let clock = Arc::clone(&hands);
    let second = tokio::spawn({
        let payer = pool.payer("b");
        async move {
            let work = move |turn: &Turn| {
                clock.on(deadline);
                let in_time = turn.check();
                clock.on(Duration::from_millis(1));
                (in_time, turn.check(), turn.check())
            };
            payer.run(work).await
        }
    });
    tokio::task::yield_now().await;
    hands.on(10 * deadline);
    drop(gate.go_on);
    first.await.unwrap().unwrap();
    let (in_time, late, later) = second.await.unwrap().unwrap();
    assert!(in_time.is_ok());
    let error = late.unwrap_err();
    assert_eq!(error.code(), Code::ContentInvalid);
    assert!(error.message().contains("limits.conversionDeadline"), "{error}");
    assert!(later.is_err());
}

#[tokio::test]
async fn work_that_nobody_waits_for_ends_at_its_next_step_and_frees_its_place() {
    let (pool, _) = pool(1, None);
    let (gate, wait) = gated();
    let (says, said) = oneshot::channel();
    let payer = pool.payer("a");
    let work = payer.run(move |turn| {
        wait();
        says.send(turn.check()).unwrap();
    });
    tokio::select! {
        biased;
        _ = work => panic!("it waits for its gate"),
        began = gate.began => began.unwrap(),
    }
    // Who waits in line and goes away leaves nothing behind either.
    tokio::select! {
        biased;
        _ = payer.run(|_| ()) => panic!("the place is taken"),
        () = std::future::ready(()) => {}
    }
    drop(gate.go_on);
    assert_eq!(said.await.unwrap().unwrap_err().code(), Code::ShuttingDown);
    payer.run(|_| ()).await.unwrap();
}

#[tokio::test]
async fn a_closed_pool_ends_what_is_under_way_and_lets_nobody_in() {
    let (pool, _) = pool(1, None);
    let (gate, wait) = gated();
    let work = tokio::spawn({
        let payer = pool.payer("a");
        async move {
            payer
                .run(move |turn| {
                    wait();
                    turn.check()
                })
                .await
        }
    });
    gate.began.await.unwrap();
    let waiting = tokio::spawn({
        let payer = pool.payer("b");
        async move { payer.run(|_| ()).await }
    });
    tokio::task::yield_now().await;
    pool.close();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::ShuttingDown);
    assert_eq!(pool.payer("c").run(|_| ()).await.unwrap_err().code(), Code::ShuttingDown);
    drop(gate.go_on);
    assert_eq!(work.await.unwrap().unwrap().unwrap_err().code(), Code::ShuttingDown);
}

#[tokio::test]
async fn a_panic_in_the_work_is_an_error_and_costs_no_place() {
    let (pool, _) = pool(1, None);
    let payer = pool.payer("a");
    let error = payer.run(|_| panic!("as the test wants it")).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    payer.run(|_| ()).await.unwrap();
}

#[tokio::test]
async fn the_same_content_format_and_password_are_converted_once_for_each_pod() {
    let (pool, _) = pool(2, None);
    let (value, other) = (fetched(b"aGVsbG8="), fetched(b"d29ybGQ="));
    let convert_all = |pod: &str| {
        let (value, other) = (Arc::clone(&value), Arc::clone(&other));
        let payer = pool.payer(pod);
        async move {
            let work = move |turn: &Turn| {
                let decoded = source(", decode: base64");
                for _ in 0..1000 {
                    let made = convert(turn, &decoded, &value, None).unwrap();
                    assert_eq!(made.value.expose(), b"hello");
                }
                assert_eq!(convert(turn, &decoded, &other, None).unwrap().value.expose(), b"world");
                assert!(convert(turn, &source(", decode: hex"), &value, None).is_err());
                assert!(convert(turn, &source(", decode: hex"), &value, None).is_err(), "failures too");
                let copy = fetched(b"aGVsbG8=");
                assert_eq!(convert(turn, &decoded, &copy, None).unwrap().value.expose(), b"hello");
                convert(turn, &source(""), &value, None).unwrap();
            };
            payer.run(work).await.unwrap();
        }
    };
    convert_all("a").await;
    assert_eq!(pool.converted(), 3, "what is delivered as it is takes no conversion");
    convert_all("a").await;
    assert_eq!(pool.converted(), 3);
    convert_all("b").await;
    assert_eq!(pool.converted(), 6, "nobody learns what another pod holds");
    pool.forget("a");
    convert_all("a").await;
    assert_eq!(pool.converted(), 9);
}

#[tokio::test]
async fn a_password_is_part_of_what_is_remembered() {
    let (pool, _) = pool(2, None);
    let pem = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/p256.key.pem")).unwrap();
    let value = fetched(&pem);
    let work = move |turn: &Turn| {
        let source = source(", format: pem-key");
        for password in [None, Some("one"), Some("two"), Some("one")] {
            let password = password.map(|it| SecretBytes::copy_from(it.as_bytes()));
            convert(turn, &source, &value, password.as_ref()).unwrap();
        }
    };
    pool.payer("a").run(work).await.unwrap();
    assert_eq!(pool.converted(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_for_its_cost_costs_its_own_pod_more_at_each_retry() {
    let clock: Arc<dyn Clock> = Arc::new(Paused(tokio::time::Instant::now(), Hands::default()));
    let pool =
        Conversions::new(Settings { deadline: None, places: NonZeroUsize::MIN, clock, prepare: || {} });
    let payer = pool.payer("a");
    let mut waits = Vec::new();
    for _ in 0..5 {
        let asked = tokio::time::Instant::now();
        // A file that asks for more than is allowed says so through its turn.
        payer.run(Turn::refuse).await.unwrap();
        waits.push(asked.elapsed().as_secs());
        let asked = tokio::time::Instant::now();
        pool.payer("b").run(|_| ()).await.unwrap();
        assert_eq!(asked.elapsed(), Duration::ZERO, "others do not pay");
    }
    assert_eq!(waits, [0, 1, 2, 4, 8]);
}

#[tokio::test]
async fn whoever_runs_async_tasks_cannot_convert_beside_the_pool() {
    assert_eq!(apart(|_| ()).unwrap_err().code(), Code::Internal);
    let elsewhere = std::thread::spawn(|| apart(|turn| turn.check().is_ok())).join().unwrap();
    assert!(elsewhere.unwrap());
}

/// The paused time of the test's own thread; other threads read what it was when that one last looked.
struct Paused(tokio::time::Instant, Hands);

impl Clock for Paused {
    fn wall(&self) -> Duration {
        self.boot()
    }

    fn boot(&self) -> Duration {
        if tokio::runtime::Handle::try_current().is_ok() {
            *self.1.0.lock() = self.0.elapsed();
        }
        self.1.boot()
    }
}

/// A clock by which a second passes with each look at it.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn wall(&self) -> Duration {
        self.boot()
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether `work` is ended in its middle: it has fewer steps than seconds to the deadline, unless it looks as it goes.
async fn ends_in_the_middle(seconds: u64, work: impl FnOnce(&Turn) -> Result<()> + Send + 'static) -> bool {
    let deadline = Some(Duration::from_secs(seconds));
    let pool = Conversions::new(Settings {
        deadline,
        places: NonZeroUsize::MIN,
        clock: Arc::new(Ticking::default()),
        prepare: || {},
    });
    let error = pool.payer("a").run(work).await.unwrap().err();
    error.is_some_and(|error| error.message().contains("limits.conversionDeadline"))
}

#[tokio::test]
async fn a_template_ends_between_two_of_its_functions_and_says_nothing_of_its_text() {
    let ones = vec!["1"; 40].join(",");
    for inside in ["{{ a }}", "{% if equal(a, 2) %}{% endif %}", "{% if \"x\" | json %}{% endif %}"] {
        let text = format!("[{{name: t, template: '{{% for a in [{ones}] %}}{inside}{{% endfor %}}'}}]");
        let cloud = Cloud::public();
        let context = Context { cloud: &cloud, listed_hosts: &[], notify: false };
        let specs = parse_objects_text(text.as_bytes(), context).unwrap();
        let render = move |turn: &Turn| {
            let defaults = Defaults { mode: 0o444, uid: None, gid: None };
            let projection = project(turn, &specs, &|_| None, None, &defaults, Meter::unlimited());
            projection.entries[0].value.clone().map(drop)
        };
        assert!(ends_in_the_middle(20, render).await, "{inside}");
    }
}

#[tokio::test]
async fn a_pointer_ends_between_two_levels_of_its_document() {
    let json = format!("{}1{}", "{\"a\":".repeat(60), "}".repeat(60));
    let pick = move |turn: &Turn| {
        let source = source(&format!(", key: {}", "/a".repeat(60)));
        convert(turn, &source, &fetched(json.as_bytes()), None).map(drop)
    };
    assert!(ends_in_the_middle(20, pick).await);
}

#[tokio::test]
async fn a_chain_ends_between_two_signatures() {
    let names = ["rsa", "inter", "root", "p256", "p384", "p521"];
    let certificates = names.map(|name| {
        let path = format!("{}/tests/fixtures/{name}.pem", env!("CARGO_MANIFEST_DIR"));
        parse_pem(&std::fs::read(path).unwrap()).unwrap()[0].der.to_vec()
    });
    let order = move |turn: &Turn| {
        let all: Vec<_> = certificates.iter().map(Vec::as_slice).collect();
        order(turn, &all, Leaf::Is(all[0])).map(drop)
    };
    assert!(ends_in_the_middle(6, order).await);
}
