use std::future::pending;

use async_trait::async_trait;
use bytes::Bytes;
use keyward_core::{Result, SystemClock};
use tokio::time::{Instant, sleep};

use super::*;

/// Answers each POST after `delay` with the next of `answers`, the last one for ever; 0 never answers.
struct Application {
    start: Instant,
    delay: Duration,
    answers: Mutex<Vec<u16>>,
    posts: Mutex<Vec<(Duration, String, String)>>,
}

#[async_trait]
impl HttpPost for Application {
    async fn post(&self, url: &str, content_type: &str, body: Bytes, _timeout: Duration) -> Result<u16> {
        assert_eq!(content_type, "application/json");
        let body = String::from_utf8(body.to_vec()).unwrap();
        self.posts.lock().push((self.start.elapsed(), url.to_owned(), body));
        sleep(self.delay).await;
        let answer = {
            let mut answers = self.answers.lock();
            if answers.len() > 1 { answers.remove(0) } else { answers[0] }
        };
        if answer == 0 { pending().await } else { Ok(answer) }
    }
}

#[derive(Default)]
struct Records(Mutex<Vec<AuditEvent>>, Mutex<Vec<Event>>);

impl AuditSink for Records {
    fn record(&self, event: AuditEvent) -> Result<()> {
        self.0.lock().push(event);
        Ok(())
    }
}

impl Observer for Records {
    fn event(&self, event: &Event) {
        self.1.lock().push(*event);
    }
}

fn set_up(delay: u64, answers: &[u16]) -> (Notifier, Arc<Application>, Arc<Records>) {
    let application = Arc::new(Application {
        start: Instant::now(),
        delay: Duration::from_millis(delay),
        answers: Mutex::new(answers.to_vec()),
        posts: Mutex::default(),
    });
    let records = Arc::new(Records::default());
    let notifier =
        Notifier::new(application.clone(), records.clone(), records.clone(), Arc::new(SystemClock));
    (notifier, application, records)
}

fn http(url: &str, retries: u32) -> Notify {
    target(NotifyAction::Http { url: url.into() }, retries)
}

fn target(action: NotifyAction, retries: u32) -> Notify {
    Notify { action, debounce: Duration::from_millis(250), timeout: Duration::from_secs(5), retries }
}

const URL: &str = "http://127.0.0.1:8000/-/reload";
const LONG: Duration = Duration::from_secs(600);

fn millis(posts: &[(Duration, String, String)]) -> Vec<u128> {
    posts.iter().map(|(at, ..)| at.as_millis()).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_within_the_debounce_time_are_told_once_with_all_their_names() {
    let (notifier, application, records) = set_up(0, &[204]);
    notifier.changed(&http(URL, 0), ["b"]);
    sleep(Duration::from_millis(100)).await;
    notifier.changed(&http(URL, 0), ["a", "b"]);
    notifier.changed(&http("http://127.0.0.1:9/other", 0), ["b"]);
    notifier.drain(LONG).await;
    let posts = application.posts.lock();
    assert_eq!(millis(&posts), [250, 350], "one POST for each target");
    assert_eq!((posts[0].1.as_str(), posts[0].2.as_str()), (URL, r#"{"event":"changed","names":["a","b"]}"#));
    assert_eq!(records.0.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn changes_while_the_application_is_being_told_are_told_afterwards() {
    let (notifier, application, _) = set_up(1000, &[200]);
    notifier.changed(&http(URL, 0), ["a"]);
    sleep(Duration::from_millis(500)).await;
    notifier.changed(&http(URL, 0), ["b"]);
    notifier.changed(&http(URL, 0), ["c"]);
    notifier.drain(LONG).await;
    let posts = application.posts.lock();
    assert_eq!(millis(&posts), [250, 250 + 1000 + 250]);
    assert_eq!(posts[1].2, r#"{"event":"changed","names":["b","c"]}"#);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_with_growing_waits_and_every_try_is_audited() {
    let (notifier, application, records) = set_up(0, &[500, 503, 200]);
    notifier.changed(&http(&format!("{URL}?token=x"), 3), ["a"]);
    notifier.drain(LONG).await;
    assert_eq!(millis(&application.posts.lock()), [250, 750, 1750]);
    let records = records.0.lock();
    let outcomes: Vec<_> = records.iter().map(|event| event.error).collect();
    assert_eq!(outcomes, [Some(Code::NotifyFailed), Some(Code::NotifyFailed), None]);
    assert_eq!(records[0].action, Action::Notify);
    assert_eq!(records[0].object, format!("POST {URL}: a"), "the query may hold a credential");
}

#[tokio::test(start_paused = true)]
async fn an_application_that_never_answers_costs_its_time_out_for_each_try_and_is_given_up() {
    let (notifier, application, records) = set_up(0, &[0]);
    notifier.changed(&http(URL, 1), ["a"]);
    notifier.drain(LONG).await;
    assert_eq!(millis(&application.posts.lock()), [250, 250 + 5000 + 500]);
    let events = records.1.lock();
    assert!(
        events
            .iter()
            .all(|event| { *event == Event::Notified { kind: "http", error: Some(Code::NotifyFailed) } })
    );
    assert_eq!(events.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn draining_gives_up_what_outlasts_its_limit() {
    let (notifier, application, _) = set_up(0, &[0]);
    notifier.changed(&Notify { timeout: LONG, ..http(URL, 10) }, ["a"]);
    notifier.drain(Duration::from_secs(2)).await;
    assert_eq!(application.start.elapsed(), Duration::from_secs(2));
    notifier.changed(&http(URL, 0), ["late"]);
    assert_eq!(application.posts.lock().len(), 1);
}

async fn run(script: &str, timeout: u64) -> std::result::Result<(), Failed> {
    let command: Vec<String> = ["sh", "-c", script].map(str::to_owned).into();
    tokio::time::timeout(Duration::from_millis(timeout), exec::run(&command))
        .await
        .unwrap_or_else(|_| Err(Failed::again(failed("time-out"))))
}

#[tokio::test]
async fn a_command_gets_a_path_and_nothing_else_of_our_environment() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("environment");
    run(&format!("env > {}", file.display()), 60_000).await.ok().unwrap();
    let environment = std::fs::read_to_string(file).unwrap();
    assert!(environment.lines().any(|line| line.starts_with("PATH=")));
    assert!(!environment.contains("CARGO") && !environment.contains("HOME="), "{environment}");
}

#[tokio::test]
async fn a_command_that_fails_or_does_not_exist_says_so() {
    assert!(run("exit 3", 60_000).await.err().unwrap().error.message().contains("exit status: 3"));
    let missing = exec::run(&["/no/such/program".to_owned()]).await.err().unwrap();
    assert!(missing.error.message().contains("the image must hold the command"));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 300 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let command: Vec<String> = ["sh", "-c", &script].map(str::to_owned).into();
    let mut running = Box::pin(exec::run(&command));
    while !file.exists() {
        let waited = tokio::time::timeout(Duration::from_millis(20), &mut running).await;
        assert!(waited.is_err(), "it ended by itself");
    }
    drop(running);
    let grandchild = std::fs::read_to_string(file).unwrap();
    let stat = format!("/proc/{}/stat", grandchild.trim());
    // Gone, or a zombie where nothing reaps orphans.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_signal_goes_through_the_notifier_to_nobody_and_is_audited_as_failed() {
    let (notifier, _, records) = set_up(0, &[200]);
    let action = NotifyAction::Signal { signal: "HUP", process: format!("kw-none-{}", std::process::id()) };
    notifier.changed(&Notify { debounce: Duration::ZERO, ..target(action, 0) }, ["a"]);
    notifier.drain(LONG).await;
    assert_eq!(records.0.lock()[0].error, Some(Code::NotifyFailed));
    assert!(records.0.lock()[0].object.starts_with("signal HUP to kw-none-"));
}
