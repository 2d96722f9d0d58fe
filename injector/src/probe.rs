use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error, Result};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a probe may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Whether an injector on this machine shows a certificate. Whose it is, a probe does not know and need not.
///
/// # Errors
/// `KW_CONNECT` or `KW_TIMEOUT`.
pub(crate) async fn probe(port: u16) -> Result<()> {
    let no = |what: &str| Error::new(Code::Connect, format!("port {port} {what}"));
    let asked = async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect(address).await.map_err(|error| no("is closed").detail(error))?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| no("cannot be asked").detail(error))?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name =
            ServerName::try_from("keyward-injector").map_err(|error| no("cannot be asked").detail(error))?;
        // Nobody is trusted, so a handshake fails either way: on a certificate, or before one was shown.
        match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
                match cause {
                    Some(rustls::Error::InvalidCertificate(_)) => Ok(()),
                    _ => Err(no("shows no certificate yet; the injector's log says why").detail(error)),
                }
            }
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
        Err(Error::new(Code::Timeout, format!("port {port} did not answer within {} s", PATIENCE.as_secs())))
    })
}
