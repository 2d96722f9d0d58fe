//! Dependency direction, read from `cargo metadata` (docs/architecture.md, "The rooms").

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which of our crates each of our crates may use in what it ships. Nothing else.
const ALLOWED: &[(&str, &[&str])] = &[
    ("memory", &[]),
    ("core", &["memory"]),
    ("proto", &[]),
    ("egress", &["core"]),
    ("identity", &["egress", "core"]),
    ("providers", &["egress", "core"]),
    ("broker", &["core"]),
    ("delivery", &["core"]),
    ("telemetry", &["core"]),
    ("local-api", &["core", "proto", "broker"]),
    ("compat", &["core"]),
    ("kubernetes", &["core", "compat"]),
    ("volume", &["core", "broker", "delivery"]),
    ("mount", &[]),
    (
        "sidecar",
        &[
            "core",
            "memory",
            "egress",
            "identity",
            "providers",
            "broker",
            "delivery",
            "telemetry",
            "local-api",
            "proto",
            "volume",
        ],
    ),
    (
        "csi-driver",
        &[
            "core",
            "memory",
            "mount",
            "egress",
            "identity",
            "providers",
            "broker",
            "delivery",
            "telemetry",
            "local-api",
            "proto",
            "compat",
            "kubernetes",
            "volume",
        ],
    ),
    (
        "cli",
        &[
            "core",
            "egress",
            "identity",
            "providers",
            "broker",
            "delivery",
            "telemetry",
            "local-api",
            "proto",
            "compat",
            "emulator",
            "sidecar",
        ],
    ),
    ("injector", &["core", "memory", "kubernetes", "telemetry"]),
    ("emulator", &[]),
];

/// Rooms that only tests and benchmarks live in; they may use anything, and nothing that ships may use them.
const TEST_ONLY: &[&str] = &["tests", "test-support", "bench", "hostile", "cluster-tests"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata fails");
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn ours(name: &str) -> Option<&str> {
    name.strip_prefix("keyward-")
}

/// Our normal and build dependencies of each of our packages, with whether each is optional.
fn dependencies() -> BTreeMap<String, BTreeSet<(String, bool)>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .filter_map(|package| {
            let name = ours(package["name"].as_str()?)?.to_owned();
            let uses =
                package["dependencies"].as_array()?.iter().filter(|dependency| dependency["kind"] != "dev");
            let uses = uses
                .filter_map(|dependency| {
                    Some((ours(dependency["name"].as_str()?)?.to_owned(), dependency["optional"] == true))
                })
                .collect();
            Some((name, uses))
        })
        .collect()
}

#[test]
fn every_crate_uses_only_the_crates_that_the_house_plan_allows() {
    let dependencies = dependencies();
    for (name, uses) in &dependencies {
        if TEST_ONLY.contains(&name.as_str()) {
            continue;
        }
        let (_, allowed) = ALLOWED.iter().find(|(room, _)| room == name).unwrap_or_else(|| {
            panic!("{name} is not in the house plan; add it to ALLOWED and docs/architecture.md")
        });
        for (used, _) in uses {
            assert!(
                allowed.contains(&used.as_str()),
                "{name} uses {used}, which the house plan does not allow"
            );
        }
    }
    for (room, _) in ALLOWED {
        assert!(dependencies.contains_key(*room), "the house plan names {room}, which does not exist");
    }
}

#[test]
fn only_the_demo_feature_of_the_command_line_brings_in_emulator_and_sidecar() {
    for (used, optional) in &dependencies()["cli"] {
        if ["emulator", "sidecar"].contains(&used.as_str()) {
            assert!(optional, "cli uses {used} without being asked to");
        }
    }
}

#[test]
fn the_core_knows_no_runtime_no_network_and_no_kubernetes() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let core = packages.iter().find(|package| package["name"] == "keyward-core").expect("core");
    for dependency in core["dependencies"].as_array().expect("dependencies") {
        let name = dependency["name"].as_str().expect("name");
        for banned in ["tokio", "hyper", "tonic", "kube", "rustls", "reqwest"] {
            assert!(dependency["kind"] == "dev" || !name.starts_with(banned), "core uses {name}");
        }
    }
}

/// The audited leaves that may hold unsafe code, each with its reason: docs/adr/0001 and docs/adr/0009.
const UNSAFE: &[&str] = &["keyward-memory", "keyward-mount"];

#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_two_audited_leaves() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let manifest =
            std::fs::read_to_string(package["manifest_path"].as_str().expect("path")).expect("manifest");
        let name = package["name"].as_str().expect("name");
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert!(inherits || UNSAFE.contains(&name), "{name} does not take the workspace's lints");
        if UNSAFE.contains(&name) {
            assert!(manifest.contains("unsafe_code = \"deny\""), "{name} allows unsafe code at large");
            assert!(manifest.contains("undocumented_unsafe_blocks = \"deny\""), "{name} needs no SAFETY");
            assert!(dependencies()[name.trim_start_matches("keyward-")].is_empty(), "{name} is not a leaf");
        }
    }
}
