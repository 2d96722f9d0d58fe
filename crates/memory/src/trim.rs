use std::fs::read_to_string;

use rustix::mm::Advice;

/// Hands the pages of start-up code back: argument and configuration parsing, TLS set-up and the like run once, but stay
/// mapped for the life of the process. Only executable, private, file-backed ranges of this very program are given up;
/// what is needed again is mapped again from the page cache.
///
/// Returns the bytes that were covered, 0 when the process may not read its own maps.
pub fn hand_back_code() -> usize {
    let (Ok(maps), Ok(program)) = (read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe"))
    else {
        return 0;
    };
    maps.lines()
        .filter_map(|line| code_range(line, &program.to_string_lossy()))
        .map(|(start, end)| give_up(start, end))
        .sum()
}

/// The range of a line of `/proc/self/maps` that is `r-xp` and belongs to `program`.
fn code_range(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.splitn(6, ' ');
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?.trim_start();
    if permissions != "r-xp" || path != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

fn give_up(start: usize, end: usize) -> usize {
    // SAFETY: a private, file-backed mapping that cannot be written holds no data of ours: every page that is given up
    // comes back from the file, byte for byte, when it is executed or read again.
    #[allow(unsafe_code)]
    let done = unsafe { rustix::mm::madvise(start as *mut _, end - start, Advice::LinuxDontNeed) };
    if done.is_ok() { end - start } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_this_program_is_given_up_and_it_goes_on_running() {
        let line = "55d0c0a00000-55d0c1300000 r-xp 00200000 08:01 123                        /usr/bin/keyward-sidecar";
        assert_eq!(code_range(line, "/usr/bin/keyward-sidecar"), Some((0x55d0_c0a0_0000, 0x55d0_c130_0000)));
        for other in [
            line.replace("r-xp", "r--p"),
            line.replace("r-xp", "rw-p"),
            line.replace("/usr/bin", "/lib"),
            String::new(),
        ] {
            assert_eq!(code_range(&other, "/usr/bin/keyward-sidecar"), None, "{other}");
        }
        assert!(hand_back_code() > 0);
        assert_eq!((0..1000u64).map(|n| n * n).sum::<u64>(), 332_833_500);
    }
}
