//! Opening the log's file: one writer at a time, half a last line cut off, and what stands in it named.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "places in a file that was just measured, and sizes of what was read of it"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use keyward_core::{Code, Error, Result};
use nix::fcntl::OFlag;

use super::note::Checkpoint;
use super::record::{Head, Line, MAX_LINE, Predecessor, hex, parse_line};

/// How much is read at a time while looking backwards.
const BLOCK: u64 = 64 * 1024;

/// A file that is ready to be appended to.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) predecessor: Option<Predecessor>,
    /// Bytes of half a line that were cut off.
    pub(super) discarded: u64,
}

/// Opens `path`, mode 0600 when it is new, and takes the lock that keeps a second writer out.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let failed = |what: &str, error: &io::Error| {
        Error::new(Code::AuditUnavailable, format!("the audit log {} {what}", path.display())).detail(error)
    };
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(|error| failed("cannot be opened; check the directory and its permissions", &error))?;
    file.try_lock().map_err(|_| {
        Error::new(
            Code::AuditUnavailable,
            format!("the audit log {} is being written by another process", path.display()),
        )
    })?;
    if !file.metadata().map_err(|error| failed("cannot be read", &error))?.is_file() {
        return Err(Error::new(
            Code::AuditUnavailable,
            format!("the audit log {} is not a file", path.display()),
        ));
    }
    inspect(&mut file)
        .map(|(predecessor, discarded)| Opened { file, predecessor, discarded })
        .map_err(|error| failed("cannot be read", &error))
}

fn inspect(file: &mut File) -> io::Result<(Option<Predecessor>, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    let end = find_back(file, length, b"\n")?.map_or(0, |at| at + 1);
    if end < length {
        file.set_len(end)?;
    }
    if end == 0 {
        return Ok((None, length));
    }
    let last = last_checkpoint(file, end)?;
    let start = last.as_ref().map_or(0, |(after, _)| *after);
    let (lines_after, sha256_after) = digest(file, start)?;
    let head = last.map(|(_, checkpoint)| Head::new(&checkpoint.origin, checkpoint.size, &checkpoint.root));
    Ok((Some(Predecessor { head, lines_after, sha256_after }), length - end))
}

/// The last checkpoint line before `end`, and where the line after it begins.
fn last_checkpoint(file: &mut File, end: u64) -> io::Result<Option<(u64, Checkpoint)>> {
    const MARK: &[u8] = b"{\"checkpoint\":";
    let mut before = end;
    while let Some(at) = find_back(file, before, MARK)? {
        // Only at the start of a line: the same text may stand inside a record.
        let mut previous = [b'\n'];
        if at > 0 {
            file.seek(SeekFrom::Start(at - 1))?;
            file.read_exact(&mut previous)?;
        }
        if previous == *b"\n" {
            file.seek(SeekFrom::Start(at))?;
            let mut line = Vec::new();
            BufReader::new(&*file).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
            let after = at + line.len() as u64;
            if let Some(text) = line.strip_suffix(b"\n")
                && let Ok(Line::Checkpoint(note)) = parse_line(text)
                && let Some((checkpoint, _)) = Checkpoint::parse(note.as_bytes())
            {
                return Ok(Some((after, checkpoint)));
            }
        }
        before = at;
    }
    Ok(None)
}

/// Counts and hashes the lines from `start` on.
fn digest(file: &mut File, start: u64) -> io::Result<(u64, String)> {
    file.seek(SeekFrom::Start(start))?;
    let mut context = Context::new(&SHA256);
    let mut lines = 0;
    let mut block = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok((lines, hex(context.finish().as_ref())));
        }
        let read = block.get(..count).unwrap_or_default();
        context.update(read);
        lines += read.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

/// Where `needle` begins for the last time among the bytes before `end`.
fn find_back(file: &mut File, end: u64, needle: &[u8]) -> io::Result<Option<u64>> {
    let overlap = needle.len() as u64 - 1;
    let mut high = end;
    loop {
        let low = high.saturating_sub(BLOCK);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(low))?;
        file.take((high + overlap).min(end) - low).read_to_end(&mut block)?;
        if let Some(at) = block.windows(needle.len()).rposition(|window| window == needle) {
            return Ok(Some(low + at as u64));
        }
        if low == 0 {
            return Ok(None);
        }
        high = low;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_writer_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let first = open(&path).unwrap();
        assert_eq!(open(&path).err().unwrap().code(), Code::AuditUnavailable);
        drop(first);
        assert!(open(&path).is_ok());
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("audit.log");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
        assert_eq!(open(&link).err().unwrap().code(), Code::AuditUnavailable);
    }

    #[test]
    fn half_a_last_line_is_cut_off_and_measured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        std::fs::write(&path, "one\ntwo\nhal").unwrap();
        let opened = open(&path).unwrap();
        assert_eq!(opened.discarded, 3);
        assert_eq!(opened.predecessor.unwrap().lines_after, 2);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    proptest! {
        #[test]
        fn searching_backwards_finds_the_last_place(filler in 0usize..200_000, at: prop::sample::Index, more in 0usize..100_000) {
            let mut bytes = vec![b'.'; filler + 6 + more];
            let last = at.index(filler + 1);
            bytes[last..last + 6].copy_from_slice(b"needle");
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            prop_assert_eq!(find_back(&mut file, bytes.len() as u64, b"needle").unwrap(), Some(last as u64));
            prop_assert_eq!(find_back(&mut file, last as u64 + 5, b"needle").unwrap(), None);
        }
    }
}
