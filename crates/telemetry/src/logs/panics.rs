//! What is said about a panic: where, and its text only when the text was written into the program.

use std::io::{self, Write};
use std::panic::PanicHookInfo;

/// Replaces the panic hook. A formatted message may hold anything, so only literal ones are shown.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        // Not through `tracing`: the panic may have come from there, with its locks held.
        let _ = writeln!(io::stderr(), "{}", describe(info));
    }));
}

/// The line for a panic, as JSON.
#[must_use]
pub fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload().downcast_ref::<&'static str>().copied();
    let location = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
    serde_json::json!({
        "level": "ERROR",
        "target": "keyward::panic",
        "message": message.unwrap_or("a defect ended the process; its message is not shown, for it may hold a value"),
        "location": location.unwrap_or_else(|| "unknown".to_owned()),
    })
    .to_string()
}
