use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use keyward_core::config::{self, Config, SETTINGS};
use keyward_core::{Code, Error, Result, document};
use keyward_delivery::template::check_templates;

/// What the command line asks for.
pub(crate) enum Action {
    /// Ask a running sidecar through its socket whether it is ready.
    Probe {
        /// The socket.
        socket: PathBuf,
        /// How long it may take to become so.
        patience: Duration,
    },
    /// Say whether the configuration is valid.
    CheckConfig {
        /// The configuration.
        setup: Box<Setup>,
    },
    /// Serve, or with `once` write the files and end.
    Run {
        /// The configuration.
        setup: Box<Setup>,
        /// How it ends.
        end: End,
    },
}

/// When a sidecar ends of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Never.
    Never,
    /// When the files are written: an init container.
    Written,
    /// With the application.
    WithApplication,
}

/// A configuration and how to read it again.
pub(crate) struct Setup {
    /// As parsed at start.
    pub(crate) config: Config,
    /// The document, if one was named.
    pub(crate) file: Option<PathBuf>,
    /// Settings from flags, which win over the document.
    overrides: Vec<(&'static str, String)>,
}

impl Setup {
    /// Reads the document again.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` with every mistake.
    pub(crate) fn read_again(&self) -> Result<Config> {
        read(self.file.as_deref(), &self.overrides)
    }
}

fn read(file: Option<&Path>, overrides: &[(&'static str, String)]) -> Result<Config> {
    let document = file.map(document::read_file).transpose()?.unwrap_or_default();
    let overrides: Vec<_> = overrides.iter().map(|(path, value)| (*path, value.as_str())).collect();
    let parsed = config::parse_with(&document, &overrides)
        .and_then(|config| check_templates(&config.objects).map(|()| config));
    parsed.map_err(|error| match file {
        Some(path) => Error::new(error.code(), format!("{}:\n{}", path.display(), error.message())),
        None => error,
    })
}

fn command() -> Command {
    let command = Command::new("keyward-sidecar")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Brings one pod's secrets from Key Vault to files on tmpfs and a local gRPC socket, and keeps them current.")
        .after_help("Exit codes: 0 success, 64 mistake in configuration or flags, 69 upstream not available, 77 access refused, 1 anything else.\n\nExample:\n  keyward-sidecar --config /etc/keyward/config.yaml\n  keyward-sidecar --objects '[kv://shop/secrets/db-password]' --files-path /var/run/keyward --once")
        .arg(Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf)).help("The configuration, YAML; read again whenever it changes"))
        .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).help("Write the files once and end: an init container"))
        .arg(Arg::new("check-config").long("check-config").action(ArgAction::SetTrue).help("Say whether the configuration is valid and end"))
        .arg(Arg::new("probe").long("probe").action(ArgAction::SetTrue).help("Ask a running sidecar through its socket whether it is ready; exit 0 if so"))
        .arg(Arg::new("wait").long("wait").value_name("DURATION").requires("probe").value_parser(document::parse_duration).help("Let --probe wait that long for the sidecar to become ready, so that a startup probe loses no second"))
        .arg(Arg::new("exit-with-application").long("exit-with-application").action(ArgAction::SetTrue).conflicts_with("once").help("End once no other process is left in the pod: for Jobs on clusters without native sidecars, with shareProcessNamespace"));
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
    let file = matches.get_one::<PathBuf>("config").cloned();
    let overrides: Vec<(&'static str, String)> = SETTINGS
        .iter()
        .filter_map(|setting| Some((setting.path, matches.get_one::<String>(setting.path)?.clone())))
        .collect();
    let fail = |error: Error| {
        crate::report(&error.to_string());
        ExitCode::from(crate::exit_code(&error))
    };
    if matches.get_flag("probe") {
        let patience = matches.get_one::<Duration>("wait").copied().unwrap_or_default();
        return socket(file.as_deref(), &overrides)
            .map(|socket| Action::Probe { socket, patience })
            .map_err(fail);
    }
    let config = read(file.as_deref(), &overrides).map_err(fail)?;
    let setup = Box::new(Setup { config, file, overrides });
    if matches.get_flag("check-config") {
        return Ok(Action::CheckConfig { setup });
    }
    let end = match (matches.get_flag("once"), matches.get_flag("exit-with-application")) {
        (true, _) => End::Written,
        (_, true) => End::WithApplication,
        _ => End::Never,
    };
    Ok(Action::Run { setup, end })
}

/// Where `--probe` asks: the flag, else the configuration, else the place that the injector uses.
fn socket(file: Option<&Path>, overrides: &[(&'static str, String)]) -> Result<PathBuf> {
    if let Some((_, socket)) = overrides.iter().find(|(path, _)| *path == "grpc.socket") {
        return Ok(PathBuf::from(socket));
    }
    if file.is_none() {
        return Ok(PathBuf::from("/var/run/keyward-api/keyward.sock"));
    }
    read(file, overrides)?.grpc.map(|grpc| grpc.socket).ok_or_else(|| {
        Error::new(Code::ConfigInvalid, "--probe asks through grpc.socket, which is not configured")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> std::result::Result<Action, ExitCode> {
        parse(std::iter::once("keyward-sidecar").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_command_is_consistent_in_itself() {
        command().debug_assert();
    }

    #[test]
    fn flags_alone_make_a_configuration() {
        let words = [
            "--objects",
            "[kv://shop/secrets/a]",
            "--grpc-socket",
            "/run/k.sock",
            "--rotation-interval",
            "30s",
        ];
        let Ok(Action::Run { setup, end: End::Never }) = parse_words(&words) else { panic!("refused") };
        assert_eq!(setup.config.rotation.interval.as_secs(), 30);
    }

    #[test]
    fn flags_win_over_the_document_also_when_it_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.yaml");
        std::fs::write(
            &file,
            "objects: [kv://shop/secrets/a]\ngrpc: {socket: /run/k.sock}\nrotation: {interval: 10s}\n",
        )
        .unwrap();
        let words = ["--config", file.to_str().unwrap(), "--rotation-interval", "20s"];
        let Ok(Action::Run { setup, .. }) = parse_words(&words) else { panic!("refused") };
        assert_eq!(setup.config.rotation.interval.as_secs(), 20);
        assert_eq!(setup.read_again().unwrap().rotation.interval.as_secs(), 20);
    }

    #[test]
    fn mistakes_exit_with_64() {
        for words in [&["--objects", "[]"][..], &["--no-such-flag"], &["--config", "/does/not/exist"]] {
            assert!(parse_words(words).err() == Some(ExitCode::from(64)));
        }
    }
}
