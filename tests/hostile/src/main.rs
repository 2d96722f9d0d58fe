//! `tests/hostile/run`: attackers beside peaceful pods, one at a time, against the shipped node plugin and injector. What
//! victims get in peace and under attack is measured in the same run, in turns.

mod attacks;
mod cores;
mod group;
mod injector;
mod node;
mod program;
mod report;
mod samples;
mod turns;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::report::{Trial, note, say};
use crate::samples::Figure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Attacks the node plugin and the injector, and prints what their victims feel")]
struct Options {
    /// Where the shipped binaries are
    #[arg(long, value_name = "DIR")]
    build: PathBuf,
    /// Binaries of an earlier build, which each attacker tries too
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// At least 300 samples a figure; latency is required too
    #[arg(long)]
    long: bool,
    /// Only attackers with this in their names
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Name the attackers and end
    #[arg(long)]
    list: bool,
    /// The machine has other work: attackers take their share of the core instead of what is left
    #[arg(long)]
    shared: bool,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Short,
    Long,
}

/// Not run: what an exit code of 77 says to whoever started it.
const NOT_RUN: u8 = 77;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        attacks::NODE.iter().for_each(|one| say(&format!("{}: {}", one.name, one.what)));
        attacks::INJECTOR.iter().for_each(|one| say(&format!("{} (injector): {}", one.name, one.what)));
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        note("the hostile suite: NOT RUN, a node plugin needs root");
        return ExitCode::from(NOT_RUN);
    }
    cores::contend(options.shared);
    let result = cores::bind(cores::OTHERS).and_then(|()| {
        // Attackers hold thousands of connections.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let mut end = signal(SignalKind::terminate())?;
            // What was mounted and made is taken away again.
            tokio::select! {
                result = all(&options) => result,
                _ = end.recv() => Err("told to end".into()),
                _ = tokio::signal::ctrl_c() => Err("told to end".into()),
            }
        })
    });
    match result {
        Ok(Some(0)) => ExitCode::SUCCESS,
        Ok(Some(count)) => {
            note(&format!("{count} attackers did harm or could not be tried"));
            ExitCode::FAILURE
        }
        Ok(None) => {
            note("the hostile suite: NOT RUN, mounting is not permitted here");
            ExitCode::from(NOT_RUN)
        }
        Err(error) => {
            note(&format!("keyward-hostile: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs every attacker that was asked for. How many of them did harm to the present build, or nothing without the right
/// to mount.
async fn all(options: &Options) -> Outcome<Option<usize>> {
    let size = if options.long { Size::Long } else { Size::Short };
    let is_meant = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let builds: Vec<(&str, &Path)> = [("before", options.before.as_deref()), ("now", Some(&options.build))]
        .into_iter()
        .filter_map(|(name, path)| Some((name, path?)))
        .collect();
    if let Some(caveat) = group::Group::with_limit(64 << 20).caveat() {
        note(caveat);
    }
    let mut harmful = 0;
    let mut harm = |name: &str, build: &str, figures: &[Figure], trial: &Trial| {
        report::row(name, build, figures, trial, size);
        let mut why = trial.broken();
        if size == Size::Long {
            why.extend(trial.dear());
            why.extend(trial.slow(figures));
            why.extend(trial.thin(figures));
        }
        harmful += usize::from(build == "now" && !why.is_empty());
    };
    // Trials that could not be held: the others are held all the same.
    let mut failed = Vec::new();
    let node: Vec<_> = attacks::NODE.iter().filter(|one| is_meant(one.name)).collect();
    if !node.is_empty() {
        report::head(&Figure::NODE);
    }
    for attack in node {
        for (build, path) in &builds {
            let trial = node::run(&path.join("keyward-csi-driver"), attack, size).await;
            match trial {
                Ok(Some(trial)) => harm(attack.name, build, &Figure::NODE, &trial),
                Ok(None) => return Ok(None),
                Err(error) => failed.push(format!("{}, {build}: {error}", attack.name)),
            }
        }
    }
    let injector: Vec<_> = attacks::INJECTOR.iter().filter(|one| is_meant(one.name)).collect();
    if !injector.is_empty() {
        say("");
        report::head(&Figure::INJECTOR);
    }
    for attack in injector {
        for (build, path) in &builds {
            let trial = injector::run(&path.join("keyward-injector"), attack, size).await;
            match trial {
                Ok(trial) => harm(attack.name, build, &Figure::INJECTOR, &trial),
                Err(error) => failed.push(format!("{}, {build}: {error}", attack.name)),
            }
        }
    }
    failed.iter().for_each(|failure| note(&format!("not tried: {failure}")));
    Ok(Some(harmful + failed.len()))
}

/// Whatever goes wrong with the suite itself ends it with a sentence.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
