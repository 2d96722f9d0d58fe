//! `keyward doctor`: walks the way of a secret hop by hop, and names the first one that fails and the fix.

mod report;
mod walk;

use std::path::PathBuf;

use clap::Args;
use keyward_core::{Code, Error, Result, config};

use report::Report;

/// Options of `keyward doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The sidecar's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Walks identity → token → DNS and TLS → permission per object → file system. Nothing is mounted, written or delivered.
///
/// # Errors
/// The first hop that failed.
pub(crate) async fn run(args: &DoctorArgs) -> Result<()> {
    let mut report = Report::default();
    let document = std::fs::read(&args.config).map_err(|error| {
        Error::new(Code::ConfigInvalid, format!("{} cannot be read: {error}", args.config.display()))
    })?;
    match config::parse(&document) {
        Ok(config) => {
            report.good("configuration", format!("{} objects", config.objects.len()));
            walk::walk(&config, &mut report).await;
        }
        Err(error) => report.bad("configuration", &error),
    }
    report.finish()
}
