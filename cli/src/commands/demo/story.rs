use std::fmt::Display;
use std::time::Duration;

use keyward_core::{Error, Result};
use tokio::time::Instant;

/// Prints steps with their timings as they happen, and a summary at the end.
pub(super) struct Story {
    color: bool,
    done: Vec<(String, Duration, bool)>,
}

impl Story {
    pub(super) fn new(color: bool) -> Self {
        Self { color, done: Vec::new() }
    }

    /// A line of the story.
    #[expect(clippy::print_stdout, reason = "the demo talks to the person who started it")]
    pub(super) fn say(&self, text: impl Display) {
        println!("{text}");
    }

    /// A detail below the current step.
    pub(super) fn note(&self, text: impl Display) {
        self.say(format_args!("      {text}"));
    }

    /// Runs one step and says how it went; `work` gives the sentence that describes the result.
    pub(super) async fn step<T>(
        &mut self,
        title: &str,
        work: impl Future<Output = Result<(String, T)>>,
    ) -> Result<T> {
        self.say("");
        self.say(self.paint("1", &format!("{:>2}. {title}", self.done.len() + 1)));
        let start = Instant::now();
        let result = work.await;
        let elapsed = start.elapsed();
        self.done.push((title.to_owned(), elapsed, result.is_ok()));
        let (sentence, value) = result?;
        self.say(format_args!(
            "    {} {sentence} {}",
            self.paint("32", "ok"),
            self.paint("2", &show(elapsed))
        ));
        Ok(value)
    }

    /// The story ends early.
    pub(super) fn fail(&mut self, error: &Error) {
        self.say(format_args!("    {} {error}", self.paint("31", "failed")));
        if self.done.iter().all(|(_, _, ok)| *ok) {
            self.done.push(("between the steps".to_owned(), Duration::ZERO, false));
        }
    }

    /// One line for each step.
    pub(super) fn summary(&self) {
        self.say("");
        self.say(self.paint("1", "Summary"));
        for (title, elapsed, ok) in &self.done {
            let mark = if *ok { self.paint("32", "ok    ") } else { self.paint("31", "failed") };
            self.say(format_args!("  {mark} {title:<52} {:>10}", show(*elapsed)));
        }
    }

    /// How many steps failed.
    pub(super) fn failures(&self) -> usize {
        self.done.iter().filter(|(_, _, ok)| !ok).count()
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Milliseconds with one digit, or seconds with two.
pub(super) fn show(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 1000.0 { format!("{millis:.1} ms") } else { format!("{:.2} s", millis / 1000.0) }
}
