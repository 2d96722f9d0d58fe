use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// How long a thread waits for more work.
const IDLE: Duration = Duration::from_secs(1);

/// Threads for calls that block, apart from those of all other calls: what holds those up does not hold up these. Calls
/// that find all threads busy wait in line.
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    /// At most `most` threads, none of them while there is nothing to do.
    ///
    /// # Panics
    /// Never: a runtime without drivers needs nothing of the system.
    #[expect(clippy::expect_used, reason = "a runtime without drivers needs nothing of the system")]
    pub(crate) fn new(name: &'static str, most: usize) -> Self {
        let runtime = Builder::new_current_thread()
            .thread_name(name)
            .max_blocking_threads(most)
            .thread_keep_alive(IDLE)
            .build();
        Self(Some(runtime.expect("a runtime without drivers needs nothing of the system")))
    }

    /// Its `spawn_blocking` runs calls on these threads; tasks would never run.
    ///
    /// # Panics
    /// Never: the runtime is there until the end.
    #[expect(clippy::expect_used, reason = "only the end takes the runtime")]
    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("kept until the end").handle()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn calls_run_while_all_other_blocking_threads_are_held_up() {
        let (held_up, calls) = (Threads::new("test", 1), Threads::new("test", 1));
        let (open, gate) = mpsc::channel::<()>();
        let stuck = held_up.handle().spawn_blocking(move || gate.recv().is_err());
        let behind = held_up.handle().spawn_blocking(|| ());
        assert_eq!(calls.handle().spawn_blocking(|| 1).await.unwrap(), 1);
        assert!(!stuck.is_finished() && !behind.is_finished());
        drop(open);
        assert!(stuck.await.unwrap());
        behind.await.unwrap();
    }
}
