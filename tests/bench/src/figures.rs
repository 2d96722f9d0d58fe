//! The figures, each with what it should reach.

mod cost;
mod crowd;
mod memory;
mod publish;
mod speed;
mod upkeep;

use std::path::Path;

use crate::Outcome;

/// One row of the table.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) target: &'static str,
    pub(crate) measured: String,
    pub(crate) reached: bool,
}

/// What a figure needs to know.
pub(crate) struct Bench<'a> {
    pub(crate) sidecar: &'a Path,
    pub(crate) driver: &'a Path,
    pub(crate) quick: bool,
}

impl Bench<'_> {
    /// A number of samples, fewer when in a hurry.
    pub(crate) fn samples(&self, full: usize) -> usize {
        if self.quick { (full / 4).max(3) } else { full }
    }
}

/// Measures everything whose name contains `only` and prints a Markdown table.
pub(crate) async fn all(sidecar: &Path, driver: &Path, quick: bool, only: Option<&str>) -> Outcome<()> {
    let bench = Bench { sidecar, driver, quick };
    say("| What | To reach | Measured | |");
    say("| --- | --- | --- | --- |");
    macro_rules! figure {
        ($($name:literal => $measure:expr;)+) => {
            $(if only.is_none_or(|only| $name.contains(only)) {
                for row in $measure.await? {
                    let mark = if row.reached { "reached" } else { "**missed**" };
                    say(&format!("| {} | {} | {} | {mark} |", row.what, row.target, row.measured));
                }
            })+
        };
    }
    figure! {
        "lookup" => speed::one_caller(&bench);
        "throughput" => speed::many_callers(&bench);
        "first-reads" => cost::first_reads(&bench);
        "exec" => speed::exec_to_first(&bench);
        "start" => speed::start_to_ready(&bench);
        "rotation" => cost::rotation_check(&bench);
        "memory" => memory::resident(&bench);
        "huge" => memory::huge_response(&bench);
        "size" => memory::size(&bench);
        "swap" => speed::swap(&bench);
        "idle" => cost::idle(&bench);
        "node-publish" => publish::warm(&bench);
        "node-cold" => publish::cold(&bench);
        "node-crowd" => crowd::at_once(&bench);
        "node-limited" => crowd::limited(&bench);
        "node-hostile" => crowd::beside_a_hostile_volume(&bench);
        "node-republish" => upkeep::republish(&bench);
        "node-gets" => upkeep::requests(&bench);
        "node-memory" => upkeep::resident(&bench);
        "node-registration" => upkeep::registration(&bench);
        "node-size" => upkeep::size(&bench);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is this program's output")]
fn say(line: &str) {
    println!("{line}");
}
