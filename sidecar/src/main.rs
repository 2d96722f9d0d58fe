//! `keyward-sidecar`: one pod's secrets as files and local gRPC.

use std::process::ExitCode;

/// musl's own allocator halves the throughput of the local API; see docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyward_sidecar::main(std::env::args_os())
}
