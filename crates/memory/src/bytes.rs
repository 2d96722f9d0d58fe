use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use zeroize::Zeroize;

use crate::arena::{LOCKED, OVERFLOW, arena};

/// An immutable copy of secret bytes in the locked arena, or on the heap when the arena is full. Wiped on drop.
///
/// Deliberately without `Debug`, `Clone`, `PartialEq` and `Serialize`.
pub struct LockedBytes {
    place: Place,
}

enum Place {
    Arena { start: NonNull<u8>, len: usize },
    Heap(Box<[u8]>),
}

// SAFETY: the range belongs to this value alone until it is dropped, and is never written after construction.
#[allow(unsafe_code)]
unsafe impl Send for LockedBytes {}
// SAFETY: shared access is read-only.
#[allow(unsafe_code)]
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// Copies `bytes`. The caller wipes its own copy.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        let place = match arena().and_then(|arena| arena.take(bytes.len())) {
            Some(start) => {
                // SAFETY: `start` points at `bytes.len()` writable bytes that the arena gave to this value alone.
                #[allow(unsafe_code)]
                unsafe {
                    start.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                }
                LOCKED.fetch_add(bytes.len(), Ordering::Relaxed);
                Place::Arena { start, len: bytes.len() }
            }
            None => {
                OVERFLOW.fetch_add(bytes.len(), Ordering::Relaxed);
                Place::Heap(bytes.into())
            }
        };
        Self { place }
    }

    /// The bytes. Every reader of a secret goes through a call like this one.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.place {
            // SAFETY: the range is initialised, and lives and stays unwritten as long as `self`.
            #[allow(unsafe_code)]
            Place::Arena { start, len } => unsafe { std::slice::from_raw_parts(start.as_ptr(), *len) },
            Place::Heap(bytes) => bytes,
        }
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        match &mut self.place {
            Place::Arena { start, len } => {
                // SAFETY: this value still owns the range, and no reference to it is left while it is being dropped.
                #[allow(unsafe_code)]
                unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), *len) }.zeroize();
                if let Some(arena) = arena() {
                    arena.release(*start, *len);
                }
                LOCKED.fetch_sub(*len, Ordering::Relaxed);
            }
            Place::Heap(bytes) => {
                bytes.zeroize();
                OVERFLOW.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_went_in_whatever_their_size() {
        for len in [0, 1, 31, 32, 33, 4096, 25 << 10, 9 << 20] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            assert!(LockedBytes::copy_from(&bytes).as_slice() == bytes);
        }
    }

    #[test]
    fn a_dropped_value_is_wiped_before_its_place_is_reused() {
        let marker = [0xA7u8; 48];
        let value = LockedBytes::copy_from(&marker);
        let Place::Arena { start, .. } = value.place else { return };
        let address = start.as_ptr() as u64;
        drop(value);
        use std::os::unix::fs::FileExt;
        let mut now = [0u8; 48];
        std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut now, address).unwrap();
        assert_ne!(now, marker);
    }

    #[test]
    fn what_the_arena_holds_is_locked_and_kept_out_of_core_files() {
        let value = LockedBytes::copy_from(&[1; 64]);
        let Place::Arena { start, .. } = value.place else { return };
        let address = start.as_ptr() as usize;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = smaps
            .lines()
            .find_map(|line| {
                if let Some((from, rest)) = line.split_once('-')
                    && let Ok(from) = usize::from_str_radix(from, 16)
                {
                    let to = usize::from_str_radix(rest.split(' ').next().unwrap(), 16).unwrap();
                    inside = (from..to).contains(&address);
                }
                (inside && line.starts_with("VmFlags:")).then(|| line.to_owned())
            })
            .unwrap();
        for flag in [" lo", " dd", " wf"] {
            assert!(flags.contains(flag), "{flags} lacks{flag}");
        }
    }
}
