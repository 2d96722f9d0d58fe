//! What must hold whatever happens.

use super::*;

impl World {
    /// Lets time pass and looks at each change as it comes.
    pub(super) async fn pass(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        loop {
            let mut watch = self.watch.take().expect("something is watched");
            let changed = tokio::select! {
                biased;
                () = watch.changed() => true,
                () = tokio::time::sleep_until(end) => false,
            };
            for snapshot in watch.snapshots() {
                self.check_sequence(&snapshot);
            }
            self.watch = Some(watch);
            if !changed {
                return;
            }
        }
    }

    pub(super) fn check_sequence(&mut self, snapshot: &Snapshot) {
        let truth = self.objects.get_mut(snapshot.key.request.object.name()).expect("known");
        assert!(snapshot.sequence >= truth.sequence, "the sequence went back");
        truth.sequence = snapshot.sequence;
    }

    pub(super) async fn observe(&mut self) {
        self.end_what_is_over();
        assert_eq!(self.entra.complaint(), None);
        for name in self.names.clone() {
            let before = self.clock.wall();
            let result = self.broker.get(&self.key(&name)).await;
            let now = self.clock.wall();
            let (recovery, bound) = (self.recovery(), self.bound());
            let calm_since = self.objects[&name].calm_since.max(self.healthy_since);
            let calm = self.fault.is_none()
                && self.objects[&name].denied.is_none()
                && before - calm_since >= recovery;
            let truth = self.objects.get_mut(&name).expect("known");
            truth.note_denial(now);
            let told =
                format!("{name} at {:?}, {:?}, {:?}", now - TokioClock::EPOCH, self.fault, truth.denied);
            match result {
                Ok(snapshot) => {
                    let value = text(&snapshot);
                    truth.given = true;
                    if snapshot.state == State::Fresh {
                        (truth.denied_long, truth.fresh) = (Vec::new(), before);
                    }
                    assert!(
                        self.vault.held_since(&name, &value, Duration::ZERO),
                        "{told}: {value} was never written"
                    );
                    if calm {
                        assert_eq!(snapshot.state, State::Fresh, "{told}: {:?}", snapshot.error);
                        let visible = self.vault.held_since(&name, &value, before.saturating_sub(bound));
                        assert!(visible, "{told}: {value} is older than {bound:?}");
                    }
                    self.check_sequence(&snapshot);
                }
                Err(error) => {
                    assert!(!calm, "{told}: {error}");
                    let believed = truth.denied_long.contains(&error.kind());
                    let expired =
                        error.code() == Code::StaleLimit && now - truth.fresh > self.settings.max_stale;
                    assert!(!truth.given || believed || expired, "{told}: a reader failed with {error}");
                }
            }
        }
    }

    pub(super) async fn value(&self, name: &str) -> String {
        let snapshot = self.broker.get(&self.key(name)).await.expect("nothing is wrong");
        text(&snapshot)
    }

    pub(super) fn check_rate(&self) {
        let shortest = self.settings.interval.mul_f64(0.5 * 0.8);
        let checks = self.elapsed().as_secs_f64() / shortest.as_secs_f64();
        let allowed = checks * (self.names.len() + 2) as f64 + self.extra;
        let requests = self.vault.counts().requests() as f64;
        assert!(requests <= allowed, "{requests} requests, {allowed} expected at most");
        let refreshes = self.elapsed().as_secs() as usize / (27 * 60);
        let exchanges = self.entra.exchanges();
        assert!(exchanges <= refreshes + self.extra_tokens + 1, "{exchanges} token exchanges");
    }
}

impl Truth {
    /// A no that lasted for so long may be believed.
    pub(super) fn note_denial(&mut self, now: UnixTime) {
        if let Some((denial, since, _)) = self.denied
            && now - since >= 15 * MINUTE
        {
            self.denied_long.extend(denial.kind());
        }
    }
}

impl Denial {
    /// Forbidden while others succeed is never believed.
    pub(super) fn kind(self) -> Option<ErrorKind> {
        match self {
            Self::Disabled => Some(ErrorKind::Disabled),
            Self::Deleted => Some(ErrorKind::NotFound),
            Self::Forbidden => None,
        }
    }
}
