//! What the crash test kills: `keyward-crash-victim SCENARIO PATH` walks through one scenario. Exit code 0 says that it
//! was done, 1 that an error was reported.

mod scenario;

use std::path::Path;
use std::process::ExitCode;

use rustix::fs::Mode;

use scenario::Scenario;

fn main() -> ExitCode {
    // The strictest umask in use: modes must come out as asked all the same.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let mut arguments = std::env::args().skip(1);
    let (word, path) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    match Scenario::ALL.into_iter().find(|scenario| scenario.word() == word) {
        Some(scenario) if scenario.run(Path::new(&path)).is_ok() => ExitCode::SUCCESS,
        Some(_) => ExitCode::from(1),
        None => ExitCode::from(64),
    }
}
