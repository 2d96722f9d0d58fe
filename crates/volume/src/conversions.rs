//! Where conversions run: what a pod's declaration and content make expensive must not cost its neighbours time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::setpriority_process;
use tokio::sync::Semaphore;

/// Conversions under way at one time, so that those of hostile volumes leave room to the calls that mount.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

/// The least share of a busy processor that a thread can have.
const LEAST: i32 = 19;

/// Runs `work` off the async threads, on a thread that yields the processor to every other one of this process.
/// `None` when it panicked, which the panic hook reported, or when no thread was to be had.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    // Nobody closes it.
    let turn = AT_ONCE.acquire().await.ok()?;
    // A pool's thread only waits: without privilege it could not take its priority back.
    let waiting = tokio::task::spawn_blocking(move || {
        // Until the work has ended, whoever waits for it: what was given up still takes its share.
        let _turn = turn;
        let thread = std::thread::Builder::new().name("conversion".to_owned()).spawn(move || {
            // For this thread alone, as Linux has it. Where it is not allowed, it goes on as it is.
            let _ = setpriority_process(None, LEAST);
            work()
        });
        thread.ok()?.join().ok()
    });
    waiting.await.ok().flatten()
}

/// Says so to the work under way when nobody waits for it any more.
#[derive(Default)]
pub(crate) struct Wanted(Arc<AtomicBool>);

/// What the work asks between two steps.
pub(crate) struct GivenUp(Arc<AtomicBool>);

impl Wanted {
    pub(crate) fn watch(&self) -> GivenUp {
        GivenUp(Arc::clone(&self.0))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl GivenUp {
    pub(crate) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn a_conversion_yields_to_everybody_and_leaves_no_thread_so() {
        let before = getpriority_process(None).unwrap();
        assert_eq!(aside(|| getpriority_process(None).unwrap()).await, Some(LEAST));
        let after = tokio::task::spawn_blocking(|| getpriority_process(None).unwrap()).await.unwrap();
        assert_eq!((after, getpriority_process(None).unwrap()), (before, before));
    }
}
