//! The mount table, as the kernel has it now. It is read again only after the kernel says that it changed.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Result;

use super::tmpfs::errno;

/// The source names of our mounts: volumes, and what only the driver sees.
pub(super) const VOLUME: &str = "keyward";
pub(super) const STATE: &str = "keyward-state";
pub(super) const WAITING: &str = "keyward-waiting";

/// A tmpfs of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) device: (u32, u32),
    pub(super) path: PathBuf,
    pub(super) source: String,
    pub(super) noswap: bool,
    /// Mounted in the other namespaces of a group as well: on the node, if that is one of them.
    pub(super) shared: bool,
}

pub(super) struct Table {
    file: File,
    /// tmpfs whose source is one of ours.
    rows: Vec<Row>,
    read: bool,
}

impl Table {
    /// The table of the mount namespace that the process is in now.
    pub(super) fn open() -> std::io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/mountinfo")?, rows: Vec::new(), read: false })
    }

    /// Our mounts, as they are now.
    pub(super) fn rows(&mut self) -> Result<&[Row]> {
        if !self.read || self.changed()? {
            // A change while it is read shows at the next poll.
            self.read = false;
            self.rows = parse(&self.text()?);
            self.read = true;
        }
        Ok(&self.rows)
    }

    /// The path of any mount, ours or not.
    pub(super) fn path_of(&self, id: u64) -> Result<Option<PathBuf>> {
        Ok(line_of(&self.text()?, id).and_then(|line| field(line, 4).map(unescape)))
    }

    /// Whether what is mounted on this mount is mounted in the other mount namespaces of its group as well. False for
    /// one that is not there.
    pub(super) fn is_shared(&self, id: u64) -> Result<bool> {
        Ok(line_of(&self.text()?, id).is_some_and(is_shared))
    }

    /// The kernel reports each change of the table once, as an exceptional condition.
    fn changed(&self) -> Result<bool> {
        let mut wanted = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::PRI)];
        poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(wanted[0].revents().intersects(PollFlags::PRI | PollFlags::ERR))
    }

    fn text(&self) -> Result<Vec<u8>> {
        let (mut text, mut filled) = (vec![0; 64 * 1024], 0);
        loop {
            if filled == text.len() {
                text.resize(text.len().saturating_mul(2), 0);
            }
            let room = text.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(room, filled as u64).map_err(errno)? {
                0 => break,
                count => filled = filled.saturating_add(count),
            }
        }
        text.truncate(filled);
        Ok(text)
    }
}

fn parse(text: &[u8]) -> Vec<Row> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `id parent major:minor root path options optional… - type source super-options`, as proc_pid_mountinfo(5) has it.
fn parse_line(line: &[u8]) -> Option<Row> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let mut after = fields.iter().skip_while(|field| **field != b"-").skip(1);
    let (kind, source, options) = (after.next()?, after.next()?, after.next()?);
    let source =
        std::str::from_utf8(source).ok().filter(|source| [VOLUME, STATE, WAITING].contains(source))?;
    if *kind != b"tmpfs" || *fields.get(3)? != b"/" {
        return None;
    }
    let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    Some(Row {
        id: number(fields.first()?)?,
        device: (major.parse().ok()?, minor.parse().ok()?),
        path: unescape(fields.get(4)?),
        source: source.to_owned(),
        noswap: options.split(|byte| *byte == b',').any(|option| option == b"noswap"),
        shared: is_shared(line),
    })
}

fn line_of(text: &[u8], id: u64) -> Option<&[u8]> {
    text.split(|byte| *byte == b'\n').find(|line| field(line, 0).and_then(number) == Some(id))
}

fn field(line: &[u8], index: usize) -> Option<&[u8]> {
    line.split(|byte| *byte == b' ').nth(index)
}

/// Whether the optional fields, from the seventh up to a hyphen, have `shared:` and a group. A mount that only receives
/// has `master:`.
fn is_shared(line: &[u8]) -> bool {
    let optional = line.split(|byte| *byte == b' ').skip(6).take_while(|field| *field != b"-");
    optional.filter_map(|field| field.strip_prefix(b"shared:")).any(|group| number(group).is_some())
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.split_at_checked(3).filter(|_| *first == b'\\').and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 8).ok()?, after))
        });
        match escaped {
            Some((byte, after)) => {
                path.push(byte);
                rest = after;
            }
            None => {
                path.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tmpfs_of_ours_are_rows_with_their_paths_unescaped() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            42 27 0:39 / /run/a\\040b rw,nosuid shared:3 master:1 - tmpfs keyward rw,size=1024k,noswap\n\
            43 27 0:40 / /run/c ro - tmpfs keyward ro\n\
            44 27 0:40 /sub /run/d ro - tmpfs keyward ro\n\
            45 27 0:41 / /run/e ro - tmpfs tmpfs ro\n\
            46 27 0:42 / /run/f ro - ext4 keyward ro\n\n";
        let rows = parse(text);
        let found: Vec<_> = rows.iter().map(|row| (row.id, row.path.to_str().unwrap(), row.noswap)).collect();
        assert_eq!(found, [(42, "/run/a b", true), (43, "/run/c", false)]);
        assert_eq!(rows[0].device, (0, 39));
        assert!(rows[0].shared && !rows[1].shared);
    }

    #[test]
    fn only_the_optional_fields_say_that_a_mount_is_shared() {
        let line = |optional: &str| {
            format!("42 27 0:39 / /shared:9 rw,shared:8 {optional}- tmpfs shared:7 rw,shared:6").into_bytes()
        };
        for (optional, shared) in [
            ("shared:3 ", true),
            ("shared:3 master:1 ", true),
            ("unbindable shared:12 ", true),
            ("", false),
            ("master:3 ", false),
            ("master:3 propagate_from:2 ", false),
            ("unbindable ", false),
            ("shared: ", false),
        ] {
            assert_eq!(is_shared(&line(optional)), shared, "{optional}");
        }
        let text = [line("shared:3 "), b"\n43 27 0:40 / /x rw - tmpfs x rw\n".to_vec()].concat();
        assert!(line_of(&text, 42).is_some_and(is_shared) && !line_of(&text, 43).is_some_and(is_shared));
        assert_eq!(line_of(&text, 4), None);
    }

    #[test]
    fn the_table_of_this_process_can_be_read() {
        let mut table = Table::open().unwrap();
        table.rows().unwrap();
        table.rows().unwrap();
        let root = rustix::fs::statx(
            rustix::fs::CWD,
            "/",
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::MNT_ID,
        );
        assert_eq!(table.path_of(root.unwrap().stx_mnt_id).unwrap(), Some(PathBuf::from("/")));
    }
}
