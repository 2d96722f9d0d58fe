//! The volumes' targets below kubelet's `pods` directory. Whatever is there is looked at each time and remembered never.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, Statx, StatxAttributes,
    StatxFlags, fstatvfs, makedev, mkdirat, openat, openat2, statx, unlinkat,
};
use rustix::io::{Errno, Result};
use rustix::mount::{UnmountFlags, unmount};

use super::Settings;
use super::table::{Row, Table, VOLUME};
use super::tmpfs::{grow, writable_view};
use crate::protocol::{Found, Place, Reason, Volume};

const TARGET: &str = "mount";
/// Where kubelet writes down whose a volume is.
const RECORD: &str = "vol_data.json";
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
    /// Kubelet's `pods` directory as it is named, perhaps by way of links.
    named: PathBuf,
    pods: Pods,
    driver: String,
    table: Table,
}

/// The directory that a name led to.
struct Pods {
    directory: OwnedFd,
    /// Its path as the mount table writes it.
    path: PathBuf,
    identity: Identity,
}

/// A directory on a mount: mount, device, inode.
type Identity = (u64, (u32, u32), u64);

impl Pods {
    fn open(named: &Path) -> Result<Self> {
        let directory =
            openat(CWD, named, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let path = rustix::fs::readlinkat(CWD, link, Vec::new())?;
        let path = PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        let identity = identity(&look(&directory, "")?);
        Ok(Self { directory, path, identity })
    }
}

impl Targets {
    pub(super) fn open(settings: &Settings, table: Table) -> Result<Self> {
        let named = settings.kubelet_dir.join("pods");
        let pods = Pods::open(&named)?;
        Ok(Self { named, pods, driver: settings.driver_name.clone(), table })
    }

    /// Whether the host sees what is mounted directly in kubelet's directory.
    pub(super) fn is_shared(&self) -> Result<bool> {
        self.table.is_shared(self.pods.identity.0)
    }

    /// Goes where kubelet's directory is now: something may have been mounted on it, or a link may lead elsewhere.
    fn follow(&mut self) {
        let wanted = StatxFlags::MNT_ID | StatxFlags::INO | StatxFlags::TYPE;
        let now = statx(CWD, &self.named, AtFlags::empty(), wanted);
        if now.is_ok_and(|now| identity(&now) == self.pods.identity) {
            return;
        }
        // What is gone stays as it was, for what is still mounted there.
        if let Ok(pods) = Pods::open(&self.named) {
            self.pods = pods;
        }
    }

    pub(super) fn inspect(&mut self, place: &Place) -> Answer<Found> {
        self.follow();
        let Some(volume) = self.volume(place)? else {
            let gone = matches!(self.beneath(Path::new(place.pod_uid())), Err(Errno::NOENT));
            return Ok(if gone { Found::PodGone } else { Found::Absent });
        };
        self.found(&volume)
    }

    /// Opens the target for a mount on it, and makes it if it is missing. The second value tells whether it was made.
    pub(super) fn make(&mut self, place: &Place) -> Answer<(OwnedFd, bool)> {
        self.follow();
        let volume = self.volume(place)?.ok_or(Reason::NoVolume)?;
        made_for(&volume, &self.driver)?;
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

    /// Makes sure that the host sees what was mounted at the target a moment ago, and so the pod. Only the kernel's own
    /// table tells: a mount is shared exactly if the one below it was shared at that moment. It is taken away otherwise.
    pub(super) fn check_seen(&mut self, place: &Place) -> Answer<()> {
        let seen = self.is_seen(place);
        if matches!(seen, Ok(true)) {
            return Ok(());
        }
        // Also when the question failed: an error says that nothing is mounted.
        self.unmount(place)?;
        Err(seen.err().unwrap_or(Reason::NotShared.into()))
    }

    fn is_seen(&mut self, place: &Place) -> Answer<bool> {
        let volume = self.volume(place)?.ok_or(Reason::NoVolume)?;
        let mount = look(&open_target(&volume)?, "")?.stx_mnt_id;
        Ok(self.table.rows()?.iter().any(|row| row.id == mount && row.shared))
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
        self.follow();
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
        self.follow();
        let Self { pods, table, .. } = self;
        let below = |row: &Row| Place::from_below_pods(row.path.strip_prefix(&pods.path).ok()?);
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
        openat2(&self.pods.directory, path, flags, Mode::empty(), RESOLVE)
    }

    fn ours(&mut self, place: &Place) -> Answer<(OwnedFd, Volume)> {
        self.follow();
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

/// Makes sure that kubelet's own record beside the volume names this driver: what was made for another, or for nobody
/// knows whom, must not be served, whoever asks. Kubelet writes the record before it calls.
fn made_for(volume: &OwnedFd, own: &str) -> Answer<()> {
    #[derive(serde::Deserialize)]
    struct Record {
        #[serde(rename = "driverName")]
        driver: String,
    }
    // A FIFO would make the mounter wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(volume, RECORD, flags, Mode::empty(), RESOLVE).map_err(|_| Reason::NoRecord)?;
    let stat = rustix::fs::fstat(&file)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Reason::NoRecord.into());
    }
    let mut text = Vec::new();
    let read = std::fs::File::from(file).take(LARGEST_RECORD).read_to_end(&mut text);
    let record = read.ok().and_then(|_| serde_json::from_slice::<Record>(&text).ok());
    match record {
        Some(record) if record.driver == own => Ok(()),
        Some(_) => Err(Reason::OtherDriver.into()),
        None => Err(Reason::NoRecord.into()),
    }
}

fn open_target(volume: &OwnedFd) -> Answer<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(volume, TARGET, flags, Mode::empty(), RESOLVE) {
        Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Err(Reason::NotDirectory.into()),
        target => Ok(target?),
    }
}

fn identity(known: &Statx) -> Identity {
    (known.stx_mnt_id, (known.stx_dev_major, known.stx_dev_minor), known.stx_ino)
}

fn look(file: impl AsFd, name: &str) -> Result<Statx> {
    let wanted = StatxFlags::MNT_ID | StatxFlags::INO | StatxFlags::TYPE;
    statx(file, name, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, wanted)
}

fn is_mount(known: &Statx) -> bool {
    known.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}
