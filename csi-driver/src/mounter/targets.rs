//! The volumes' targets below kubelet's `pods` directory. Whatever is there is looked at each time and remembered never.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, Statx, StatxAttributes, StatxFlags,
    fstatvfs, makedev, mkdirat, openat, openat2, statx, unlinkat,
};
use rustix::io::{Errno, Result};
use rustix::mount::{UnmountFlags, unmount};

use super::Settings;
use super::table::{Row, Table, VOLUME};
use super::tmpfs::{grow, writable_view};
use crate::protocol::{Found, Place, Reason, Volume};

const TARGET: &str = "mount";
/// Kubelet's record of a volume has a few hundred bytes.
const LARGEST_RECORD: u64 = 64 << 10;
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Why nothing was done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Because(Reason),
    Call(Errno),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::Call(errno)
    }
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::Because(reason)
    }
}

type Answer<T> = std::result::Result<T, Refused>;

pub(super) struct Targets {
    pods: OwnedFd,
    /// Its path as the mount table writes it.
    path: PathBuf,
    driver: String,
    table: Table,
}

impl Targets {
    pub(super) fn open(settings: &Settings, table: Table) -> Result<Self> {
        let pods = settings.kubelet_dir.join("pods");
        let pods = openat(CWD, pods, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{}", pods.as_raw_fd()), Vec::new())?;
        let path = PathBuf::from(std::ffi::OsString::from(
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path.as_bytes()),
        ));
        Ok(Self { pods, path, driver: settings.driver_name.clone(), table })
    }

    pub(super) fn inspect(&mut self, place: &Place) -> Answer<Found> {
        let Some(volume) = self.volume(place)? else {
            let gone = matches!(self.beneath(Path::new(place.pod_uid())), Err(Errno::NOENT));
            return Ok(if gone { Found::PodGone } else { Found::Absent });
        };
        self.found(&volume)
    }

    /// Opens the target for a mount on it, and makes it if it is missing. The second value tells whether it was made.
    pub(super) fn make(&mut self, place: &Place) -> Answer<(OwnedFd, bool)> {
        let volume = self.volume(place)?.ok_or(Reason::NoVolume)?;
        if other_driver(&volume, &self.driver) {
            return Err(Reason::OtherDriver.into());
        }
        let made = match mkdirat(&volume, TARGET, Mode::from_raw_mode(0o750)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        let target = open_target(&volume)?;
        if is_mount(&look(&target, "")?) {
            return Err(Reason::Taken.into());
        }
        Ok((target, made))
    }

    /// Takes a target away again on which nothing could be mounted.
    pub(super) fn unmake(&mut self, place: &Place) {
        if let Ok(Some(volume)) = self.volume(place) {
            let _ = unlinkat(volume, TARGET, AtFlags::REMOVEDIR);
        }
    }

    pub(super) fn reopen(&mut self, place: &Place) -> Answer<OwnedFd> {
        let (volume, _) = self.ours(place)?;
        Ok(writable_view(&volume, TARGET)?)
    }

    pub(super) fn resize(&mut self, place: &Place, bytes: u64) -> Answer<()> {
        let (volume, _) = self.ours(place)?;
        Ok(grow(open_target(&volume)?, bytes)?)
    }

    /// Unmounts all mounts of ours that are stacked at a target, and removes it.
    pub(super) fn unmount(&mut self, place: &Place) -> Answer<bool> {
        let Some(volume) = self.volume(place)? else { return Ok(false) };
        let path = format!("/proc/self/fd/{}/{TARGET}", volume.as_raw_fd());
        let mut something = false;
        loop {
            match self.found(&volume)? {
                Found::Ours(_) => match unmount(&path, UnmountFlags::NOFOLLOW) {
                    Err(Errno::BUSY) => unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?,
                    done => done?,
                },
                Found::Foreign => return Err(Reason::Foreign.into()),
                Found::NotMounted => match unlinkat(&volume, TARGET, AtFlags::REMOVEDIR) {
                    Ok(()) => return Ok(true),
                    Err(Errno::NOENT) => return Ok(something),
                    Err(errno) => return Err(errno.into()),
                },
                Found::Absent | Found::PodGone => return Ok(something),
            }
            something = true;
        }
    }

    /// The places of all volumes that are mounted, sorted, each once.
    pub(super) fn list(&mut self) -> Result<Vec<Place>> {
        let Self { path, table, .. } = self;
        let below = |row: &Row| Place::from_below_pods(row.path.strip_prefix(&*path).ok()?);
        let mut places: Vec<_> =
            table.rows()?.iter().filter(|row| row.source == VOLUME).filter_map(below).collect();
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }

    /// Whether a mounted volume has this device.
    pub(super) fn has_device(&mut self, device: u64) -> Result<bool> {
        let volumes = self.table.rows()?.iter().filter(|row| row.source == VOLUME);
        Ok(volumes.map(|row| makedev(row.device.0, row.device.1)).any(|known| known == device))
    }

    /// The directory that kubelet makes for a volume, in which the target is.
    fn volume(&self, place: &Place) -> Answer<Option<OwnedFd>> {
        let path = Path::new(place.pod_uid()).join("volumes/kubernetes.io~csi").join(place.volume());
        match self.beneath(&path) {
            Ok(volume) => Ok(Some(volume)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Err(Reason::NotDirectory.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn beneath(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.pods, path, flags, Mode::empty(), RESOLVE)
    }

    fn ours(&mut self, place: &Place) -> Answer<(OwnedFd, Volume)> {
        let volume = self.volume(place)?.ok_or(Reason::NotMounted)?;
        match self.found(&volume)? {
            Found::Ours(found) => Ok((volume, found)),
            Found::Foreign => Err(Reason::Foreign.into()),
            _ => Err(Reason::NotMounted.into()),
        }
    }

    /// What is at the target in the directory of a volume.
    fn found(&mut self, volume: &OwnedFd) -> Answer<Found> {
        let target = match open_target(volume) {
            Err(Refused::Call(Errno::NOENT)) => return Ok(Found::Absent),
            target => target?,
        };
        let known = look(&target, "")?;
        if !is_mount(&known) {
            return Ok(Found::NotMounted);
        }
        let rows = self.table.rows()?;
        let Some(row) = rows.iter().find(|row| row.id == known.stx_mnt_id && row.source == VOLUME) else {
            return Ok(Found::Foreign);
        };
        let size = fstatvfs(&target)?;
        Ok(Found::Ours(Volume {
            device: makedev(known.stx_dev_major, known.stx_dev_minor),
            inode: known.stx_ino,
            read_only: size.f_flag.contains(StatVfsMountFlags::RDONLY),
            bytes: size.f_blocks.saturating_mul(size.f_frsize),
            noswap: row.noswap,
        }))
    }
}

/// Whether kubelet's own record beside the volume names another driver: what is not ours to serve must not be served,
/// whoever asks. Kubelet writes the record before it calls.
fn other_driver(volume: &OwnedFd, own: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Record {
        #[serde(rename = "driverName")]
        driver: Option<String>,
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(file) = openat2(volume, "vol_data.json", flags, Mode::empty(), RESOLVE) else { return false };
    let mut text = Vec::new();
    let read = std::fs::File::from(file).take(LARGEST_RECORD).read_to_end(&mut text);
    let record = read.ok().and_then(|_| serde_json::from_slice::<Record>(&text).ok());
    record.and_then(|record| record.driver).is_some_and(|driver| driver != own)
}

fn open_target(volume: &OwnedFd) -> Answer<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(volume, TARGET, flags, Mode::empty(), RESOLVE) {
        Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Err(Reason::NotDirectory.into()),
        target => Ok(target?),
    }
}

fn look(file: impl AsFd, name: &str) -> Result<Statx> {
    let wanted = StatxFlags::MNT_ID | StatxFlags::INO | StatxFlags::TYPE;
    statx(file, name, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, wanted)
}

fn is_mount(known: &Statx) -> bool {
    known.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}
