use std::sync::atomic::{AtomicUsize, Ordering};

use keyward_core::observe::Silent;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;

fn gate(http1: usize, http2: usize) -> Arc<Gate> {
    Gate::new(Limits { http1, http2, rate: VaultRate::default() }, Arc::new(Silent))
}

/// Lets every other task run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_request_to_a_cold_vault_goes_alone_until_it_is_connected() {
    let gate = gate(16, 100);
    let leader = gate.enter().await.unwrap();
    let mut others = JoinSet::new();
    for _ in 0..50 {
        let gate = Arc::clone(&gate);
        others.spawn(async move { gate.enter().await.map(std::mem::forget) });
    }
    settle().await;
    assert!(others.try_join_next().is_none(), "nobody may pass before the leader is connected");
    leader.gate().connected(Protocol::Http1);
    settle().await;
    let passed = std::iter::from_fn(|| others.try_join_next()).count();
    assert_eq!(passed, 15, "the leader and fifteen more fill the sixteen connections");
}

#[tokio::test(start_paused = true)]
async fn a_vault_with_http2_takes_everyone_once_its_one_connection_is_there() {
    let gate = gate(16, 100);
    let leader = gate.enter().await.unwrap();
    leader.gate().connected(Protocol::Http2);
    for _ in 0..99 {
        std::mem::forget(gate.enter().await.unwrap());
    }
    assert!(tokio::time::timeout(Duration::from_secs(1), gate.enter()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn those_who_waited_for_a_failed_connection_fail_with_it() {
    let gate = gate(16, 100);
    let leader = gate.enter().await.unwrap();
    let mut others = JoinSet::new();
    for _ in 0..50 {
        let gate = Arc::clone(&gate);
        others.spawn(async move { gate.enter().await.err().map(|error| error.code()) });
    }
    settle().await;
    leader.gate().unconnected(&Error::new(Code::Dns, "no such name"));
    drop(leader);
    settle().await;
    let failed = std::iter::from_fn(|| others.try_join_next()).map(|joined| joined.unwrap());
    assert_eq!(failed.collect::<Vec<_>>(), vec![Some(Code::Dns); 50]);
    assert!(gate.enter().await.is_ok(), "whoever comes later tries anew");
}

#[tokio::test(start_paused = true)]
async fn one_refusal_holds_all_callers_for_as_long_as_the_vault_asks() {
    let gate = gate(16, 100);
    gate.enter().await.unwrap().gate().connected(Protocol::Http1);
    let start = Instant::now();
    gate.refused(429, Some(Duration::from_secs(3)));
    let mut callers = JoinSet::new();
    for _ in 0..40 {
        let gate = Arc::clone(&gate);
        callers.spawn(async move { gate.enter().await.map(|_| start.elapsed()).unwrap() });
    }
    let passed = callers.join_all().await;
    assert!(passed.iter().all(|after| *after >= Duration::from_secs(3)), "{passed:?}");
    assert!(passed.iter().all(|after| *after <= Duration::from_secs(6)), "{passed:?}");
    let distinct: std::collections::HashSet<_> = passed.iter().collect();
    assert!(distinct.len() > 5, "they come back spread out: {passed:?}");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_retry_after_closes_the_gate_for_seconds_only() {
    let gate = gate(16, 100);
    let start = Instant::now();
    gate.refused(429, Some(Duration::from_secs(3600)));
    gate.enter().await.unwrap();
    assert!(start.elapsed() <= CLOSED_LIMIT * 2, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn refusals_without_a_wait_close_the_gate_for_longer_each_time_and_a_success_starts_over() {
    let gate = gate(16, 100);
    let mut waits = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        gate.refused(429, None);
        drop(gate.enter().await.unwrap());
        waits.push(start.elapsed());
    }
    assert!(
        waits[0] >= UNNAMED_WAIT && waits[1] >= UNNAMED_WAIT * 2 && waits[2] >= UNNAMED_WAIT * 4,
        "{waits:?}"
    );
    gate.accepted();
    let start = Instant::now();
    gate.refused(429, None);
    drop(gate.enter().await.unwrap());
    assert!(start.elapsed() < UNNAMED_WAIT * 2);
}

#[tokio::test(start_paused = true)]
async fn a_503_without_a_wait_closes_nothing() {
    let gate = gate(16, 100);
    gate.refused(503, None);
    let start = Instant::now();
    drop(gate.enter().await.unwrap());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_never_gets_a_turn_fails_after_half_a_minute() {
    let gate = gate(1, 1);
    let _busy = gate.enter().await.unwrap();
    let start = Instant::now();
    assert_eq!(gate.enter().await.err().unwrap().code(), Code::Timeout);
    assert_eq!(start.elapsed(), TURN_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_takes_nobodys_turn() {
    let gate = gate(1, 1);
    let busy = gate.enter().await.unwrap();
    for _ in 0..10 {
        let gate = Arc::clone(&gate);
        let waiter = tokio::spawn(async move { gate.enter().await.map(drop) });
        settle().await;
        waiter.abort();
    }
    settle().await;
    drop(busy);
    assert!(tokio::time::timeout(Duration::from_secs(1), gate.enter()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_vault_is_cold_again_when_its_last_connection_closes() {
    let gate = gate(16, 100);
    let line = gate.line().await.up();
    gate.connected(Protocol::Http2);
    drop(line);
    assert_eq!(gate.state.lock().protocol, None);
}

/// Calls under `urgency`, and says by `name` when its turn came.
fn caller(
    gate: &Arc<Gate>,
    order: &Arc<Mutex<Vec<&'static str>>>,
    name: &'static str,
    urgency: Urgency,
) -> (Priority, tokio::task::JoinHandle<()>) {
    let (gate, order) = (Arc::clone(gate), Arc::clone(order));
    let priority = Priority::new(urgency);
    let scope = priority.clone();
    let task = tokio::spawn(async move {
        let pass = scope.scope(gate.enter()).await.unwrap();
        order.lock().push(name);
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(pass);
    });
    (priority, task)
}

#[tokio::test(start_paused = true)]
async fn starts_go_before_refreshes_and_each_in_the_order_of_their_arrival() {
    let gate = gate(1, 1);
    let busy = gate.enter().await.unwrap();
    let order = Arc::<Mutex<Vec<_>>>::default();
    let mut tasks = Vec::new();
    for (name, urgency) in [
        ("refresh 1", Urgency::Refresh),
        ("start 1", Urgency::Start),
        ("refresh 2", Urgency::Refresh),
        ("start 2", Urgency::Start),
    ] {
        tasks.push(caller(&gate, &order, name, urgency).1);
        settle().await;
    }
    drop(busy);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), ["start 1", "start 2", "refresh 1", "refresh 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_somebody_begins_to_wait_for_no_longer_waits_behind_starts() {
    let gate = gate(1, 1);
    let busy = gate.enter().await.unwrap();
    let order = Arc::<Mutex<Vec<_>>>::default();
    let (_, other) = caller(&gate, &order, "other refresh", Urgency::Refresh);
    settle().await;
    let (priority, joined) = caller(&gate, &order, "joined refresh", Urgency::Refresh);
    settle().await;
    let (_, start) = caller(&gate, &order, "start", Urgency::Start);
    settle().await;
    priority.promote();
    settle().await;
    drop(busy);
    for task in [other, joined, start] {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), ["joined refresh", "start", "other refresh"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_waits_for_the_kept_third_goes_at_once_when_it_becomes_a_start() {
    let rate = VaultRate { burst: 3, per_second: 1 };
    let gate = Gate::new(Limits { http1: 16, http2: 100, rate }, Arc::new(Silent));
    gate.connected(Protocol::Http2);
    for _ in 0..2 {
        drop(gate.enter().await.unwrap());
    }
    let order = Arc::<Mutex<Vec<_>>>::default();
    let (priority, task) = caller(&gate, &order, "refresh", Urgency::Refresh);
    settle().await;
    assert!(order.lock().is_empty(), "the last third is kept for starts");
    priority.promote();
    settle().await;
    assert_eq!(*order.lock(), ["refresh"]);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn five_thousand_starts_of_one_moment_keep_to_the_rate_and_none_is_lost() {
    let gate = gate(16, 100);
    gate.connected(Protocol::Http2);
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..5_000 {
        let gate = Arc::clone(&gate);
        callers.spawn(async move { gate.enter().await.map(|_| begin.elapsed()).unwrap() });
    }
    let mut passed = callers.join_all().await;
    passed.sort();
    assert!(passed[1_499] < Duration::from_millis(5), "{:?}", passed[1_499]);
    let last = passed.last().unwrap();
    assert!(*last >= Duration::from_secs(14) && *last < Duration::from_secs(15), "{last:?}");
    // Key Vault's limit: 4,000 reads in any ten seconds.
    let ten = Duration::from_secs(10);
    assert!(
        passed
            .iter()
            .all(|at| passed.iter().filter(|other| **other >= *at && **other - *at < ten).count() <= 4_001)
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_behind_refusals_is_told_of_them_also_while_the_gate_is_open_for_another() {
    let gate = gate(1, 1);
    let first = gate.enter().await.unwrap();
    gate.refused(429, Some(Duration::from_secs(1)));
    drop(first);
    let _busy = gate.enter().await.unwrap();
    let error = gate.enter().await.err().unwrap();
    assert_eq!((error.code(), error.wait()), (Code::VaultThrottled, None));
}

#[tokio::test(start_paused = true)]
async fn refreshes_wait_longer_than_starts_before_they_fail() {
    let gate = gate(1, 1);
    let _busy = gate.enter().await.unwrap();
    let start = Instant::now();
    let refresh = Priority::new(Urgency::Refresh);
    assert_eq!(refresh.scope(gate.enter()).await.err().unwrap().code(), Code::Timeout);
    assert_eq!(start.elapsed(), REFRESH_LIMIT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn never_more_in_flight_than_the_limit_none_while_closed_and_all_get_through(
        limit in 1usize..8,
        callers in proptest::collection::vec((0u64..2_000, 1u64..500, 0u8..6), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (most, passed, early) = runtime.block_on(async {
            let gate = gate(limit, 100);
            gate.connected(Protocol::Http1);
            let (now, most, early) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let mut tasks = JoinSet::new();
            for (arrives, stays, answer) in callers.clone() {
                let (gate, now, most, early) = (Arc::clone(&gate), Arc::clone(&now), Arc::clone(&most), Arc::clone(&early));
                tasks.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(arrives)).await;
                    let pass = gate.enter().await?;
                    if gate.state.lock().closed_until.is_some_and(|until| Instant::now() < until) {
                        early.fetch_add(1, Ordering::Relaxed);
                    }
                    let mine = now.fetch_add(1, Ordering::Relaxed) + 1;
                    most.fetch_max(mine, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(stays)).await;
                    now.fetch_sub(1, Ordering::Relaxed);
                    match answer {
                        0 => pass.gate().refused(429, Some(Duration::from_millis(stays))),
                        _ => pass.gate().accepted(),
                    }
                    Ok::<_, Error>(())
                });
            }
            let passed = tasks.join_all().await.into_iter().filter(Result::is_ok).count();
            (most.load(Ordering::Relaxed), passed, early.load(Ordering::Relaxed))
        });
        prop_assert!(most <= limit);
        prop_assert_eq!(early, 0);
        // Half a minute is the longest that anybody waits; these loads are far shorter, so everyone passes.
        prop_assert_eq!(passed, callers.len());
    }
}
