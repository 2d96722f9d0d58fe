//! A serving certificate that someone else renews in place, such as cert-manager by a mounted Secret.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Code, Error, Result};
use zeroize::Zeroizing;

use super::Serving;

/// How often the files are read: kubelet brings a renewed Secret within a minute or so, weeks before it is needed.
const EVERY: Duration = Duration::from_secs(10);
/// The largest file that is read, bytes.
const LARGEST: u64 = 256 * 1024;

/// Reads `tls.crt` and `tls.key` again and again.
pub(crate) struct FileKeeper {
    pub(crate) directory: PathBuf,
    pub(crate) serving: Arc<Serving>,
}

impl FileKeeper {
    /// Works for ever; `look` is called after each round.
    pub(crate) async fn run(self, look: impl Fn() + Send) {
        let mut in_use: Option<[Zeroizing<Vec<u8>>; 2]> = None;
        let mut complained = false;
        loop {
            match self.read() {
                Ok(pair) if in_use.as_ref() == Some(&pair) => {}
                Ok(pair) => match self.exchange(&pair) {
                    Ok(()) => {
                        tracing::info!(directory = %self.directory.display(), "serving with the certificate of the files");
                        in_use = Some(pair);
                        complained = false;
                    }
                    // The two files are exchanged together but read one after the other.
                    Err(error) => complain(&mut complained, &error),
                },
                Err(error) => complain(&mut complained, &error),
            }
            look();
            tokio::time::sleep(if in_use.is_some() { EVERY } else { Duration::from_secs(1) }).await;
        }
    }

    fn exchange(&self, [chain, key]: &[Zeroizing<Vec<u8>>; 2]) -> Result<()> {
        self.serving.exchange(chain, key)
    }

    fn read(&self) -> Result<[Zeroizing<Vec<u8>>; 2]> {
        let read = |name: &str| {
            let path = self.directory.join(name);
            let unreadable = |error: std::io::Error| {
                Error::new(Code::ConfigInvalid, format!("{} cannot be read ({error})", path.display()))
            };
            if std::fs::metadata(&path).map_err(unreadable)?.len() > LARGEST {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    format!("{} is larger than 256 KiB", path.display()),
                ));
            }
            std::fs::read(&path).map(Zeroizing::new).map_err(unreadable)
        };
        Ok([read("tls.crt")?, read("tls.key")?])
    }
}

fn complain(complained: &mut bool, error: &Error) {
    if !*complained {
        tracing::warn!(%error, "no new certificate; trying again");
    }
    *complained = true;
}
