use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;

/// Asks until there is an answer; says what was last in the way when `seconds` are over.
pub(crate) fn until<T>(seconds: u64, what: &str, mut ask: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(why) if Instant::now() >= end => {
                return Err(format!("after {seconds} s still not {what}: {why}"));
            }
            // The API server answers in milliseconds: this keeps two cores free for what is waited for.
            Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}

/// Whether something holds at every look for so long.
pub(crate) fn throughout(seconds: u64, mut look: impl FnMut() -> Outcome) -> Outcome {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        look()?;
        sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// An error unless it holds.
pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(why()) }
}
