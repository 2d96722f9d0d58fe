use std::fs::read_to_string;

use rustix::mm::Advice;

/// Hands the pages of start-up code and its constants back: argument and configuration parsing, TLS set-up and the like
/// run once, but stay mapped for the life of the process. Only private, file-backed ranges of this very program are given
/// up that cannot be written and hold no page of their own; what is needed again is mapped again from the page cache.
///
/// Returns the bytes that were covered, 0 when the process may not read its own maps.
pub fn hand_back_code() -> usize {
    let (Ok(maps), Ok(program)) = (read_to_string("/proc/self/smaps"), std::fs::read_link("/proc/self/exe"))
    else {
        return 0;
    };
    ranges(&maps, &program.to_string_lossy()).into_iter().map(|(start, end)| give_up(start, end)).sum()
}

/// Hands pages of the heap back that hold nothing. mimalloc does so by itself only after some ten thousand further
/// allocations, so a process that is quiet after a burst would keep them. To be called on the thread that did the work,
/// now and then: it walks the heap.
#[cfg(feature = "mimalloc")]
pub fn hand_back_heap() {
    // SAFETY: the call takes no pointer, touches nothing but mimalloc's own books and free pages, and may be made on any
    // thread at any time, also when mimalloc is not the global allocator.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// The ranges of `program` in the text of `/proc/self/smaps` that are read-only and have no anonymous page: relocated
/// constants are read-only too, but were written once, and must stay.
fn ranges(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in maps.lines() {
        if let Some(range) = header(line) {
            current = range.filter(|(_, path)| *path == program).map(|(range, _)| range);
        } else if line.strip_prefix("Anonymous:").map(str::trim) == Some("0 kB") {
            found.extend(current.take());
        }
    }
    found
}

/// A header line of smaps: `None` when it is none, and `Some(None)` when the range is not read-only or not private.
fn header(line: &str) -> Option<Option<((usize, usize), &str)>> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let range = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let permissions = fields.next()?;
    let path = fields.nth(3).unwrap_or_default().trim_start();
    Some(matches!(permissions, "r-xp" | "r--p").then_some((range, path)))
}

fn give_up(start: usize, end: usize) -> usize {
    // SAFETY: a private, file-backed mapping that cannot be written holds no data of ours: every page that is given up
    // comes back from the file, byte for byte, when it is executed or read again.
    #[allow(unsafe_code)]
    let done =
        unsafe { rustix::mm::madvise(start as *mut _, end.saturating_sub(start), Advice::LinuxDontNeed) };
    if done.is_ok() { end.saturating_sub(start) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d000000000-55d000100000 r--p 00000000 08:01 123                        /usr/bin/keyward-sidecar
Rss:                 100 kB
Anonymous:             0 kB
55d000100000-55d000200000 r-xp 00100000 08:01 123                        /usr/bin/keyward-sidecar
Anonymous:             0 kB
55d000200000-55d000300000 r--p 00200000 08:01 123                        /usr/bin/keyward-sidecar
Anonymous:           328 kB
55d000300000-55d000400000 rw-p 00300000 08:01 123                        /usr/bin/keyward-sidecar
Anonymous:             0 kB
55d000400000-55d000500000 r-xp 00000000 08:01 124                        /lib/ld-musl.so
Anonymous:             0 kB
7f0000000000-7f0000100000 r--p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn only_untouched_read_only_ranges_of_this_program_are_given_up() {
        let found = ranges(MAPS, "/usr/bin/keyward-sidecar");
        assert_eq!(found, [(0x55d0_0000_0000, 0x55d0_0010_0000), (0x55d0_0010_0000, 0x55d0_0020_0000)]);
    }

    #[test]
    fn the_program_goes_on_running_without_what_it_gave_up() {
        assert!(hand_back_code() > 0);
        assert_eq!((0..1000u64).map(|n| n * n).sum::<u64>(), 332_833_500);
        assert_eq!(format!("{:?}", [1.5, 2.5]), "[1.5, 2.5]");
    }
}
