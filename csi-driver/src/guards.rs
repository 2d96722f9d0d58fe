use std::collections::HashMap;
use std::sync::Arc;

use keyward_core::{Code, Error, Result};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// One call at a time for each volume: "if another operation is pending for the volume, the plugin answers ABORTED"
/// (CSI specification, error scheme).
#[derive(Clone, Default)]
pub(crate) struct Guards(Arc<Mutex<HashMap<String, Marks>>>);

/// The right to change one volume, until it is dropped.
pub(crate) struct Guard {
    guards: Guards,
    volume_id: String,
    marks: Marks,
}

#[derive(Clone, Default)]
struct Marks {
    /// Another call needs the volume more.
    taken: CancellationToken,
    /// The right was given back.
    ended: CancellationToken,
}

impl Guards {
    /// `None` while somebody else holds it.
    pub(crate) fn enter(&self, volume_id: &str) -> Option<Guard> {
        let mut held = self.0.lock();
        if held.contains_key(volume_id) {
            return None;
        }
        let marks = Marks::default();
        held.insert(volume_id.to_owned(), marks.clone());
        Some(Guard { guards: self.clone(), volume_id: volume_id.to_owned(), marks })
    }

    /// Asks whoever holds the volume to give up what nothing depends on, and waits until it is free.
    pub(crate) async fn take(&self, volume_id: &str) -> Guard {
        loop {
            if let Some(guard) = self.enter(volume_id) {
                return guard;
            }
            let Some(marks) = self.0.lock().get(volume_id).cloned() else { continue };
            marks.taken.cancel();
            marks.ended.cancelled().await;
        }
    }
}

impl Guard {
    /// Runs what may be given up when another call takes the volume; see [`Guards::take`].
    ///
    /// # Errors
    /// What `work` says; `KW_VOLUME_BUSY` when the volume was taken.
    pub(crate) async fn unless_taken<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let taken = || Error::new(Code::VolumeBusy, "the volume is being unpublished");
        self.marks.taken.run_until_cancelled(work).await.unwrap_or_else(|| Err(taken()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.guards.0.lock().remove(&self.volume_id);
        self.marks.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_one_caller_at_a_time_and_others_are_not_held_up() {
        let guards = Guards::default();
        let held = guards.enter("csi-a");
        assert!(held.is_some() && guards.enter("csi-a").is_none() && guards.enter("csi-b").is_some());
        drop(held);
        assert!(guards.enter("csi-a").is_some());
    }

    #[tokio::test]
    async fn who_takes_a_volume_ends_what_may_be_given_up_and_waits_for_the_rest() {
        let guards = Guards::default();
        let held = guards.enter("csi-a").unwrap();
        let (go_on, may_go_on) = tokio::sync::oneshot::channel::<()>();
        let publish = tokio::spawn(async move {
            let gathered = held.unless_taken(std::future::pending::<Result<()>>()).await;
            may_go_on.await.unwrap();
            gathered
        });
        tokio::task::yield_now().await;
        let taken = tokio::spawn({
            let guards = guards.clone();
            async move { drop(guards.take("csi-a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!taken.is_finished() && !publish.is_finished());
        go_on.send(()).unwrap();
        assert_eq!(publish.await.unwrap().unwrap_err().code(), Code::VolumeBusy);
        taken.await.unwrap();
        assert!(guards.enter("csi-a").is_some());
    }
}
