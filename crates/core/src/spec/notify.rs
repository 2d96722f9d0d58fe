use std::time::Duration;

use crate::address;
use crate::document::Fields;

/// Whom to tell of a change, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Notify {
    /// What to do.
    pub action: NotifyAction,
    /// Changes within this time are told once.
    pub debounce: Duration,
    /// One try takes no longer.
    pub timeout: Duration,
    /// Further tries after a failure.
    pub retries: u32,
}

/// One way to tell an application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NotifyAction {
    /// A signal to the processes whose comm or `argv[0]` is `process`, in a shared process namespace: of a program's
    /// processes only the topmost, since a master passes it on and a worker may die of it.
    Signal {
        /// `HUP`, `USR1`, `USR2`, `TERM`, `INT`, `WINCH`
        signal: &'static str,
        /// Name to match.
        process: String,
    },
    /// A POST to a loopback URL.
    Http {
        /// `http://127.0.0.1:8000/-/reload`
        url: String,
    },
    /// A command in the sidecar's own container, without a shell.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

const SIGNALS: &[(&str, &str)] = &[
    ("HUP", "HUP"),
    ("USR1", "USR1"),
    ("USR2", "USR2"),
    ("TERM", "TERM"),
    ("INT", "INT"),
    ("WINCH", "WINCH"),
];

impl Notify {
    /// Reads the mapping of a `notify` key.
    pub(super) fn read(mut fields: Fields<'_>) -> Option<Self> {
        let signal = fields.choice("signal", SIGNALS);
        let process = fields.text("process");
        let http = fields.text("http");
        let exec = fields.texts("exec");
        let written = [fields.has("signal"), fields.has("http"), fields.has("exec")];
        let kinds = written.iter().filter(|written| **written).count();
        let seconds = |s| Duration::from_secs(s);
        let debounce =
            fields.duration("debounce", Duration::ZERO..=seconds(300)).unwrap_or(Duration::from_millis(250));
        let timeout =
            fields.duration("timeout", Duration::from_millis(10)..=seconds(300)).unwrap_or(seconds(5));
        let retries = fields.number("retries", 0..=10).unwrap_or(3) as u32;
        let action = if kinds != 1 {
            fields.mistake("", "needs exactly one of signal, http, exec");
            None
        } else if let Some(signal) = signal {
            match process {
                Some(process) if is_process_name(process) => {
                    Some(NotifyAction::Signal { signal, process: process.to_owned() })
                }
                Some(_) => {
                    fields.mistake("process", "must be a program's name without slashes, at most 64 bytes");
                    None
                }
                None => {
                    fields.mistake("process", "is missing: the signal needs a process to go to");
                    None
                }
            }
        } else if let Some(url) = http {
            match check_loopback(url) {
                Ok(()) => Some(NotifyAction::Http { url: url.to_owned() }),
                Err(why) => {
                    fields.mistake("http", why);
                    None
                }
            }
        } else if exec.first().is_some_and(|program| !program.is_empty())
            && exec.iter().all(|word| !word.contains('\0'))
        {
            Some(NotifyAction::Exec { command: exec.iter().map(|&word| word.to_owned()).collect() })
        } else {
            if fields.value("exec").is_some_and(serde_json::Value::is_array) {
                fields.mistake("exec", "must be a list: the program, then its arguments");
            }
            None
        };
        fields.finish();
        Some(Self { action: action?, debounce, timeout, retries })
    }
}

fn is_process_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && !text.contains('/') && !text.chars().any(char::is_control)
}

fn check_loopback(text: &str) -> Result<(), &'static str> {
    let url = address::parse(text)?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() == "http" && loopback {
        Ok(())
    } else {
        Err("must be an http URL on 127.0.0.1, [::1] or localhost")
    }
}
