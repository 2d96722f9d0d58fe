use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const PAGE: u64 = 4096;

/// How often a value occurs in a process's own memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// In locked mappings: the arena.
    pub(super) locked: usize,
    /// In other anonymous mappings: heap and stacks, where the SDK, TLS and HTTP/2 have their buffers.
    pub(super) elsewhere: usize,
}

/// Counts a value; `None` when this user may not read that memory.
pub(super) fn count(pid: i32, needle: &[u8]) -> Option<Count> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let pages = File::open(format!("/proc/{pid}/pagemap")).ok()?;
    let maps = read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut count = Count::default();
    let mut range = None;
    for line in maps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let Some((from, to)) = range.take() else { continue };
            let found = occurrences(&memory, &pages, from, to, needle);
            if flags.split_whitespace().any(|flag| flag == "lo") {
                count.locked += found;
            } else {
                count.elsewhere += found;
            }
        } else if let Some(found) = writable_anonymous(line) {
            range = Some(found);
        }
    }
    Some(count)
}

pub(super) fn in_file(path: &Path, needle: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|text| text.windows(needle.len()).any(|window| window == needle))
}

/// The range of a mapping's first line, when it can be written to and no file is behind it.
fn writable_anonymous(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let range = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    let writable = fields.next()?.starts_with("rw");
    let inode = fields.nth(2)?;
    (writable && inode == "0").then_some(range)
}

/// Only pages that are there are read: most of what is reserved was never touched.
fn occurrences(memory: &File, pages: &File, from: u64, to: u64, needle: &[u8]) -> usize {
    let mut entries = vec![0; ((to - from) / PAGE * 8) as usize];
    if pages.read_exact_at(&mut entries, from / PAGE * 8).is_err() {
        return 0;
    }
    let present: Vec<bool> = entries.chunks_exact(8).map(|entry| entry[7] & 0xc0 != 0).collect();
    let (mut found, mut at) = (0, 0);
    for run in present.chunk_by(|a, b| a == b) {
        if run[0] {
            let mut bytes = vec![0; run.len() * PAGE as usize];
            if memory.read_exact_at(&mut bytes, from + at * PAGE).is_ok() {
                found += bytes.windows(needle.len()).filter(|window| *window == needle).count();
            }
        }
        at += run.len() as u64;
    }
    found
}
