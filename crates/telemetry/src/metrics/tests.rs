use std::collections::BTreeMap;

use super::*;

/// One of each event; the match below fails to compile when an event is added, which is when one belongs here.
fn every_event() -> Vec<Event> {
    let duration = Duration::from_millis(20);
    let events = vec![
        Event::Lookup { outcome: Lookup::Hit },
        Event::Lookup { outcome: Lookup::Stale },
        Event::Lookup { outcome: Lookup::Miss },
        Event::Lookup { outcome: Lookup::Refused },
        Event::Rpc { method: "keyward.secrets.v1.SecretService/GetSecret", code: "OK", duration },
        Event::Upstream { provider: "azure-key-vault", operation: "get", error: None, duration },
        Event::Request { target: "vault", status: 200 },
        Event::Token { method: "workload-identity", error: None, expires_wall: Some(Duration::from_secs(9)) },
        Event::Handshake { version: "TLSv1_3", group: "X25519MLKEM768" },
        Event::Throttled { wait: duration },
        Event::Rotated { lag: Some(duration) },
        Event::Check { objects: 3, requests: 1, error: None },
        Event::States { fresh: 1, stale: 2, refused: 3, pending: 4 },
        Event::Storm { active: true },
        Event::Written { files: 3, duration, error: None },
        Event::Kept { error: Some(Code::NoSpace) },
        Event::Notified { kind: "http", error: Some(Code::NotifyFailed) },
        Event::Audit { lost: false },
        Event::Audit { lost: true },
    ];
    for event in &events {
        match event {
            Event::Lookup { .. }
            | Event::Rpc { .. }
            | Event::Upstream { .. }
            | Event::Request { .. }
            | Event::Token { .. }
            | Event::Handshake { .. }
            | Event::Throttled { .. }
            | Event::Rotated { .. }
            | Event::Check { .. }
            | Event::States { .. }
            | Event::Storm { .. }
            | Event::Written { .. }
            | Event::Kept { .. }
            | Event::Notified { .. }
            | Event::Audit { .. } => {}
        }
    }
    events
}

/// Families by name, with the sum of their samples.
fn families(text: &str) -> BTreeMap<String, f64> {
    let mut families = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split(' ').next().unwrap().to_owned();
            families.insert(current.clone(), 0.0);
        } else if !line.starts_with('#') {
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *families.get_mut(&current).unwrap() += value;
        }
    }
    families
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn every_metric_is_moved_by_some_event() {
    let metrics = Metrics::new("keyward-sidecar", "0.1.0");
    metrics.started(Duration::from_secs(1));
    every_event().iter().for_each(|event| metrics.event(event));
    let text = metrics.encode();
    for (name, sum) in families(&text) {
        assert!(sum > 0.0, "{name} was moved by no event:\n{text}");
    }
}

#[test]
fn every_event_moves_some_metric() {
    for event in every_event() {
        let metrics = Metrics::new("keyward-sidecar", "0.1.0");
        let before = metrics.encode();
        metrics.event(&event);
        assert_ne!(metrics.encode(), before, "{event:?}");
    }
}

#[test]
fn names_follow_the_conventions() {
    let metrics = Metrics::new("keyward-sidecar", "0.1.0");
    every_event().iter().for_each(|event| metrics.event(event));
    let text = metrics.encode();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let (name, kind) = line["# TYPE ".len()..].split_once(' ').unwrap();
        assert!(name.starts_with("keyward_"), "{name}");
        assert!(!name.ends_with("_total"), "the format adds it: {name}");
        assert_eq!(kind == "histogram", name.contains("duration") || name.ends_with("lag_seconds"), "{name}");
        let sample = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#')).unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            "histogram" => "_sum",
            _ => "",
        };
        assert!(sample[name.len()..].starts_with(suffix), "{sample}");
    }
}

#[test]
fn ten_thousand_unknown_texts_add_one_series() {
    let metrics = Metrics::new("keyward-sidecar", "0.1.0");
    every_event().iter().for_each(|event| metrics.event(event));
    let before = series(&metrics.encode());
    for i in 0..10_000u16 {
        let name: &'static str = Box::leak(format!("secret-{i}").into_boxed_str());
        metrics.event(&Event::Upstream {
            provider: name,
            operation: name,
            error: None,
            duration: Duration::ZERO,
        });
        metrics.event(&Event::Request { target: name, status: i });
        metrics.event(&Event::Token { method: name, error: None, expires_wall: None });
        metrics.event(&Event::Handshake { version: name, group: name });
        metrics.event(&Event::Notified { kind: name, error: None });
        metrics.event(&Event::Rpc { method: name, code: name, duration: Duration::ZERO });
    }
    let added = series(&metrics.encode()) - before;
    assert!(added <= 100, "{added} series were added");
    assert!(!metrics.encode().contains("secret-"));
}

#[test]
fn a_call_is_counted_under_its_own_method_and_code() {
    let metrics = Metrics::new("keyward-sidecar", "0.1.0");
    let get = "keyward.secrets.v1.SecretService/GetSecret";
    metrics.rpc(get, "OK", Duration::from_micros(70));
    metrics.rpc(get, "OK", Duration::from_micros(70));
    metrics.rpc(get, "NOT_FOUND", Duration::from_micros(70));
    metrics.rpc("unknown", "OK", Duration::from_micros(70));
    let text = metrics.encode();
    for (method, code, count) in [(get, "OK", 2), (get, "NOT_FOUND", 1), ("_OTHER", "OK", 1)] {
        let line =
            format!("keyward_rpc_duration_seconds_count{{method=\"{method}\",code=\"{code}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[test]
fn what_is_held_is_shown_by_kind() {
    use keyward_core::ledger::{Kind, Ledger};

    let metrics = Metrics::new("keyward-csi-driver", "0.1.0");
    let ledger = Ledger::new(keyward_core::ledger::Limits::default());
    metrics.register_held(std::sync::Arc::clone(&ledger));
    let _charge = ledger.account("pod").charge(Kind::Staged, 8192).unwrap();
    let text = metrics.encode();
    assert!(text.contains("\nkeyward_held{kind=\"staged\"} 8192\n"), "{text}");
    assert!(text.contains("\nkeyward_held{kind=\"descriptors\"} 0\n"), "{text}");
}

#[test]
fn hooks_are_read_at_every_scrape() {
    let metrics = Metrics::new("keyward-sidecar", "0.1.0");
    metrics.register_gauge("keyward_arena_locked_bytes", "Bytes in the locked arena", || 4096);
    metrics.register_counter("spans_dropped", "Spans that were not exported", || 7);
    metrics.register_seconds_counter("keyward_paced_seconds", "For how long pods were put off", || {
        Duration::from_millis(1500)
    });
    let text = metrics.encode();
    assert!(text.contains("\nkeyward_paced_seconds_total 1.5\n"), "{text}");
    assert!(text.contains("\nkeyward_arena_locked_bytes 4096\n"), "{text}");
    assert!(text.contains("\nkeyward_spans_dropped_total 7\n"), "{text}");
}
