//! What the repository says about itself must hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyward_core::config::{SETTINGS, reference};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust source of the repository.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory").map(|entry| entry.expect("an entry"))
        {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                directories.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let specification = read("SPECIFICATION.md");
    let named: BTreeSet<&str> = specification
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.matches('_').count() >= 3
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .collect();
    assert!(named.len() > 40, "only {} tests are named", named.len());
    let sources = sources();
    for name in named {
        let function = format!("fn {name}(");
        assert!(sources.iter().any(|(_, text)| text.contains(&function)), "no test is called {name}");
    }
}

/// What is generated (`proto`) is not ours, and the emulator is no part of what ships.
#[test]
fn every_crate_that_ships_refuses_code_that_can_panic() {
    let mut roots: Vec<String> =
        ["sidecar", "csi-driver", "injector"].map(|name| format!("{name}/src/lib.rs")).into();
    roots.push("cli/src/main.rs".to_owned());
    for entry in std::fs::read_dir(root().join("crates")).expect("the crates") {
        let name = entry.expect("an entry").file_name();
        roots.push(format!("crates/{}/src/lib.rs", name.to_string_lossy()));
    }
    for path in roots {
        let text = read(&path);
        let block = text.split("deny(").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
        let refused: Vec<_> = block.split(',').map(str::trim).collect();
        let mut lints =
            vec!["expect_used", "indexing_slicing", "panic", "string_slice", "unreachable", "unwrap_used"];
        // crates/broker says why.
        lints.extend((path != "crates/broker/src/lib.rs").then_some("arithmetic_side_effects"));
        for lint in lints {
            assert!(refused.contains(&format!("clippy::{lint}").as_str()), "{path} lacks {lint}");
        }
    }
}

#[test]
fn every_promise_names_tests() {
    let specification = read("SPECIFICATION.md");
    let mut promises = 0;
    for block in specification.split("\n\n").flat_map(|part| part.split("\n## ")) {
        for line in block.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
            promises += 1;
            let number = line.split('.').next().expect("a number");
            let at = specification.find(line).expect("the line");
            let rest = &specification[at..];
            let end = rest[1..]
                .find(&format!("\n{}. ", number.parse::<u32>().expect("a number") + 1))
                .map_or(rest.len(), |end| end + 1);
            let text = &rest[..end];
            assert!(text.contains("Tests:"), "promise {number} names no test");
        }
    }
    assert_eq!(promises, 18);
}

#[test]
fn the_configuration_page_is_the_one_that_the_code_makes() {
    let page = read("docs/configuration.md");
    assert!(
        page.contains(&reference()),
        "docs/configuration.md is out of date; put this table into it:\n{}",
        reference()
    );
    for setting in SETTINGS {
        assert!(page.contains(&format!("`{}`", setting.path)));
    }
}

#[test]
fn the_configuration_page_of_the_node_plugin_is_the_one_that_the_code_makes() {
    use keyward_core::config::node;
    let page = read("docs/csi-configuration.md");
    assert!(
        page.contains(&node::reference()),
        "docs/csi-configuration.md is out of date; put this table into it:\n{}",
        node::reference()
    );
}

#[test]
fn the_configuration_page_of_the_injector_is_the_one_that_the_code_makes() {
    use keyward_core::config::injector;
    let page = read("docs/injector-configuration.md");
    assert!(
        page.contains(&injector::reference()),
        "docs/injector-configuration.md is out of date; put this table into it:\n{}",
        injector::reference()
    );
}

#[test]
fn every_error_code_is_on_the_troubleshooting_page_with_what_to_do() {
    let page = read("docs/troubleshooting.md");
    for code in keyward_core::Code::ALL {
        assert!(
            page.contains(&format!("`{}`", code.as_str())),
            "docs/troubleshooting.md lacks {}",
            code.as_str()
        );
    }
}

#[test]
fn every_error_code_is_on_the_errors_page() {
    let page = read("docs/errors.md");
    for code in keyward_core::Code::ALL {
        let row = format!("| `{}` |{} |", code.as_str(), code.meaning());
        assert!(page.contains(&row), "docs/errors.md lacks this row:\n{row}");
    }
}

/// Every page for users.
fn pages() -> Vec<(String, String)> {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs");
    let names = docs.map(|entry| format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy()));
    let names = names.filter(|name| name.ends_with(".md"));
    names
        .chain(["README.md", "SECURITY.md"].map(str::to_owned))
        .map(|name| (name.clone(), read(&name)))
        .collect()
}

/// The words of a page that are set as code.
fn code_words(page: &str) -> impl Iterator<Item = &str> {
    page.split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
}

#[test]
fn every_error_code_and_metric_that_the_pages_name_exists() {
    let sources = [
        "crates/telemetry/src/metrics.rs",
        "crates/telemetry/src/metrics/hooks.rs",
        "crates/telemetry/src/stall.rs",
        "csi-driver/src/app.rs",
        "sidecar/src/app.rs",
    ]
    .map(read);
    for (name, page) in pages() {
        for code in code_words(&page).filter(|word| word.starts_with("KW_")) {
            assert!(
                keyward_core::Code::ALL.iter().any(|known| known.as_str() == code),
                "{name} names {code}"
            );
        }
        for metric in code_words(&page).filter_map(|word| word.strip_prefix("keyward_")) {
            let metric = metric.strip_suffix("_total").unwrap_or(metric);
            let metric = metric.strip_suffix("_seconds").unwrap_or(metric);
            // Some are registered under their whole name.
            let written = ["", "keyward_"].map(|prefix| format!("\"{prefix}{metric}\""));
            let written = written.into_iter().chain([format!("\"keyward_{metric}_seconds\"")]);
            let known = written.into_iter().any(|name| sources.iter().any(|text| text.contains(&name)));
            assert!(known, "{name} names the metric keyward_{metric}");
        }
    }
}

#[test]
fn every_link_from_a_page_to_a_file_leads_there() {
    for (name, page) in pages() {
        let directory = root().join(&name).parent().expect("a directory").to_path_buf();
        let links = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let files = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
        for link in files.map(|link| link.split('#').next().expect("a path")) {
            assert!(directory.join(link).exists(), "{name} links to {link}");
        }
    }
}

#[test]
fn the_chart_grants_each_program_the_rights_that_the_code_names_and_configures_it_validly() {
    // What the chart renders with everything switched on; tests/chart/run compares.
    let rendered = read("tests/chart/golden/everything.yaml");
    let documents = |kind: &str, name: &str| -> Vec<&str> {
        let (kind, name) = (format!("\nkind: {kind}\n"), format!("\n  name: {name}"));
        rendered.split("\n---\n").filter(|text| text.contains(&kind) && text.contains(&name)).collect()
    };
    let list = |text: &str, key: &str| -> Vec<String> {
        let from = text.find(key).unwrap_or_else(|| panic!("{key} in {text}")) + key.len();
        let inside = &text[from..from + text[from..].find(']').expect("a list on one line")];
        inside.split(", ").map(|word| word.trim_matches('"').to_owned()).collect()
    };
    let code = read("crates/kubernetes/src/lib.rs");
    for (program, heading) in [
        ("keyward-csi-driver", "//! # Rights of the node plugin"),
        ("keyward-injector", "//! # Rights of the injector"),
    ] {
        let roles = [documents("ClusterRole", program), documents("Role", program)].concat().join("\n");
        let granted: BTreeSet<_> = roles
            .split("- apiGroups: [")
            .skip(1)
            .map(|rule| {
                let group = rule.split(']').next().expect("a group").trim_matches('"').to_owned();
                (group, list(rule, "resources: ["), list(rule, "verbs: ["))
            })
            .collect();
        let table = code.split(heading).nth(1).unwrap_or_else(|| panic!("{heading}"));
        let named: BTreeSet<_> = table
            .lines()
            .skip(2)
            .map_while(|line| line.strip_prefix("//! | "))
            .skip(2)
            .map(|row| {
                let cells: Vec<_> = row.split(" | ").collect();
                let group = cells[0].trim_matches('`').replace("core", "");
                let resource = cells[1].split('`').nth(1).expect("a resource").to_owned();
                (group, vec![resource], cells[2].split(", ").map(str::to_owned).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(granted, named, "{program}");
    }
    let config = |program: &str| {
        let document = documents("ConfigMap", program);
        let text = document[0].split("config.yaml: |\n").nth(1).expect("a configuration");
        // The next key of the ConfigMap is less deep.
        text.lines()
            .take_while(|line| line.is_empty() || line.starts_with("    "))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let node =
        keyward_core::config::node::parse(config("keyward-csi-driver").as_bytes()).expect("it is valid");
    // The payload arrives as the node's budget, and the container's limit leaves room for the program beside it.
    assert_eq!(node.limits.bytes_per_node, 2 * (512 << 20));
    let memory = node.limits.bytes_per_node / (1 << 20) + 128;
    assert!(documents("DaemonSet", "keyward-csi-driver")[0].contains(&format!("memory: {memory}Mi")));
    keyward_core::config::injector::parse(config("keyward-injector").as_bytes()).expect("it is valid");
}

#[test]
fn the_changelog_keeps_its_form() {
    let changelog = read("CHANGELOG.md");
    assert!(changelog.starts_with("# Changelog\n") && changelog.contains("\n## [Unreleased]\n"));
    let headings = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    for heading in changelog.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(headings.contains(&heading), "{heading} is no heading of Keep a Changelog");
    }
}

#[test]
fn no_source_is_unfinished_sleeps_on_a_thread_or_prints_for_debugging() {
    let banned = [
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["db", "g!("].concat(),
        ["#[ig", "nore"].concat(),
    ];
    for (path, text) in sources() {
        for word in &banned {
            assert!(!text.contains(word.as_str()), "{} holds {word}", path.display());
        }
    }
}

#[test]
fn files_tell_one_story() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, path)| *lines > 700 && !path.to_string_lossy().contains("/tests/"))
        .collect();
    assert!(long.is_empty(), "files over 700 lines: {long:?}");
}
