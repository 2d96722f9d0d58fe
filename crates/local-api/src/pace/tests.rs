use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::advance;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Work whose first poll takes this long.
async fn work(takes: Duration) {
    advance(takes).await;
}

async fn in_turn(pace: &Pace, takes: Duration) {
    pace.ready().await;
    pace.measured(work(takes)).await;
}

/// A pod that has used up its share and its reserve.
async fn in_debt(paces: &Paces, pod: &str) -> Pace {
    let pace = paces.of(pod);
    for _ in 0..2 {
        pace.measured(work(LONGEST)).await;
    }
    pace
}

#[tokio::test(start_paused = true)]
async fn a_pod_below_its_share_is_never_put_off() {
    let paces = Paces::default();
    let pace = paces.of("modest");
    for _ in 0..1_000 {
        in_turn(&pace, MS).await;
        sleep(4 * MS).await;
    }
    assert_eq!(paces.put_off(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_may_use_its_reserve_at_once_and_then_its_share() {
    let (paces, began) = (Paces::default(), Instant::now());
    let pace = paces.of("greedy");
    let at_once = AHEAD + RESERVE;
    while began.elapsed() < at_once {
        in_turn(&pace, MS).await;
    }
    assert_eq!(paces.put_off(), Duration::ZERO);
    for _ in 0..1_000 {
        in_turn(&pace, MS).await;
    }
    let (time, used) = (began.elapsed(), at_once + 1_000 * MS);
    assert!(used <= time / 4 + time / 200 + at_once + 2 * MS, "used {used:?} of {time:?}");
    assert!(time <= 4 * used, "used {used:?} of {time:?}");
    assert!(paces.put_off() + used >= time - 4 * MS);
}

#[tokio::test(start_paused = true)]
async fn bursts_do_not_bring_the_reserve_back_sooner() {
    let (paces, began) = (Paces::default(), Instant::now());
    let pace = paces.of("pulsing");
    let mut used = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(20) {
        // As much as it gets without being put off.
        while pace.0.as_ref().is_some_and(|pod| pod.left(pod.now()) == 0) {
            pace.measured(work(MS)).await;
            used += MS;
        }
        sleep(200 * MS).await;
    }
    // A reserve that filled at the rate of the share would give a quarter.
    assert!(25 * used < began.elapsed(), "used {used:?} of {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_a_pod_in_debt_is_not_polled_and_those_of_others_are() {
    let paces = Paces::default();
    let (greedy, quiet) = (in_debt(&paces, "greedy").await, paces.of("quiet"));
    let polled = |pace: &Pace, wait: &mut Wait| {
        let mut context = Context::from_waker(std::task::Waker::noop());
        pace.poll(wait, &mut context, |_| Poll::Ready(())).is_ready()
    };
    let (mut first, mut second) = (None, None);
    assert!(!polled(&greedy, &mut first) && !polled(&greedy, &mut second));
    assert!(polled(&quiet, &mut None));
    // What they waited for comes, to one after the other.
    advance(4 * LONGEST).await;
    assert!(polled(&greedy, &mut first));
    assert!(polled(&greedy, &mut second));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_gives_up_lets_the_next_one_wait_for_time() {
    let paces = Paces::default();
    let pace = in_debt(&paces, "greedy").await;
    let mut tasks = JoinSet::new();
    let waiting = |pace: &Pace| {
        let pace = pace.clone();
        async move { pace.ready().await }
    };
    let given_up = tasks.spawn(waiting(&pace));
    tokio::task::yield_now().await;
    (0..3).for_each(|_| drop(tasks.spawn(waiting(&pace))));
    tokio::task::yield_now().await;
    given_up.abort();
    let mut ended = 0;
    while let Some(outcome) = tasks.join_next().await {
        ended += usize::from(outcome.is_ok());
    }
    assert_eq!(ended, 3);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_and_comes_again_finds_what_it_owed_and_is_forgotten_when_it_owes_nothing() {
    let paces = Paces::default();
    drop(in_debt(&paces, "greedy").await);
    drop(paces.of("other"));
    let (again, began) = (paces.of("greedy"), Instant::now());
    again.ready().await;
    assert!(began.elapsed() > LONGEST);
    drop(again);
    advance(Duration::from_secs(3600)).await;
    let _new = paces.of("new");
    assert_eq!(paces.pods.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_share_nothing_is_put_off() {
    let (pace, began) = (Pace::default(), Instant::now());
    for _ in 0..100 {
        in_turn(&pace, 100 * MS).await;
    }
    assert_eq!(began.elapsed(), 100 * 100 * MS);
}

proptest! {
    #[test]
    fn no_more_is_used_in_any_time_than_share_and_burst_allow(
        steps in proptest::collection::vec((0u64..3_000_000, 1u64..500_000), 1..300)
    ) {
        let bucket = Bucket::new(SHARE, AHEAD);
        let (mut now, mut used, mut longest) = (1_000_000_000u64, 0u64, 0u64);
        let began = now;
        for (rests, spent) in steps {
            now += rests.max(bucket.left(now));
            prop_assert_eq!(bucket.left(now), 0, "waiting as long as told is enough");
            bucket.charge(now, spent);
            now += spent;
            used += spent;
            longest = longest.max(spent);
            prop_assert!(used <= (now - began) / SHARE + nanos(AHEAD) + longest + 1);
        }
    }
}
