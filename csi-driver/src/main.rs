//! `keyward-csi-driver`: the node plugin, secrets as CSI volumes.

use std::process::ExitCode;

/// musl's own allocator is slow under several threads and never gives memory back; see docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyward_csi_driver::main(std::env::args_os())
}
