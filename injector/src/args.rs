use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};
use keyward_core::config::injector::{self, InjectorConfig, SETTINGS};
use keyward_core::{Error, Result, document};

/// What the command line asks for.
pub(crate) enum Action {
    /// Ask a running injector whether it can answer.
    Probe {
        /// Its configuration.
        config: Box<InjectorConfig>,
    },
    /// The configuration is valid, and that was the question.
    CheckConfig,
    /// Say what would become of a manifest.
    Explain {
        /// The manifest; `-` is standard input.
        manifest: PathBuf,
        /// By which settings.
        config: Box<InjectorConfig>,
    },
    /// Serve.
    Run {
        /// The configuration.
        config: Box<InjectorConfig>,
    },
}

fn read(file: Option<&Path>, overrides: &[(&str, String)]) -> Result<InjectorConfig> {
    let document = file.map(document::read_file).transpose()?.unwrap_or_default();
    let overrides: Vec<_> = overrides.iter().map(|(path, value)| (*path, value.as_str())).collect();
    injector::parse_with(&document, &overrides).map_err(|error| match file {
        Some(path) => Error::new(error.code(), format!("{}:\n{}", path.display(), error.message())),
        None => error,
    })
}

fn command() -> Command {
    let file = |name: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(clap::value_parser!(PathBuf))
    };
    let command = Command::new("keyward-injector")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The admission webhook: gives a pod with the label keyward.dev/inject its sidecar, init container or CSI volume. It cannot read a secret.")
        .after_help("Exit codes: 0 success, 64 mistake in configuration, flags or manifest, 69 not reachable, 1 anything else.\n\nExample:\n  keyward-injector --config /etc/keyward/config.yaml\n  keyward-injector --config config.yaml --explain deployment.yaml")
        .arg(file("config").help("The administrator's configuration, YAML"))
        .arg(Arg::new("check-config").long("check-config").action(ArgAction::SetTrue).help("Say whether the configuration is valid and end"))
        .arg(Arg::new("probe").long("probe").action(ArgAction::SetTrue).help("Ask a running injector on this machine whether it serves with a certificate; exit 0 if so"))
        .arg(file("explain").help("Print what would become of the pods in a manifest (YAML or JSON, - for standard input) and end; ServiceAccounts and ConfigMaps in it are what is looked up"));
    SETTINGS.iter().fold(command, |command, setting| {
        command.arg(
            Arg::new(setting.path)
                .long(setting.flag())
                .value_name("YAML")
                .help(format!("{} [default: {}]", setting.help, setting.default))
                .help_heading("Settings, as in the configuration file"),
        )
    })
}

/// Parses a command line.
///
/// # Errors
/// The code to exit with, after the message was printed.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> std::result::Result<Action, ExitCode> {
    let matches = command().try_get_matches_from(arguments).map_err(|error| {
        // Nothing sensible is left to do when even this cannot be printed.
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
    })?;
    let file = matches.get_one::<PathBuf>("config");
    let mut overrides: Vec<(&'static str, String)> = SETTINGS
        .iter()
        .filter_map(|setting| Some((setting.path, matches.get_one::<String>(setting.path)?.clone())))
        .collect();
    let manifest = matches.get_one::<PathBuf>("explain").cloned();
    if manifest.is_some() && file.is_none() {
        // To look at a manifest needs neither an image of one's own nor a certificate.
        for (path, value) in [("image", "keyward"), ("certificates.namespace", "keyward-system")] {
            if !overrides.iter().any(|(given, _)| *given == path) {
                overrides.push((path, value.to_owned()));
            }
        }
    }
    let config = read(file.map(PathBuf::as_path), &overrides).map_err(|error| {
        crate::report(&error.to_string());
        ExitCode::from(crate::exit_code(&error))
    })?;
    let config = Box::new(config);
    Ok(match manifest {
        _ if matches.get_flag("check-config") => Action::CheckConfig,
        _ if matches.get_flag("probe") => Action::Probe { config },
        Some(manifest) => Action::Explain { manifest, config },
        None => Action::Run { config },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> std::result::Result<Action, ExitCode> {
        parse(std::iter::once("keyward-injector").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_command_is_consistent_in_itself() {
        command().debug_assert();
    }

    #[test]
    fn flags_alone_make_a_configuration() {
        let words = ["--image", "k:1", "--certificates-namespace", "ks", "--via", "init"];
        let Ok(Action::Run { config }) = parse_words(&words) else { panic!("refused") };
        assert_eq!(config.injection.image, "k:1");
    }

    #[test]
    fn a_manifest_is_looked_at_without_a_configuration() {
        assert!(matches!(parse_words(&["--explain", "-"]), Ok(Action::Explain { .. })));
    }

    #[test]
    fn mistakes_exit_with_64() {
        for words in [&["--via", "magic"][..], &[], &["--config", "/does/not/exist"], &["--no-such-flag"]] {
            assert!(parse_words(words).err() == Some(ExitCode::from(64)), "{words:?}");
        }
    }
}
