use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: Format, directives: &str, act: impl FnOnce()) -> String {
    let captured = Captured::default();
    let out = captured.clone();
    let layer = lines(format, filter(directives).unwrap(), move || out.clone());
    tracing::subscriber::with_default(Registry::default().with(layer), act);
    let bytes = captured.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_token_in_a_message_a_field_or_a_span_is_masked_in_both_formats() {
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl";
    for format in [Format::Json, Format::Text] {
        let text = logged(format, "trace", || {
            let span = tracing::info_span!("outer", token = TOKEN);
            let _entered = span.enter();
            tracing::info!(field = TOKEN, "sent Authorization: Bearer {TOKEN}");
            tracing::warn!("client_secret=canary-canary&x=1");
        });
        assert!(text.contains("[masked]") && text.lines().count() == 2, "{text}");
        assert!(!text.contains("c2lnbmF0") && !text.contains("eyJ") && !text.contains("canary"), "{text}");
    }
}

#[test]
fn masked_json_is_still_json() {
    let text =
        logged(Format::Json, "info", || tracing::info!(token = "eyJaaaaaaaa.bbb.ccc", "Bearer abcdefghij"));
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["message"], "Bearer [masked]");
    assert_eq!(line["token"], "[masked]");
}

#[test]
fn dependencies_stay_quiet_unless_the_user_names_them() {
    let talk = || {
        tracing::debug!(target: "hyper::proto", "chatter");
        tracing::debug!(target: "keyward_broker", "ours");
        tracing::warn!(target: "hyper::proto", "trouble");
    };
    let text = logged(Format::Text, "trace", talk);
    assert!(text.contains("ours") && text.contains("trouble") && !text.contains("chatter"), "{text}");
    let text = logged(Format::Text, "error,hyper=debug", talk);
    assert!(!text.contains("ours") && text.contains("chatter"), "{text}");
    let text = logged(Format::Text, "error", talk);
    assert!(!text.contains("trouble"), "{text}");
}

#[test]
fn spans_for_export_are_no_part_of_the_logs() {
    let text = logged(Format::Json, "trace", || {
        let span = tracing::info_span!(target: TARGET, "rpc", keyward.object = "db-password");
        let _entered = span.enter();
        tracing::info!("inside");
    });
    assert!(text.contains("inside") && !text.contains("db-password"), "{text}");
}

#[test]
fn a_level_that_is_none_is_refused_with_an_example() {
    let error = check("info,keyward=loud").unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    assert!(error.to_string().contains("keyward_broker=debug"));
    assert!(check("info").is_ok());
}

#[test]
fn a_panic_shows_its_place_and_only_a_literal_message() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let ours = info.location().is_some_and(|at| at.file().ends_with("logs/tests.rs"));
        if ours {
            sink.lock().unwrap().push(describe_panic(info));
        }
    }));
    let value = String::from("canary");
    let _ = std::panic::catch_unwind(|| panic!("the value is {value}"));
    let _ = std::panic::catch_unwind(|| panic!("a literal"));
    std::panic::set_hook(previous);
    let lines = lines.lock().unwrap();
    assert!(
        lines.iter().all(|line| line.contains("logs/tests.rs:") && !line.contains("canary")),
        "{lines:?}"
    );
    assert!(lines.iter().any(|line| line.contains("a literal")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("is not shown")), "{lines:?}");
}

#[test]
fn what_is_below_the_level_is_switched_off_for_good_and_not_asked_about_at_each_call() {
    use tracing::Subscriber;
    for (directives, hint) in [("warn", LevelFilter::WARN), ("info,keyward_broker=debug", LevelFilter::DEBUG)]
    {
        let layer = lines(Format::Json, filter(directives).unwrap(), Captured::default);
        assert_eq!(Registry::default().with(layer).max_level_hint(), Some(hint), "{directives}");
    }
}
