use keyward_core::{
    Collection, Content, Fetched, ObjectKey, ObjectRef, Parts, SecretBytes, VaultHost, Version,
};
use keyward_test_support::ModelVault;
use proptest::prelude::*;

use super::*;

fn fetched(value: u8) -> Arc<Fetched> {
    let version = Version::parse(&format!("{value:032x}")).unwrap();
    Arc::new(Fetched {
        object: object(),
        version,
        content: Content::Secret { value: SecretBytes::copy_from(&[value]), bundle: None },
        content_type: None,
        created: None,
        updated: None,
        expires: None,
        not_before: None,
        request_id: None,
    })
}

fn object() -> ObjectRef {
    ObjectRef::new(VaultHost::parse("shop.vault.azure.net").unwrap(), Collection::Secrets, "db", None)
        .unwrap()
}

fn key(client: &str) -> ObjectKey {
    let request = FetchRequest { object: object(), parts: Parts::Object };
    ObjectKey { identity: ModelVault::identity(client), request }
}

/// The broker's snapshot of `value`, asked for at `asked`.
fn snapshot(value: Option<u8>, asked: Option<u64>, state: State) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        key: key("c"),
        state,
        fetched: value.map(fetched),
        error: None,
        confirmed: Some(Duration::from_secs(1)),
        confirmed_boot: Some(Duration::from_secs(1)),
        asked: asked.map(Duration::from_secs),
        checked: None,
        next_check: None,
        sequence: 0,
    })
}

fn saved(value: u8) -> Saved {
    Saved { key: key("c"), fetched: fetched(value), confirmed_wall: Duration::from_secs(1) }
}

/// What readers see of the one object.
fn seen(shown: &Snapshots) -> (Option<u8>, State) {
    let shown = shown.values().next().unwrap();
    let value = shown.fetched.as_ref().map(|fetched| match &fetched.content {
        Content::Secret { value, .. } => value.expose()[0],
        _ => unreachable!("these tests have secrets"),
    });
    (value, shown.state)
}

#[test]
fn what_outlived_a_restart_replaces_nothing_and_any_answer_since_does() {
    let mut guard = Guard::resumed(vec![saved(2)]);
    let restored = |value| vec![snapshot(Some(value), None, State::Stale)];
    assert_eq!(seen(&guard.admit(restored(2)).0), (Some(2), State::Stale));
    assert_eq!(seen(&guard.admit(restored(1)).0), (Some(2), State::Stale), "another volume's");
    assert_eq!(seen(&guard.admit(vec![snapshot(None, None, State::Pending)]).0), (Some(2), State::Stale));
    let (shown, again) = guard.admit(vec![snapshot(Some(1), Some(5), State::Fresh)]);
    assert_eq!((seen(&shown), again.len()), ((Some(1), State::Fresh), 0), "the provider says so now");
}

#[test]
fn what_nobody_remembers_is_not_guessed_from_what_another_volume_had() {
    let mut guard = Guard::resumed(Vec::new());
    let restored = snapshot(Some(1), None, State::Stale);
    assert!(!guard.would_show(&restored));
    assert_eq!(seen(&guard.admit(vec![restored]).0), (None, State::Pending));
    let asked = snapshot(Some(1), Some(5), State::Fresh);
    assert!(guard.would_show(&asked));
    assert_eq!(seen(&guard.admit(vec![asked]).0), (Some(1), State::Fresh));
    // A volume that is published for the first time takes what pods of its identity have.
    let mut first = Guard::default();
    assert_eq!(seen(&first.admit(vec![snapshot(Some(1), None, State::Stale)]).0), (Some(1), State::Stale));
}

#[test]
fn an_answer_to_an_older_request_is_asked_for_again_once_and_readers_keep_what_they_have_as_stale() {
    let mut guard = Guard::default();
    let (shown, _) = guard.admit(vec![snapshot(Some(2), Some(8), State::Fresh)]);
    guard.settle(&shown, Duration::from_secs(10));
    let older = || vec![snapshot(Some(1), Some(9), State::Fresh)];
    let (shown, again) = guard.admit(older());
    assert_eq!((seen(&shown), again.len()), ((Some(2), State::Stale), 1));
    guard.settle(&shown, Duration::from_secs(11));
    let (shown, again) = guard.admit(older());
    assert_eq!((seen(&shown), again.len()), ((Some(2), State::Stale), 0), "once");
    guard.settle(&shown, Duration::from_secs(12));
    let (shown, _) = guard.admit(vec![snapshot(Some(1), Some(10), State::Fresh)]);
    assert_eq!(seen(&shown), (Some(1), State::Fresh), "keeping is no delivery");
}

#[test]
fn what_is_revoked_or_expired_is_so_whatever_content_the_broker_has() {
    let guard = Guard::resumed(vec![saved(2)]);
    for state in [State::Revoked, State::Expired] {
        assert_eq!(seen(&guard.shown(vec![snapshot(Some(1), None, state)])), (Some(2), state));
    }
    assert_eq!(seen(&guard.shown(vec![snapshot(Some(1), Some(9), State::Fresh)])), (Some(2), State::Stale));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The broker has this, by a request that began so long ago; by none since the start.
    Look { value: u8, ago: Option<u64>, delivers: bool },
    /// The process is killed; this much was remembered.
    Restart { remembers: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4, proptest::option::of(0u64..40), any::<bool>())
            .prop_map(|(value, ago, delivers)| Step::Look { value, ago, delivers }),
        1 => any::<bool>().prop_map(|remembers| Step::Restart { remembers }),
    ]
}

proptest! {
    #[test]
    fn in_whatever_order_nothing_that_was_delivered_is_replaced_but_by_an_answer_asked_for_afterwards(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let (mut now, mut guard) = (100u64, Guard::default());
        // What readers have, and when they were given it; the moment of the start.
        let (mut have, mut start): (Option<(u8, u64)>, u64) = (None, 0);
        for step in steps {
            now += 7;
            match step {
                Step::Restart { remembers } => {
                    start = now;
                    if let Some((value, _)) = have {
                        guard = Guard::resumed(if remembers { vec![saved(value)] } else { Vec::new() });
                        if !remembers {
                            // Their files stay; the API has nothing, which is nothing older.
                            have = Some((value, now));
                        }
                    } else {
                        guard = Guard::default();
                    }
                }
                Step::Look { value, ago, delivers } => {
                    let asked = ago.map(|ago| now - ago).filter(|asked| *asked >= start);
                    let state = if asked.is_some() { State::Fresh } else { State::Stale };
                    let (shown, _) = guard.admit(vec![snapshot(Some(value), asked, state)]);
                    let (seen, _) = seen(&shown);
                    if let (Some(seen), Some((had, since))) = (seen, have)
                        && seen != had
                    {
                        prop_assert!(asked.is_some_and(|asked| asked >= since || since <= start));
                    }
                    if delivers {
                        guard.settle(&shown, Duration::from_secs(now));
                        if let Some(seen) = seen
                            && have.is_none_or(|(had, _)| had != seen)
                        {
                            have = Some((seen, now));
                        }
                    }
                }
            }
        }
    }
}
