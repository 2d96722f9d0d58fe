//! `keyward`: reads secrets through a local API, checks audit logs and configurations, and shows what Keyward does.

// No input from outside may end the process.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod client;
mod commands;
mod failure;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{audit, doctor, get, lint, list, watch};
use failure::Failure;

/// Secrets from a cloud vault to the process that needs them, and nowhere else
///
/// Exit codes: 0 it worked · 1 it failed · 64 the command or a file is wrong · 69 somebody cannot be reached or does
/// not answer · 77 not permitted.
#[derive(Debug, Parser)]
#[command(name = "keyward", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Get(get::GetArgs),
    List(list::ListArgs),
    Watch(watch::WatchArgs),
    Audit(audit::AuditArgs),
    #[command(about = "Walk the way of a secret hop by hop, and name the first one that fails and the fix")]
    Doctor(doctor::DoctorArgs),
    Lint(lint::LintArgs),
    #[cfg(feature = "demo")]
    #[command(about = "Show the main job from end to end, on this machine, in a minute")]
    Demo(commands::demo::DemoArgs),
}

fn main() -> ExitCode {
    // The demo runs the sidecar as a process of its own, out of this same file.
    #[cfg(feature = "demo")]
    if std::env::args_os().nth(1).is_some_and(|first| first == "sidecar") {
        return keyward_sidecar::main(std::env::args_os().skip(1));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { failure::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(run(cli.command))),
        Err(error) => Err(Failure::from(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Get(args) => get::run(&args).await,
        Command::List(args) => list::run(&args).await,
        Command::Watch(args) => watch::run(&args).await,
        Command::Audit(args) => audit::run(&args),
        Command::Doctor(args) => Ok(doctor::run(&args).await?),
        Command::Lint(args) => lint::run(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => Ok(commands::demo::run(&args).await?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
