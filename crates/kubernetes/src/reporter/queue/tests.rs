use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error};
use keyward_test_support::TokioClock;
use keyward_test_support::limits::limit;

use super::super::{ObjectVersion, Outcome, PodRef, Report};
use super::{ATTEMPTS, End, Job, Queue, Step};

fn queue() -> Queue {
    Queue::new(Arc::new(TokioClock::new()))
}

fn report(class: Option<&str>, outcome: Outcome) -> Report {
    Report {
        pod: PodRef { namespace: "shop".into(), name: "web".into(), uid: "u".into() },
        volume: "secrets".into(),
        class: class.map(str::to_owned),
        target_path: "/mount".into(),
        outcome,
    }
}

fn failed(why: &str, mounted: bool) -> Outcome {
    Outcome::Failed { error: Error::new(Code::VaultUnavailable, why), mounted }
}

fn published(version: &str) -> Outcome {
    Outcome::Published { objects: vec![ObjectVersion { id: "secret/a".into(), version: version.into() }] }
}

/// Ends every write that is due with success; answers what they were.
fn write_all(queue: &mut Queue) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(mut job) = queue.next() {
        told.push(describe(&mut job));
        queue.end(job, &End::Written);
    }
    told
}

fn describe(job: &mut Job) -> String {
    match &mut job.step {
        Step::Status { class, exists, .. } => {
            format!("status {class} {}", if *exists { "again" } else { "new" })
        }
        Step::Event(event) => {
            let again = event.name.replace("name".into()).is_some();
            format!("event {} {}", event.count, if again { "again" } else { "new" })
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_failure_is_told_once_a_minute_with_its_count() {
    let mut queue = queue();
    queue.note(report(None, failed("down", false)));
    assert_eq!(write_all(&mut queue), ["event 1 new"]);
    for _ in 0..59 {
        tokio::time::advance(Duration::from_secs(1)).await;
        queue.note(report(None, failed("down", false)));
    }
    assert!(write_all(&mut queue).is_empty());
    tokio::time::advance(Duration::from_secs(1)).await;
    queue.note(report(None, failed("down", false)));
    assert_eq!(write_all(&mut queue), ["event 61 again"]);
    tokio::time::advance(Duration::from_secs(600)).await;
    queue.note(report(None, failed("down", false)));
    assert_eq!(write_all(&mut queue), ["event 1 new"], "after ten minutes it is news again");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_while_the_event_is_under_way_is_no_second_event() {
    let mut queue = queue();
    for end in [End::Later, End::Written] {
        queue.note(report(None, failed("down", false)));
        let job = queue.next().unwrap();
        queue.note(report(None, failed("down", false)));
        queue.end(job, &end);
        let Some(volume) = queue.volumes.values().next() else { panic!() };
        assert!(volume.events.len() <= 1);
    }
    assert!(queue.next().is_none());
    let told = queue.volumes.values().next().and_then(|volume| volume.last.as_ref()).unwrap();
    assert_eq!(told.event.count, 4);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_joined_by_what_happened_meanwhile() {
    let mut queue = queue();
    queue.note(report(Some("vault"), published("1")));
    let job = queue.next().unwrap();
    queue.note(report(Some("vault"), failed("down", true)));
    queue.end(job, &End::Later);
    let Some(Job { step: Step::Status { desired, .. }, .. }) = queue.next() else { panic!() };
    let pod = PodRef { namespace: "shop".into(), name: "web".into(), uid: "u".into() };
    let patch = desired.patch(&pod, "vault", "node", "/mount");
    assert_eq!(patch["status"]["objects"][0]["version"], "1", "the objects that were not told yet");
    assert!(patch["metadata"]["annotations"]["keyward.dev/last-error"].is_string(), "and the later error");
}

#[tokio::test(start_paused = true)]
async fn a_change_back_before_it_was_told_is_not_told() {
    let mut queue = queue();
    queue.note(report(Some("vault"), published("1")));
    assert_eq!(write_all(&mut queue), ["status vault new", "event 1 new"]);
    queue.note(report(Some("vault"), published("2")));
    queue.note(report(Some("vault"), published("1")));
    assert!(write_all(&mut queue).is_empty());
}

#[tokio::test(start_paused = true)]
async fn another_class_is_another_status() {
    let mut queue = queue();
    queue.note(report(Some("one"), published("1")));
    write_all(&mut queue);
    queue.note(report(Some("two"), published("1")));
    assert_eq!(write_all(&mut queue)[0], "status two new");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_never_works_is_given_up() {
    let mut queue = queue();
    queue.note(report(None, failed("down", false)));
    let mut tries = 0;
    while let Some(job) = queue.next() {
        tries += 1;
        queue.end(job, &End::Later);
    }
    assert_eq!(tries, ATTEMPTS + 1);
    assert_eq!(queue.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_leaves_nothing() {
    let mut queue = queue();
    queue.note(report(Some("vault"), published("1")));
    let job = queue.next().unwrap();
    queue.note(report(Some("vault"), Outcome::Gone));
    queue.end(job, &End::Later);
    assert!(queue.next().is_none());
    assert_eq!((queue.stats().volumes, queue.pods.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_rests_comes_back_later_and_later_while_others_go_on_and_is_given_up_at_last() {
    let mut queue = queue();
    queue.note(report(Some("class"), published("1")));
    let mut rests = Vec::new();
    loop {
        let job = queue.next().unwrap();
        assert!(matches!(job.step, Step::Status { .. }));
        queue.end(job, &End::Rest);
        let Some(due) = queue.due() else { break };
        rests.push((due - tokio::time::Instant::now()).as_secs());
        // News of the volume do not cut its rest short, and another volume does not wait for it.
        queue.note(report(Some("class"), published("2")));
        assert!(queue.next().is_none());
        let mut other = report(Some("class"), published("1"));
        other.pod.uid = "other".into();
        queue.note(other);
        assert!(!write_all(&mut queue).is_empty() || rests.len() > 1);
        assert!(queue.waiting() > 0);
        tokio::time::advance(due - tokio::time::Instant::now()).await;
    }
    assert_eq!(rests.len(), ATTEMPTS as usize);
    assert_eq!(rests[..7], [1, 2, 4, 8, 16, 32, 60]);
    assert!(rests[7..].iter().all(|rest| *rest == 60));
}

#[tokio::test(start_paused = true)]
async fn events_of_a_pod_and_those_that_wait_are_bounded_as_the_table_says() {
    let waiting = limit("events of a volume that wait").number();
    let mut queue = queue();
    for n in 0..waiting {
        queue.note(report(None, failed(&format!("failure {n}"), false)));
    }
    assert_eq!(queue.stats().dropped, 0);
    queue.note(report(None, failed("one more", false)));
    assert_eq!(queue.stats().dropped, 1);
    assert_eq!(write_all(&mut queue).len(), waiting);

    // The others that the pod may have, each told before the next.
    let most = limit("events of a pod").number();
    let tell = |queue: &mut Queue, n: usize| {
        queue.note(report(None, failed(&format!("another {n}"), false)));
        write_all(queue).len()
    };
    assert_eq!((waiting..most).map(|n| tell(&mut queue, n)).sum::<usize>(), most - waiting);
    assert_eq!(tell(&mut queue, most), 0);
    assert_eq!(queue.stats().dropped, 2);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!((tell(&mut queue, most + 1), tell(&mut queue, most + 2)), (1, 0));
}
