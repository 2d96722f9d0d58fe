//! What is remembered of each volume across restarts: where it is, whose, and how it was declared. Never a value, never
//! a token.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use keyward_core::{Code, Error, Result, VersionInfo};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::{Errno, retry_on_intr};
use serde::{Deserialize, Serialize};

use crate::mounts::Place;
use crate::plan::Basis;
use crate::request::Pod;

/// The directory with one file for each volume.
#[derive(Clone)]
pub(crate) struct State(Arc<OwnedFd>);

/// One volume.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Format of this record.
    format: u32,
    pub(crate) volume: String,
    pub(crate) target: String,
    pub(crate) pod: Pod,
    pub(crate) basis: Basis,
    pub(crate) grpc: bool,
    /// The versions that a history was last made of, by the object's identifier.
    pub(crate) histories: BTreeMap<String, Vec<Known>>,
}

/// One line of a version listing.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Known {
    version: String,
    enabled: bool,
    /// Seconds of Unix time.
    created: Option<u64>,
}

const FORMAT: u32 = 1;
/// A class has at most 1.5 MiB in the cluster's store; JSON may double that.
const LARGEST: usize = 4 << 20;
/// A half written file, which the next start removes.
const UNFINISHED: &str = ".new-";

impl Record {
    pub(crate) fn new(volume: String, target: String, pod: Pod, basis: Basis, grpc: bool) -> Self {
        Self { format: FORMAT, volume, target, pod, basis, grpc, histories: BTreeMap::new() }
    }

    /// The place of the volume, checked as if kubelet had named it.
    pub(crate) fn place(&self) -> Result<Place> {
        Place::new(&self.pod.uid, &self.volume)
    }
}

impl Known {
    pub(crate) fn of(info: &VersionInfo) -> Self {
        Self {
            version: info.version.to_string(),
            enabled: info.enabled,
            created: info.created.map(|created| created.as_secs()),
        }
    }

    pub(crate) fn info(&self) -> Option<VersionInfo> {
        Some(VersionInfo {
            version: keyward_core::Version::parse(&self.version).ok()?,
            enabled: self.enabled,
            created: self.created.map(std::time::Duration::from_secs),
            updated: None,
        })
    }
}

impl State {
    pub(crate) fn new(directory: OwnedFd) -> Self {
        Self(Arc::new(directory))
    }

    /// Writes a record, whole or not at all, once `charge` has agreed to its size in bytes.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` or `KW_NO_SPACE`.
    pub(crate) fn save(
        &self,
        volume_id: &str,
        record: &Record,
        charge: impl FnOnce(usize) -> Result<()>,
    ) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(|error| {
            Error::new(Code::Internal, "a volume's record cannot be written down").detail(error)
        })?;
        charge(bytes.len())?;
        let unfinished = format!("{UNFINISHED}{volume_id}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = retry_on_intr(|| openat(&self.0, &unfinished, flags, Mode::from_raw_mode(0o600)))
            .and_then(|file| write_all(&file, &bytes))
            .and_then(|()| retry_on_intr(|| renameat(&self.0, &unfinished, &self.0, volume_id)));
        written.map_err(|errno| {
            // Best effort: the next start removes it too.
            let _ = unlinkat(&self.0, &unfinished, AtFlags::empty());
            failed("write down", volume_id, errno)
        })
    }

    /// Forgets a volume; one that is not known is forgotten already.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM`.
    pub(crate) fn forget(&self, volume_id: &str) -> Result<()> {
        match retry_on_intr(|| unlinkat(&self.0, volume_id, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("forget", volume_id, errno)),
        }
    }

    /// Every record, by volume id. What cannot be read is reported, removed and left out: kubelet's next call brings
    /// the volume back.
    ///
    /// # Errors
    /// `KW_FILE_SYSTEM` when the directory cannot be listed.
    pub(crate) fn load(&self) -> Result<Vec<(String, Record)>> {
        let names = self.names().map_err(|errno| failed("list", "the volumes", errno))?;
        let mut records = Vec::new();
        for name in names {
            if name.starts_with(UNFINISHED) {
                self.forget(&name)?;
                continue;
            }
            match self.read(&name) {
                Ok(record) => records.push((name, record)),
                Err(error) => {
                    tracing::warn!(volume = name, %error, "a volume's record is damaged and is removed");
                    self.forget(&name)?;
                }
            }
        }
        Ok(records)
    }

    fn names(&self) -> rustix::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&*self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Record> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = retry_on_intr(|| openat(&self.0, name, flags, Mode::empty()));
        let bytes = file
            .and_then(|file| read_at_most(&file, LARGEST))
            .map_err(|errno| failed("read", name, errno))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(Code::FileSystem, format!("the record of {name} is not one of ours")).detail(error)
        })?;
        if record.format != FORMAT {
            return Err(Error::new(
                Code::FileSystem,
                format!("the record of {name} was written by another version"),
            ));
        }
        Ok(record)
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(file, bytes))? {
            0 => return Err(Errno::IO),
            written => bytes = bytes.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

fn read_at_most(file: &OwnedFd, limit: usize) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = vec![0; limit.saturating_add(1)];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match retry_on_intr(|| rustix::io::read(file, &mut *room))? {
            0 => break,
            count => filled = filled.saturating_add(count),
        }
    }
    bytes.truncate(filled);
    if filled > limit { Err(Errno::FBIG) } else { Ok(bytes) }
}

fn failed(what: &str, volume_id: &str, errno: Errno) -> Error {
    let code = if errno == Errno::NOSPC { Code::NoSpace } else { Code::FileSystem };
    Error::new(
        code,
        format!("cannot {what} {volume_id} in the state directory ({errno}); check `--state-dir`"),
    )
}

#[cfg(test)]
mod tests;
