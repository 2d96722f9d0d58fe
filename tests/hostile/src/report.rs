//! What came of it: one row for each attacker and build, and what did not hold.

use std::time::Duration;

use crate::Size;
use crate::samples::{Figure, Samples};

/// Fewest samples of a figure before it is held against its bound.
const ENOUGH: usize = 300;
/// What one volume that is refused may cost at its peak, beyond what there was before, in bytes.
const REFUSED: u64 = 64 << 20;

/// One attacker against one build.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    pub(crate) peace: Samples,
    pub(crate) war: Samples,
    /// Bytes before the attacker began.
    pub(crate) calm: u64,
    /// Most bytes at a time.
    pub(crate) peak: u64,
    pub(crate) limit: u64,
    /// Whether the attacker has one volume only, which is refused.
    pub(crate) one_refused: bool,
    /// Processes that the kernel killed for want of memory.
    pub(crate) kills: u64,
    /// Whether the program still ran at the end.
    pub(crate) alive: bool,
    /// Calls of victims that failed, and the like.
    pub(crate) failed: Vec<String>,
    /// Records that the audit log lost.
    pub(crate) lost: u64,
    /// Deliveries to victims that the audit log does not tell of.
    pub(crate) undelivered: usize,
    /// Why the audit log does not verify.
    pub(crate) broken: Option<String>,
    pub(crate) records: u64,
    /// Whether the attacker came as far as to attack: one that is refused before hurts nobody.
    pub(crate) prepared: bool,
    /// What the attacker did, by its own count.
    pub(crate) tries: u64,
    /// What it was last told, when that was no.
    pub(crate) answer: Option<String>,
    /// Why the attacker gave up.
    pub(crate) refused: Option<String>,
    /// The end of the log of a program that has ended.
    pub(crate) last_words: Option<String>,
}

impl Trial {
    /// What did not hold, whatever the form.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.alive {
            all.push("the process ended".to_owned());
        }
        if self.kills > 0 {
            all.push(format!("killed for want of memory ({}×)", self.kills));
        }
        if self.peak > self.limit {
            all.push(format!("{} MiB of {}", mebibytes(self.peak), mebibytes(self.limit)));
        }
        if !self.failed.is_empty() {
            all.push(format!("{} of victims' calls failed", self.failed.len()));
        }
        if self.lost > 0 {
            all.push(format!("{} audit records lost", self.lost));
        }
        if self.undelivered > 0 && self.alive {
            all.push(format!("{} deliveries without a record", self.undelivered));
        }
        if self.broken.is_some() && self.alive {
            all.push("the audit log does not verify".to_owned());
        }
        all
    }

    /// What one volume that is refused cost beyond its bound.
    pub(crate) fn dear(&self) -> Option<String> {
        let cost = self.peak.saturating_sub(self.calm);
        (self.one_refused && cost > REFUSED)
            .then(|| format!("the refused volume cost {} MiB of {}", mebibytes(cost), mebibytes(REFUSED)))
    }

    /// The figures that rose too far.
    pub(crate) fn slow(&self, figures: &[Figure]) -> Vec<String> {
        let slow = |figure: &&Figure| self.rose(**figure) == Some(true);
        figures.iter().filter(slow).map(|figure| format!("{} rose", figure.title())).collect()
    }

    /// Figures with too few samples to tell.
    pub(crate) fn thin(&self, figures: &[Figure]) -> Vec<String> {
        let thin = |figure: &&Figure| self.peace.count(**figure).min(self.war.count(**figure)) < ENOUGH;
        let say = |figure: &Figure| {
            let (peace, war) = (self.peace.count(*figure), self.war.count(*figure));
            format!("{}: only {peace} and {war} samples", figure.title())
        };
        figures.iter().filter(thin).map(say).collect()
    }

    /// Whether a figure is more than 1.2 times what it is in peace, and by more than its slack; `None` without samples.
    fn rose(&self, figure: Figure) -> Option<bool> {
        let (peace, war) = (self.peace.value(figure)?, self.war.value(figure)?);
        Some(war > peace.mul_f64(1.2).max(peace + figure.slack()))
    }

    fn cell(&self, figure: Figure) -> String {
        let show = |value: Option<Duration>| value.map_or("–".to_owned(), millis);
        let text = format!("{} → {}", show(self.peace.value(figure)), show(self.war.value(figure)));
        if self.rose(figure) == Some(true) { format!("**{text}**") } else { text }
    }
}

fn millis(value: Duration) -> String {
    let value = value.as_secs_f64() * 1e3;
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// The head of a table.
pub(crate) fn head(figures: &[Figure]) {
    let titles: Vec<_> = figures.iter().map(|figure| figure.title()).collect();
    say(&format!("| Attacker | Build | {} | memory, MiB | What gave way |", titles.join(" | ")));
    say(&format!("| --- | --- |{} --- | --- |", " --- |".repeat(figures.len())));
}

/// One row; what did not hold is said below it on standard error.
pub(crate) fn row(name: &str, build: &str, figures: &[Figure], trial: &Trial, size: Size) {
    let cells: Vec<_> = figures.iter().map(|figure| trial.cell(*figure)).collect();
    let mut gave_way = trial.broken();
    gave_way.extend(trial.dear());
    if size == Size::Long && trial.alive {
        gave_way.extend(trial.slow(figures));
    }
    if gave_way.is_empty() {
        let nothing = match (trial.prepared, trial.tries) {
            (false, _) => "– (refused before it began)",
            (true, 0) => "– (no try came to an end)",
            (true, _) => "–",
        };
        gave_way.push(nothing.to_owned());
    }
    let gave_way = gave_way.join("; ");
    say(&format!(
        "| `{name}` | {build} | {} | {} → {} of {} | {gave_way} |",
        cells.join(" | "),
        mebibytes(trial.calm),
        mebibytes(trial.peak),
        mebibytes(trial.limit),
    ));
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    trial.failed.iter().for_each(|failure| *seen.entry(failure).or_default() += 1);
    for (failure, count) in seen.iter().take(6) {
        note(&format!("    {name}, {build}: {count}× {failure}"));
    }
    for (what, text) in [
        ("the audit log", &trial.broken),
        ("the attacker was told last", &trial.answer),
        ("the attacker gave up", &trial.refused),
        ("its last words", &trial.last_words),
    ] {
        if let Some(text) = text {
            note(&format!("    {name}, {build}: {what}: {text}"));
        }
    }
    note(&format!("    {name}, {build}: {} tries, {} audit records", trial.tries, trial.records));
}

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "the suite's own voice")]
pub(crate) fn note(line: &str) {
    eprintln!("{line}");
}
