use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use keyward_core::config::node::{self, NodeConfig};
use keyward_core::{Code, Error, Result};

use crate::confine::Needs;
use crate::mounter;

/// What the command line asks for.
pub(crate) enum Action {
    /// Ask a running driver through its socket whether it is alive.
    Probe {
        /// The CSI socket.
        socket: PathBuf,
    },
    /// The configuration is valid, and that was the question.
    CheckConfig,
    /// Be the mounter, which starts the broker.
    Mount {
        /// What it needs to know.
        settings: mounter::Settings,
    },
    /// Be the broker; started by the mounter only.
    Broker {
        /// What it needs to know.
        setup: Box<Setup>,
    },
}

/// What the broker is told.
pub(crate) struct Setup {
    pub(crate) node_id: String,
    pub(crate) driver_name: String,
    pub(crate) kubelet_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// The CSI socket as kubelet on the host sees it.
    pub(crate) endpoint: PathBuf,
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The configuration's file.
    pub(crate) file: Option<PathBuf>,
    pub(crate) config: NodeConfig,
}

/// First word of the broker's command line.
const BROKER: &str = "broker";
/// Where a pod finds the credentials of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl Setup {
    /// What of the file system the broker needs.
    pub(crate) fn needs(&self) -> Needs {
        let directory = |path: &Path| path.parent().map(Path::to_path_buf);
        let mut read: Vec<PathBuf> =
            ["/etc/resolv.conf", "/etc/hosts", SERVICE_ACCOUNT].map(PathBuf::from).to_vec();
        // Directories, so that a change by rename is seen.
        let files =
            [&self.kubeconfig, &self.file, &self.config.tls.extra_roots_file, &self.config.audit.key_file];
        read.extend(files.into_iter().flatten().filter_map(|path| directory(path)));
        if let Some(node::TrustAnchor::File(path)) =
            self.config.identity_binding.as_ref().and_then(|binding| binding.ca.as_ref())
        {
            read.extend(directory(path));
        }
        let mut write = vec![self.state_dir.join("volumes"), self.state_dir.join("snapshot")];
        write.extend(self.config.audit.file.as_deref().and_then(directory));
        Needs { read, write }
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` with every mistake.
    pub(crate) fn read_again(&self) -> Result<NodeConfig> {
        read(self.file.as_deref())
    }
}

/// Parses a command line.
///
/// # Errors
/// The code to exit with, after the message was printed.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> std::result::Result<Action, ExitCode> {
    let mut words: Vec<OsString> = arguments.into_iter().collect();
    let is_broker = words.get(1).is_some_and(|word| word == BROKER);
    if is_broker {
        words.remove(1);
    }
    let matches = command().try_get_matches_from(&words).map_err(|error| {
        // Nothing sensible is left to do when even this cannot be printed.
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
    })?;
    action(&matches, &words, is_broker).map_err(|error| {
        crate::report(&error.to_string());
        ExitCode::from(crate::exit_code(&error))
    })
}

fn action(matches: &ArgMatches, words: &[OsString], is_broker: bool) -> Result<Action> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let invalid = |message: &str| Error::new(Code::ConfigInvalid, message);
    let endpoint = text("endpoint").unwrap_or_default();
    // The CSI specification allows nothing but Unix sockets, with or without the scheme.
    let socket = PathBuf::from(
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(&endpoint),
    );
    if !socket.is_absolute() || socket.extension().is_none_or(|extension| extension != "sock") {
        return Err(invalid("--endpoint must be unix:///an/absolute/path/ending.sock"));
    }
    if matches.get_flag("probe") {
        return Ok(Action::Probe { socket });
    }
    let file = path("config").map(|path| std::path::absolute(&path).unwrap_or(path));
    let config = read(file.as_deref())?;
    if matches.get_flag("check-config") {
        return Ok(Action::CheckConfig);
    }
    let node_id = text("node-id")
        .filter(|id| !id.is_empty())
        .ok_or_else(|| invalid("--node-id (or NODE_ID) is missing: the node's name"))?;
    let driver_name = text("driver-name").unwrap_or_default();
    if !is_driver_name(&driver_name) {
        return Err(invalid(
            "--driver-name must be a name such as csi.keyward.dev: up to 63 letters, digits, dots and hyphens, a letter first and last",
        ));
    }
    let kubelet_dir = path("kubelet-dir").unwrap_or_default();
    if is_broker {
        let own = |name: &OsString| socket.file_name().is_some_and(|own| own == name.as_os_str());
        let endpoint = match &config.registration.endpoint {
            Some(endpoint) => endpoint.clone(),
            None if socket.starts_with(&kubelet_dir) => socket.clone(),
            None => {
                let name =
                    socket.file_name().map(OsString::from).filter(own).unwrap_or_else(|| "csi.sock".into());
                kubelet_dir.join("plugins").join(&driver_name).join(name)
            }
        };
        let setup = Setup {
            node_id,
            driver_name,
            kubelet_dir,
            state_dir: path("state-dir").unwrap_or_default(),
            endpoint,
            kubeconfig: std::env::var_os("KUBECONFIG")
                .map(PathBuf::from)
                .filter(|path| !path.as_os_str().is_empty())
                .map(|path| std::path::absolute(&path).unwrap_or(path)),
            file,
            config,
        };
        return Ok(Action::Broker { setup: Box::new(setup) });
    }
    let registration_socket = config
        .registration
        .enabled
        .then(|| kubelet_dir.join("plugins_registry").join(format!("{driver_name}-reg.sock")));
    let broker_args = std::iter::once(OsString::from(BROKER)).chain(words.iter().skip(1).cloned()).collect();
    Ok(Action::Mount {
        settings: mounter::Settings {
            driver_name,
            kubelet_dir,
            endpoint: socket,
            registration_socket,
            state_dir: path("state-dir").unwrap_or_default(),
            allow_swap: config.allow_swap,
            broker_args,
        },
    })
}

fn read(file: Option<&Path>) -> Result<NodeConfig> {
    let Some(path) = file else { return node::parse(b"") };
    node::parse(&keyward_core::document::read_file(path)?)
        .map_err(|error| Error::new(error.code(), format!("{}:\n{}", path.display(), error.message())))
}

/// CSI specification, `GetPluginInfoResponse.name`, and what its conformance suite makes of it.
fn is_driver_name(name: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic());
    (2..=63).contains(&name.len())
        && letter(name.chars().next())
        && letter(name.chars().next_back())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

fn command() -> Command {
    let path = |name: &'static str| {
        Arg::new(name).long(name).value_name("PATH").value_parser(value_parser!(PathBuf))
    };
    Command::new("keyward-csi-driver")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves secrets from Key Vault as CSI volumes: one for each pod that asks, read with the pod's own identity, kept current without a restart.")
        .after_help("Exit codes: 0 success, 64 mistake in configuration or flags, 69 something needed is missing (kernel, sockets), 1 anything else.\n\nExample:\n  keyward-csi-driver --endpoint unix:///csi/csi.sock --node-id $NODE_NAME --config /etc/keyward/config.yaml")
        .arg(Arg::new("endpoint").long("endpoint").value_name("URL").env("CSI_ENDPOINT").default_value("unix:///csi/csi.sock").help("Where kubelet makes CSI calls"))
        .arg(Arg::new("node-id").long("node-id").value_name("NAME").env("NODE_ID").help("The node's name"))
        .arg(Arg::new("driver-name").long("driver-name").value_name("NAME").default_value("csi.keyward.dev").help("The driver's name, as pods and the CSIDriver object have it"))
        .arg(path("kubelet-dir").default_value("/var/lib/kubelet").help("Kubelet's root directory, mounted at the same path as on the host"))
        .arg(path("state-dir").default_value("/run/keyward").help("What outlives a restart of the driver: a directory of its own, mounted with propagation to the host"))
        .arg(path("config").value_name("FILE").help("The administrator's configuration, YAML"))
        .arg(Arg::new("check-config").long("check-config").action(ArgAction::SetTrue).help("Say whether the configuration is valid and end"))
        .arg(Arg::new("probe").long("probe").action(ArgAction::SetTrue).help("Ask a running driver through its socket whether it is alive; exit 0 if so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> std::result::Result<Action, ExitCode> {
        parse(std::iter::once("keyward-csi-driver").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_command_is_consistent_in_itself() {
        command().debug_assert();
    }

    #[test]
    fn the_mounter_passes_its_words_on_to_the_broker() {
        let Ok(Action::Mount { settings }) =
            parse_words(&["--node-id", "n1", "--driver-name", "x.example.com"])
        else {
            panic!("refused")
        };
        assert_eq!(
            settings.registration_socket,
            Some("/var/lib/kubelet/plugins_registry/x.example.com-reg.sock".into())
        );
        let words: Vec<_> =
            std::iter::once("keyward-csi-driver".into()).chain(settings.broker_args).collect();
        let Ok(Action::Broker { setup }) = parse(words) else { panic!("refused") };
        assert_eq!(setup.node_id, "n1");
        assert_eq!(setup.endpoint, Path::new("/var/lib/kubelet/plugins/x.example.com/csi.sock"));
    }

    #[test]
    fn mistakes_exit_with_64() {
        for words in [
            &["--node-id", "n", "--endpoint", "tcp://1.2.3.4:5"][..],
            &["--node-id", "n", "--endpoint", "unix:///csi/socket"],
            &["--node-id", "n", "--driver-name", "ends-in-digit.1"],
            &["--node-id", "n", "--config", "/does/not/exist"],
            &["--node-id", ""],
            &["--no-such-flag"],
        ] {
            assert!(parse_words(words).err() == Some(ExitCode::from(64)), "{words:?}");
        }
    }
}
