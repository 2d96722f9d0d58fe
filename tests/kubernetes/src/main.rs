//! Scenarios on a real Kubernetes: an API server, kubelet and containerd that no one here wrote. `tests/kubernetes/run`
//! boots them, installs the chart, and starts this program, which plays the Azure that the pods talk to.

#![expect(clippy::print_stdout, reason = "a program that reports to a person")]
#![expect(clippy::disallowed_methods, reason = "a real cluster runs by the real clock")]

mod azure;
mod cluster;
mod hold;
mod manifest;
mod scenarios;
mod wait;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde_json::Value;

use azure::Azure;
use cluster::Cluster;

/// What went wrong, in words.
type Outcome<T = ()> = Result<T, String>;

/// Runs scenarios on the cluster that the environment names.
#[derive(Parser)]
struct Flags {
    /// Only scenarios whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Say which there are.
    #[arg(long)]
    list: bool,
    /// What takes minutes, and more repetitions of what is measured.
    #[arg(long)]
    long: bool,
    /// In place of scenarios: a namespace to try things in, until the program is ended.
    #[arg(long)]
    hold: bool,
}

/// What every scenario works with.
struct World {
    cluster: Cluster,
    azure: Azure,
    /// A cloud that speaks HTTP/1.1 only.
    old_azure: Azure,
    /// Whether scenarios may take minutes.
    long: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let long = if flags.long { scenarios::LONG } else { &[] };
    let chosen: Vec<_> = long
        .iter()
        .chain(scenarios::ALL)
        .filter(|(name, _)| flags.only.as_ref().is_none_or(|part| name.contains(part.as_str())))
        .collect();
    if flags.list {
        for (name, _) in chosen {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let world = match World::prepare(flags.long) {
        Ok(world) => world,
        Err(why) => {
            println!("FAILED  preparation: {why}");
            return ExitCode::FAILURE;
        }
    };
    if flags.hold {
        return hold::hold(&world);
    }
    let mut failed = Vec::new();
    for (name, scenario) in &chosen {
        let start = Instant::now();
        let outcome = scenario(&world);
        // What one scenario broke must not speak against the next.
        world.azure.heal();
        world.old_azure.heal();
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("ok      {seconds:6.1} s  {name}"),
            Err(why) => {
                println!("FAILED  {seconds:6.1} s  {name}: {why}");
                failed.push(*name);
                if let Err(why) = world.cluster.clear() {
                    println!("        what it left cannot be taken away: {why}");
                }
            }
        }
    }
    println!("{} of {} scenarios passed", chosen.len() - failed.len(), chosen.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl World {
    /// Starts the emulated Azure on the node's address, and installs the chart against it.
    fn prepare(long: bool) -> Outcome<Self> {
        let cluster = Cluster::from_environment()?;
        let (azure, old_azure) = (Azure::start(&cluster)?, Azure::start_old(&cluster)?);
        let world = Self { cluster, azure, old_azure, long };
        world.cluster.install("keyward", "keyward-system", &world.values())?;
        Ok(world)
    }

    /// Does something with a driver that looks for new versions only after a minute, so that reads can be counted.
    fn with_rare_checks(&self, work: impl FnOnce() -> Outcome) -> Outcome {
        let mut values = self.values();
        values["driver"]["config"]["rotation"]["interval"] = "60s".into();
        self.cluster.install("keyward", "keyward-system", &values)?;
        let outcome = work();
        self.cluster.install("keyward", "keyward-system", &self.values())?;
        outcome
    }

    /// The chart's values.
    fn values(&self) -> Value {
        Azure::values([&self.azure, &self.old_azure])
    }
}
