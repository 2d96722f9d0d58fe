//! Logs: `tracing` to standard error, as JSON lines or text.
//!
//! Values and tokens are of a type that cannot be logged; that is the defence. Masking what still looks like a
//! credential is a second one, for what a dependency might say.

mod mask;
mod panics;

use std::io::{self, Write};

use keyward_core::trace::TARGET;
use keyward_core::{Code, Error, Result};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::traces::TraceLayer;

pub use mask::mask;
pub use panics::{describe as describe_panic, install_hook as install_panic_hook};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a person at a terminal.
    Text,
}

/// Crates that say much below `warn` and nothing that a user needs; a directive of the user's own overrides it.
const QUIET: &[&str] = &[
    "azure_core",
    "azure_identity",
    "h2",
    "hyper",
    "hyper_util",
    "notify",
    "rustls",
    "tonic",
    "tower",
    "typespec_client_core",
];

/// Installs the process's subscriber. `directives` is a level, or a comma-separated list of `target=level` such as
/// `info,keyward_broker=debug`.
///
/// # Errors
/// `KW_CONFIG_INVALID` when `directives` cannot be read; `KW_INTERNAL` when a subscriber is installed already.
pub fn init(format: Format, directives: &str, traces: Option<TraceLayer>) -> Result<()> {
    let layer = lines(format, filter(directives)?, io::stderr);
    let traces =
        traces.map(|layer| layer.with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE)));
    Registry::default()
        .with(layer)
        .with(traces)
        .try_init()
        .map_err(|_| Error::new(Code::Internal, "logging is set up twice"))
}

/// Checks `directives` without installing anything.
///
/// # Errors
/// As [`init`].
pub fn check(directives: &str) -> Result<()> {
    filter(directives).map(drop)
}

fn filter(directives: &str) -> Result<Targets> {
    let chosen: Targets = directives.trim().parse().map_err(|_| {
        Error::new(
            Code::ConfigInvalid,
            "the log level is neither a level (error, warn, info, debug, trace) nor a list such as \
             `info,keyward_broker=debug`",
        )
    })?;
    let named: Vec<String> = chosen.iter().map(|(target, _)| target.to_owned()).collect();
    let limit = chosen.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::WARN);
    let quiet = QUIET
        .iter()
        .filter(|target| !named.iter().any(|name| name.split("::").next() == Some(**target)))
        .map(|target| (*target, limit));
    // Spans for export stay out of the lines.
    Ok(chosen.with_targets(quiet).with_target(TARGET, LevelFilter::OFF))
}

/// The layer that writes lines. Its filter must be [`Targets`] and nothing more: a filter that is a function is asked
/// anew at each of the hundred places where h2 and hyper could trace a call, which makes a lookup three times as slow.
fn lines<S, W>(format: Format, filter: Targets, out: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Masking(out));
    match format {
        Format::Json => layer.json().flatten_event(true).with_span_list(false).with_filter(filter).boxed(),
        Format::Text => layer.with_filter(filter).boxed(),
    }
}

/// Masks each line before it is written; the formatter hands over whole lines.
struct Masking<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for Masking<W> {
    type Writer = Masking<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Masking(self.0.make_writer())
    }
}

impl<W: Write> Write for Masking<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(&mask(line)).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests;
