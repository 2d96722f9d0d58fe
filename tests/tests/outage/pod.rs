use std::sync::Arc;

use keyward_broker::Watch;
use keyward_core::spec::ObjectSpec;
use keyward_core::{Snapshot, spec::ObjectSource};
use keyward_delivery::atomic::AtomicDirectory;
use keyward_delivery::projection::{Defaults, Projection, project_as_it_is};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::world::request;

/// The files of one pod, written as the sidecar writes them.
pub(crate) struct Pod {
    place: TempDir,
    task: JoinHandle<()>,
}

impl Pod {
    pub(crate) fn start(mut watch: Watch, specs: Vec<ObjectSpec>) -> Self {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut directory = AtomicDirectory::open(std::fs::File::open(place.path()).unwrap().into()).unwrap();
        let task = tokio::spawn(async move {
            let mut before: Option<Projection> = None;
            loop {
                let projection = of(&watch.snapshots(), &specs, before.as_ref());
                // Nothing is written before everything required is there; from then on each entry is on its own.
                if before.is_some() || projection.missing_required.is_empty() {
                    directory.commit(&projection.tree).unwrap();
                    directory.sweep_old();
                    before = Some(projection);
                }
                watch.changed().await;
            }
        });
        Self { place, task }
    }

    /// What an application finds in its file; `None` when there is none.
    pub(crate) fn file(&self, name: &str) -> Option<String> {
        assert!(!self.task.is_finished(), "the pod's files are not kept any more");
        std::fs::read_to_string(self.place.path().join(name)).ok()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn of(snapshots: &[Arc<Snapshot>], specs: &[ObjectSpec], before: Option<&Projection>) -> Projection {
    let snapshot_of = |source: &ObjectSource| {
        let wanted = request(source);
        snapshots.iter().find(|snapshot| snapshot.key.request == wanted).cloned()
    };
    let defaults = Defaults { mode: 0o444, uid: None, gid: None };
    project_as_it_is(specs, &snapshot_of, before, &defaults, keyward_delivery::Meter::unlimited())
        .expect("nothing is converted here")
}
