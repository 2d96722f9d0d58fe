use std::io::{ErrorKind as IoKind, Write};
use std::process::ExitCode;

use keyward_core::{Error, ErrorKind};
use keyward_proto::secrets::v1 as proto;
use tonic::{Code, Status};
use tonic_types::StatusExt;

// The codes of sysexits.h that say most about what to do next.
/// The command line or a file is wrong.
pub(crate) const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const NOT_PERMITTED: u8 = 77;

/// Why a command failed: what the user reads, and what a script sees.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: u8,
    /// `None` says nothing: the reader of our output went away.
    text: Option<String>,
}

impl Failure {
    /// The user asked for something that is not done.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { exit: USAGE, text: Some(text.into()) }
    }

    /// It did not work.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { exit: 1, text: Some(text.into()) }
    }

    /// A watched secret that is not given any more: as if it had been asked for.
    pub(crate) fn withheld(failure: &proto::Failure) -> Self {
        Self { exit: exit_of(Code::from(failure.code)), text: Some(failure.message.clone()) }
    }

    /// Prints the failure and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(text) = self.text {
            let _ = writeln!(std::io::stderr(), "keyward: {text}");
        }
        self.exit.into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::InvalidInput => USAGE,
            ErrorKind::Unauthenticated | ErrorKind::Forbidden | ErrorKind::PermissionDenied => NOT_PERMITTED,
            ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::StaleLimit => {
                UNAVAILABLE
            }
            _ => 1,
        };
        // A log that does not verify is a finding about the file, not a mistake of the command.
        let exit = if error.code() == keyward_core::Code::AuditBroken { 1 } else { exit };
        Self { exit, text: Some(error.to_string()) }
    }
}

/// A refusal of the server: its text names code and next step already.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let ours =
            status.get_details_error_info().is_some_and(|info| info.domain == keyward_local_api::DOMAIN);
        let text = if ours {
            status.message().to_owned()
        } else {
            format!("the server answered {:?}: {}", status.code(), status.message().escape_debug())
        };
        Self { exit: exit_of(status.code()), text: Some(text) }
    }
}

fn exit_of(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => USAGE,
        Code::PermissionDenied | Code::Unauthenticated => NOT_PERMITTED,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => UNAVAILABLE,
        _ => 1,
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            IoKind::BrokenPipe => Self { exit: 0, text: None },
            _ => Self { exit: 1, text: Some(error.to_string()) },
        }
    }
}
