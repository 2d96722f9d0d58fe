use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use keyward_core::{Code, Error, Result, SecretBytes};
use zeroize::Zeroizing;

/// No token, secret, certificate or CA bundle of an identity is larger, bytes.
pub(crate) const FILE_LIMIT: usize = 64 * 1024;

/// Reads a small file without its surrounding white space.
///
/// # Errors
/// `KW_IDENTITY_FILE`, which names the path, `what` it should hold and the `setting` that points to it.
pub(crate) async fn read_trimmed(
    path: &Path,
    what: &'static str,
    setting: &'static str,
) -> Result<SecretBytes> {
    let bytes = read(path, what, setting).await?;
    let trimmed = bytes.expose().trim_ascii();
    if trimmed.is_empty() {
        return Err(Error::new(
            Code::IdentityFile,
            format!("{} is empty; {what} is expected there ({setting})", path.display()),
        ));
    }
    Ok(if trimmed.len() == bytes.len() { bytes } else { SecretBytes::copy_from(trimmed) })
}

/// As [`read_trimmed`], byte for byte.
pub(crate) async fn read(path: &Path, what: &'static str, setting: &'static str) -> Result<SecretBytes> {
    let path: PathBuf = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_now(&path, what, setting));
    reading.await.map_err(|_| Error::new(Code::Internal, "reading an identity file was interrupted"))?
}

fn read_now(path: &Path, what: &str, setting: &str) -> Result<SecretBytes> {
    let failed = |why: &str| {
        let path = path.display();
        Error::new(Code::IdentityFile, format!("cannot read {what} from {path} ({setting}): {why}"))
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_LIMIT + 1));
    let read = File::open(path)
        .and_then(|file| file.take((FILE_LIMIT as u64).saturating_add(1)).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() > FILE_LIMIT => Err(failed("it is larger than 64 KiB")),
        Ok(_) => Ok(SecretBytes::copy_from(&bytes)),
        Err(error) => Err(failed(match error.kind() {
            ErrorKind::NotFound => "there is no such file",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::IsADirectory => "it is a directory",
            _ => "the read failed",
        })
        .detail(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn white_space_around_the_content_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "\n  eyJ.a.b \r\n").unwrap();
        let content = read_trimmed(&path, "the token", "tokenFile").await.ok().unwrap();
        assert!(content.expose() == b"eyJ.a.b");
    }

    #[tokio::test]
    async fn a_missing_empty_or_huge_file_is_an_error_that_names_path_and_setting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (content, why) in [
            (None, "no such file"),
            (Some(vec![b' '; 9]), "is empty"),
            (Some(vec![b'a'; FILE_LIMIT + 1]), "64 KiB"),
        ] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = read_trimmed(&path, "the token", "AZURE_FEDERATED_TOKEN_FILE").await.err().unwrap();
            let text = error.to_string();
            assert_eq!(error.code(), Code::IdentityFile);
            assert!(
                text.contains(why)
                    && text.contains("AZURE_FEDERATED_TOKEN_FILE")
                    && text.contains(path.to_str().unwrap()),
                "{text}"
            );
        }
    }
}
