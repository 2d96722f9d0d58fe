//! `keyward-injector`: the admission webhook for annotated pods.

use std::process::ExitCode;

/// The allocator of all our binaries; see docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyward_injector::main(std::env::args_os())
}
