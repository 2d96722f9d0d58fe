//! A reader who looks all the time: a volume is not mounted, or holds one whole generation, and never an older one than
//! before.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

/// All made of the same object, so that they always agree.
pub(crate) const FILES: [&str; 3] = ["a", "dir/b", "c"];

/// What is at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    NotMounted,
    /// Mounted, and every file holds this.
    Whole(String),
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Somebody takes the volumes' files away, and it is not the driver.
    tampered: AtomicBool,
    looks: AtomicU64,
    bad: Mutex<Option<String>>,
    /// The newest content that each of the volumes has shown.
    newest: Mutex<Vec<String>>,
}

pub(crate) struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(crate) fn start(targets: Vec<PathBuf>) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.newest.lock() = vec![String::new(); targets.len()];
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut last = vec![String::new(); targets.len()];
            while !of_thread.stop.load(Ordering::Acquire) {
                for (index, (target, last)) in targets.iter().zip(&mut last).enumerate() {
                    // Asked before and after: the files may come and go between.
                    let before = of_thread.tampered.load(Ordering::Acquire);
                    let seen = look(target);
                    let after = of_thread.tampered.load(Ordering::Acquire);
                    let seen = seen.and_then(|seen| match seen {
                        // Another volume, when it comes again.
                        Seen::NotMounted => {
                            last.clear();
                            Ok(())
                        }
                        Seen::Whole(content) if content >= *last => {
                            of_thread.newest.lock()[index].clone_from(&content);
                            *last = content;
                            Ok(())
                        }
                        Seen::Whole(content) => {
                            Err(format!("{}: {content:.7} after {last:.7}", target.display()))
                        }
                    });
                    if let Err(bad) = seen
                        && !before
                        && !after
                    {
                        of_thread.bad.lock().get_or_insert(bad);
                    }
                    of_thread.looks.fetch_add(1, Ordering::Relaxed);
                }
                // Gives way to what it looks at, on machines with few processors.
                std::thread::park_timeout(std::time::Duration::from_micros(500));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    pub(crate) fn tampered(&self, now: bool) {
        self.shared.tampered.store(now, Ordering::Release);
    }

    /// The newest content that a volume has shown, by its number.
    pub(crate) fn newest(&self, index: usize) -> String {
        self.shared.newest.lock()[index].clone()
    }

    /// What it saw that nobody should see, once.
    pub(crate) fn bad(&self) -> Option<String> {
        self.shared.bad.lock().take()
    }

    pub(crate) fn looks(&self) -> u64 {
        self.shared.looks.load(Ordering::Relaxed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks once.
///
/// # Errors
/// What is there is no whole generation.
pub(crate) fn look(target: &std::path::Path) -> Result<Seen, String> {
    // A generation that was replaced may go while it is read: the one that is there now is read instead.
    let mut last = String::new();
    for _ in 0..20 {
        let Ok(root) = openat(CWD, target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        else {
            return Ok(Seen::NotMounted);
        };
        let attributes = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        if !attributes.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            return Ok(Seen::NotMounted);
        }
        let link = || readlinkat(&root, "..data", Vec::new());
        let before = match link() {
            Ok(link) => link,
            Err(errno) => {
                return Err(format!("{} is mounted without a generation ({errno})", target.display()));
            }
        };
        match generation(&root) {
            Ok(content) => return Ok(Seen::Whole(content)),
            Err(Torn::Differ(text)) => return Err(format!("{}: {text}", target.display())),
            Err(Torn::Missing(text)) => {
                if link().as_ref() == Ok(&before) {
                    return Err(format!("{}: {text}", target.display()));
                }
                last = text;
            }
        }
    }
    Err(format!("{}: {last}, again and again", target.display()))
}

enum Torn {
    Differ(String),
    Missing(String),
}

fn generation(root: &std::os::fd::OwnedFd) -> Result<String, Torn> {
    let missing = |what: &str| {
        let what = what.to_owned();
        move |errno: Errno| Torn::Missing(format!("{what} cannot be read ({errno})"))
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let data = openat(root, "..data", flags, Mode::empty()).map_err(missing("..data"))?;
    let mut contents = Vec::new();
    for name in FILES {
        let file =
            openat(&data, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(missing(name))?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text)
            .map_err(|error| Torn::Differ(format!("{name} cannot be read: {error}")))?;
        contents.push(text);
    }
    if contents[0].is_empty() || contents.iter().any(|content| *content != contents[0]) {
        return Err(Torn::Differ(format!("torn: {contents:?}")));
    }
    Ok(contents.remove(0))
}
