use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells a supervisor that asked for it (`NOTIFY_SOCKET`, as in sd_notify(3)) that we are ready or stopping.
pub(crate) fn tell(state: State) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())
        && let Err(error) = send(&socket, state)
    {
        tracing::warn!(%error, "the supervisor at NOTIFY_SOCKET cannot be told");
    }
}

/// What there is to tell.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    /// Everything required was delivered.
    Ready,
    /// A signal asked us to stop; calls in flight end first.
    Stopping,
}

/// A path, or a name in the abstract namespace after `@`.
fn send(socket: &OsStr, state: State) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let message: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_hears_of_readiness_and_of_the_end_by_path_and_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("keyward-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let by_path = UnixDatagram::bind(&path).unwrap();
        for (receiver, socket) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            for (state, expected) in [(State::Ready, "READY=1"), (State::Stopping, "STOPPING=1")] {
                send(&socket, state).unwrap();
                let mut message = [0; 32];
                let length = receiver.recv(&mut message).unwrap();
                assert_eq!(&message[..length], expected.as_bytes());
            }
        }
    }
}
