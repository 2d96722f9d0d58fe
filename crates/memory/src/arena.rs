use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, MlockFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

use crate::free_list::FreeList;

/// Reserved address space; pages cost memory only when used.
const LARGEST: usize = 8 << 20;
/// Below this there is no point in an arena.
const SMALLEST: usize = 16 << 10;

/// What the arena holds now. All figures in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArenaStats {
    /// Locked address space; 0 when the kernel allowed none.
    pub capacity: usize,
    /// Bytes of secrets inside it.
    pub locked: usize,
    /// Bytes of secrets that did not fit and live on the ordinary heap.
    pub overflow: usize,
}

/// The arena's fill, for the metric that reports what could not be locked.
#[must_use]
pub fn stats() -> ArenaStats {
    ArenaStats {
        capacity: arena().map_or(0, |arena| arena.capacity),
        locked: LOCKED.load(Ordering::Relaxed),
        overflow: OVERFLOW.load(Ordering::Relaxed),
    }
}

pub(crate) static LOCKED: AtomicUsize = AtomicUsize::new(0);
pub(crate) static OVERFLOW: AtomicUsize = AtomicUsize::new(0);

pub(crate) struct Arena {
    base: NonNull<u8>,
    capacity: usize,
    free: Mutex<FreeList>,
}

// SAFETY: the mapping lives as long as the process, and `free` hands each byte range to one owner at a time.
#[allow(unsafe_code)]
unsafe impl Send for Arena {}
// SAFETY: as above; shared access only goes through the mutex.
#[allow(unsafe_code)]
unsafe impl Sync for Arena {}

impl Arena {
    /// A range of at least `len` bytes that nobody else holds, or `None` when the arena is full.
    pub(crate) fn take(&self, len: usize) -> Option<NonNull<u8>> {
        let offset = self.free.lock().take(len)?;
        // SAFETY: `offset + len <= capacity`, so the result stays inside the one mapping that `base` starts.
        #[allow(unsafe_code)]
        Some(unsafe { self.base.add(offset) })
    }

    /// Gives back a range from [`Self::take`]; the caller has wiped it.
    pub(crate) fn release(&self, start: NonNull<u8>, len: usize) {
        let offset = (start.as_ptr() as usize).saturating_sub(self.base.as_ptr() as usize);
        self.free.lock().release(offset, len);
    }
}

/// The process's arena, made on first use; `None` when no memory may be locked.
pub(crate) fn arena() -> Option<&'static Arena> {
    static ARENA: OnceLock<Option<Arena>> = OnceLock::new();
    ARENA.get_or_init(map_locked).as_ref()
}

/// Halves the size until the kernel agrees: other parts of the process may hold some of the limit.
fn map_locked() -> Option<Arena> {
    let allowed = getrlimit(Resource::Memlock)
        .current
        .map_or(LARGEST, |limit| usize::try_from(limit).unwrap_or(LARGEST));
    let mut capacity = allowed.min(LARGEST) & !4095;
    while capacity >= SMALLEST {
        if let Some(base) = map(capacity) {
            return Some(Arena { base, capacity, free: Mutex::new(FreeList::new(capacity)) });
        }
        capacity = (capacity / 2) & !4095;
    }
    None
}

fn map(capacity: usize) -> Option<NonNull<u8>> {
    // SAFETY: a fresh anonymous private mapping aliases nothing; the advice calls and mlock act on exactly that
    // mapping; on failure it is unmapped before its address is forgotten.
    #[allow(unsafe_code)]
    unsafe {
        let base = rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            capacity,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
        .ok()?;
        let ready = rustix::mm::madvise(base, capacity, Advice::LinuxDontDump)
            .and_then(|()| rustix::mm::madvise(base, capacity, Advice::LinuxWipeOnFork))
            .and_then(|()| rustix::mm::mlock_with(base, capacity, MlockFlags::ONFAULT));
        if ready.is_err() {
            // An unmap that fails leaves an unused reservation behind, which harms nobody.
            let _ = rustix::mm::munmap(base, capacity);
            return None;
        }
        NonNull::new(base.cast())
    }
}
