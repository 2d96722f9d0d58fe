//! Scenarios on a real Kubernetes; `tests/kubernetes/run` boots it and starts this program.

fn main() {}
