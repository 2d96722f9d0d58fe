# Recipes mirror .ci/run; `just` alone lists them.

default:
    @just --list

# Format everything.
fmt:
    cargo fmt --all

# What CI denies.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings

# The README's test command.
test:
    cargo test --workspace

# The README's other command.
demo:
    cargo demo

# Documentation with warnings denied.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Dependencies and licences.
deny:
    cargo deny check bans licenses sources

# Every parser of outside bytes under libFuzzer; needs g++.
fuzz *flags:
    fuzz/run {{flags}}

# The figures of docs/benchmarks.md.
bench:
    tests/bench/run

# Attackers beside peaceful pods; as root.
hostile *flags:
    tests/hostile/run {{flags}}

# What the chart renders.
chart:
    tests/chart/run

# The chart and the image on a real Kubernetes; as root.
kubernetes *flags:
    tests/kubernetes/run {{flags}}

# Everything that CI runs.
ci:
    .ci/run
