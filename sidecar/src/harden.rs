use keyward_core::{Code, Error, Result};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// No core files, and memory that other processes of the same user may not read (promise 9).
///
/// # Errors
/// `KW_INTERNAL` when the kernel refuses, which no configuration can cause.
pub(crate) fn harden() -> Result<()> {
    let refused =
        |what: &'static str| move |error: nix::Error| Error::new(Code::Internal, what).detail(error);
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(refused("core files cannot be switched off"))?;
    prctl::set_dumpable(false).map_err(refused("the process cannot be made undumpable"))?;
    prctl::set_no_new_privs().map_err(refused("new privileges cannot be renounced"))
}
