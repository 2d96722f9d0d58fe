use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use keyward_core::observe::Event;
use keyward_core::{Code, SystemClock};
use keyward_egress::Egress;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::server::{Authority, json};
use crate::{Recorder, VAULT, egress, settings, transport, vault_get};

async fn fifty_cold_callers(http1_only: bool) -> usize {
    let ca = Authority::new();
    let setup = ca.server(&[VAULT]);
    let setup = if http1_only { setup.http1_only() } else { setup };
    let server = setup.http(async |_| json(200, "{}")).await;
    let egress = egress(settings(&ca, &server));
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        // A transport each: the gate belongs to the vault.
        let transport = transport(&egress);
        callers.spawn(async move { vault_get(&transport, "/").await.ok().unwrap().status });
    }
    assert_eq!(callers.join_all().await, vec![200; 50]);
    server.connections()
}

#[tokio::test]
async fn fifty_cold_callers_of_an_http2_vault_share_one_connection() {
    assert_eq!(fifty_cold_callers(false).await, 1);
}

#[tokio::test]
async fn fifty_cold_callers_of_an_http1_vault_open_at_most_sixteen_connections() {
    let connections = fifty_cold_callers(true).await;
    assert!((2..=16).contains(&connections), "{connections}");
}

#[tokio::test]
async fn a_vault_that_cannot_be_reached_is_tried_once_for_all_who_wait() {
    let ca = Authority::new();
    let server = Authority::new().server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let egress = egress(settings(&ca, &server));
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let transport = transport(&egress);
        callers.spawn(async move { vault_get(&transport, "/").await.err().unwrap().code() });
    }
    assert_eq!(callers.join_all().await, vec![Code::TlsUntrusted; 50]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn one_429_holds_all_callers_of_the_vault_for_its_retry_after() {
    let ca = Authority::new();
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&arrivals);
    let server = ca
        .server(&[VAULT])
        .http(move |request| {
            seen.lock().push(Instant::now());
            async move {
                if request.uri().path() != "/throttled" {
                    return json(200, "{}");
                }
                let mut answer = json(429, "{}");
                answer.headers_mut().insert("retry-after-ms", HeaderValue::from_static("400"));
                answer
            }
        })
        .await;
    let recorder = Arc::new(Recorder::default());
    let egress = Egress::new(settings(&ca, &server), Arc::new(SystemClock), recorder.clone()).unwrap();
    assert_eq!(vault_get(&transport(&egress), "/throttled").await.ok().unwrap().status, 429);
    let closed = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let transport = transport(&egress);
        callers.spawn(async move { vault_get(&transport, "/").await.ok().unwrap().status });
    }
    assert_eq!(callers.join_all().await, vec![200; 20]);
    let arrivals = arrivals.lock();
    let early =
        arrivals[1..].iter().filter(|at| at.duration_since(closed) < Duration::from_millis(390)).count();
    assert_eq!((arrivals.len(), early), (21, 0));
    assert!(recorder.0.lock().iter().any(|event| matches!(event, Event::Throttled { .. })));
}
