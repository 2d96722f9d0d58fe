//! `tests/bench/run`: one command, one table. Ratios within one run where they can be; the shipped binary with all
//! features and audit on. Nothing here asserts a time: a bad figure is printed as it is.

mod cgroup;
mod cores;
mod figures;
mod load;
mod node;
mod peers;
mod process;
mod rig;
mod samples;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Measures the sidecar and the node plugin, and prints a table")]
struct Options {
    /// The shipped sidecar
    #[arg(long, default_value = "keyward-sidecar")]
    sidecar: PathBuf,
    /// The shipped node plugin
    #[arg(long, default_value = "keyward-csi-driver")]
    driver: PathBuf,
    /// Fewer samples
    #[arg(long)]
    quick: bool,
    /// Only figures whose name contains this
    #[arg(long)]
    only: Option<String>,
    #[command(subcommand)]
    peer: Option<Peer>,
}

#[derive(Subcommand)]
enum Peer {
    /// A raw length-prefixed ping-pong server
    #[command(hide = true)]
    Raw { socket: PathBuf },
    /// A bare tonic echo server
    #[command(hide = true)]
    Echo { socket: PathBuf },
}

#[expect(clippy::print_stderr, reason = "the benchmark's own voice")]
fn main() -> ExitCode {
    let options = Options::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let result = runtime.block_on(async {
        match options.peer {
            Some(Peer::Raw { socket }) => peers::raw(&socket).await,
            Some(Peer::Echo { socket }) => peers::echo(&socket).await,
            None => {
                figures::all(&options.sidecar, &options.driver, options.quick, options.only.as_deref()).await
            }
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyward-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever goes wrong ends the benchmark with a sentence.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
