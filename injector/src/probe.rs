//! `--probe`: whether the injector of this container can answer. It asks on a socket of its own, an abstract Unix address
//! that only the pod's own network namespace has, so that whoever connects to the webhook cannot keep a probe from its
//! answer, nor the other way round.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as Bound, UnixStream as Connected};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::certificates::Serving;

/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// What is answered with a certificate, and without.
const YES: u8 = b'1';
const NO: u8 = b'0';

/// Answers probes.
pub(crate) struct Probes {
    listener: UnixListener,
    serving: Arc<Serving>,
}

impl Probes {
    /// Listens for probes of the injector on `port`.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` when the address is taken: another injector has that port.
    pub(crate) fn bind(port: u16, serving: Arc<Serving>) -> Result<Self> {
        let bound = || -> io::Result<UnixListener> {
            let bound = Bound::bind_addr(&address(port)?)?;
            bound.set_nonblocking(true)?;
            UnixListener::from_std(bound)
        };
        let listener = bound().map_err(|error| {
            Error::new(Code::ConfigInvalid, format!("another process answers probes for port {port}"))
                .detail(error)
        })?;
        Ok(Self { listener, serving })
    }

    /// Answers for ever, one probe after the other; none waits for anything but its one byte.
    pub(crate) async fn serve(self) {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                // Out of descriptors: the next accept would fail as fast.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if is_of_our_user(&stream) {
                let answer = if self.serving.is_there() { YES } else { NO };
                // One byte always fits.
                let _ = timeout(Duration::from_secs(1), stream.write_all(&[answer])).await;
            }
        }
    }
}

/// Whether the injector for `port` shows a certificate.
///
/// # Errors
/// `KW_CONNECT` or `KW_TIMEOUT`.
pub(crate) async fn probe(port: u16) -> Result<()> {
    let no = |what: &str| Error::new(Code::Connect, format!("port {port} {what}"));
    let asked = async {
        let connected = || -> io::Result<UnixStream> {
            let connected = Connected::connect_addr(&address(port)?)?;
            connected.set_nonblocking(true)?;
            UnixStream::from_std(connected)
        };
        let mut stream = connected().map_err(|error| no("is closed").detail(error))?;
        if !is_of_our_user(&stream) {
            return Err(no("is answered for by another user"));
        }
        match stream.read_u8().await {
            Ok(YES) => Ok(()),
            Ok(_) => Err(no("shows no certificate yet; the injector's log says why")),
            Err(error) => Err(no("does not answer").detail(error)),
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
        Err(Error::new(Code::Timeout, format!("port {port} did not answer within {} s", PATIENCE.as_secs())))
    })
}

fn address(port: u16) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("keyward-injector-{port}"))
}

/// With the node's network there are others in the namespace.
fn is_of_our_user(stream: &UnixStream) -> bool {
    // A pair of our own says who we are: /proc does not, for a process that is closed to others.
    let own = UnixStream::pair().and_then(|(one, _other)| one.peer_cred());
    matches!((stream.peer_cred(), own), (Ok(peer), Ok(own)) if peer.uid() == own.uid())
}
