use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// One call at a time for each volume: "if another operation is pending for the volume, the plugin answers ABORTED"
/// (CSI specification, error scheme).
#[derive(Clone, Default)]
pub(crate) struct Guards(Arc<Mutex<HashSet<String>>>);

/// The right to change one volume, until it is dropped.
pub(crate) struct Guard {
    guards: Guards,
    volume_id: String,
}

impl Guards {
    /// `None` while somebody else holds it.
    pub(crate) fn enter(&self, volume_id: &str) -> Option<Guard> {
        self.0
            .lock()
            .insert(volume_id.to_owned())
            .then(|| Guard { guards: self.clone(), volume_id: volume_id.to_owned() })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.guards.0.lock().remove(&self.volume_id);
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
}
