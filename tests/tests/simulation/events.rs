//! What happens to the world: rotations, troubles, denials, restarts.

use super::*;

impl World {
    pub(super) async fn act(&mut self) {
        let name = self.names[self.random.usize(..self.names.len())].clone();
        match self.random.u8(..100) {
            0..20 => self.rotate(&name),
            20..25 => {
                self.rotate(&name);
                let within = Duration::from_millis(self.random.u64(1..900));
                if self.random.bool() {
                    // Now a reader holds the first of two versions that a listing cannot tell apart.
                    self.extra += 1.0;
                    let _ = self.broker.refresh(&self.key(&name)).await;
                } else {
                    self.pass(within).await;
                }
                self.rotate(&name);
            }
            25..28 => self.begin_trouble(),
            28..31 => self.deny(&name),
            31..45 => self.look_up_something_else().await,
            45..48 => {
                self.extra += 2.0;
                let _ = self.broker.refresh(&self.key(&name)).await;
            }
            48..50 => self.restart().await,
            50..52 => self.watch_all().await,
            52..54 => {
                self.settings.jitter = self.random.f64() * 0.2;
                self.broker.configure(self.settings.clone());
            }
            54..56 => {
                self.lag = self.lag.max(Duration::from_secs(self.random.u64(..300)));
                self.vault.lag(self.lag);
            }
            _ => {}
        }
    }

    pub(super) fn rotate(&mut self, name: &str) {
        // A write would undo a denial of the current version.
        if self.objects[name].denied.is_none() {
            self.written += 1;
            self.vault.set(name, &self.written.to_string());
        }
    }

    pub(super) fn begin_trouble(&mut self) {
        if self.fault.is_some() {
            return;
        }
        let codes = [
            Code::VaultUnavailable,
            Code::VaultThrottled,
            Code::Connect,
            Code::Dns,
            Code::Tls,
            Code::Timeout,
            Code::VaultProtocol,
            Code::TokenUnavailable,
            Code::TokenThrottled,
            Code::TokenRefused,
            Code::VaultUnauthenticated,
            Code::VaultForbidden,
        ];
        let fault = match self.random.u8(..10) {
            0 => Fault::Hang,
            1 => Fault::RetryAfter(Duration::from_secs(self.random.u64(..7_200))),
            _ => Fault::Code(codes[self.random.usize(..codes.len())]),
        };
        let trouble = match self.random.u8(..10) {
            0..4 => Trouble::Down(fault),
            4..6 => Trouble::Tokens(fault),
            6..8 => Trouble::Loss(0.05 + 0.9 * self.random.f64()),
            _ => Trouble::Listing(fault),
        };
        let hours = self.random.f64().powi(3) * 8.0;
        let share = if matches!(trouble, Trouble::Loss(_)) { 0.1 } else { 1.0 };
        let lasts = MINUTE.mul_f64(1.0 + 60.0 * hours * share);
        match trouble {
            Trouble::Down(fault) => self.vault.fail(Some(fault)),
            Trouble::Loss(share) => self.vault.lose(share),
            Trouble::Listing(fault) => self.vault.fail_list(Some(fault)),
            Trouble::Tokens(fault) => self.entra.fail(Some(fault)),
        }
        // While requests are lost now and then, each object is tried again after seconds.
        let flapping = if matches!(trouble, Trouble::Loss(_)) { lasts.as_secs_f64() / 7.5 } else { 40.0 };
        self.extra += flapping * (self.names.len() + 2) as f64;
        self.extra_tokens += 300;
        self.fault = Some((trouble, self.clock.wall() + lasts));
    }

    /// One object at a time, so that the others show that it is no storm; and forbidden is excused by their success.
    pub(super) fn deny(&mut self, name: &str) {
        if self.objects.values().any(|truth| truth.denied.is_some()) {
            return;
        }
        let denial = [Denial::Disabled, Denial::Deleted, Denial::Forbidden][self.random.usize(..3)];
        self.switch(name, denial, true);
        let now = self.clock.wall();
        let until = now + MINUTE.mul_f64(1.0 + 90.0 * self.random.f64());
        self.objects.get_mut(name).expect("known").denied = Some((denial, now, until));
    }

    pub(super) fn switch(&self, name: &str, denial: Denial, on: bool) {
        match denial {
            Denial::Disabled => self.vault.enable(name, !on),
            Denial::Deleted => self.vault.present(name, !on),
            Denial::Forbidden => self.vault.forbid(name, on),
        }
    }

    pub(super) fn end_what_is_over(&mut self) {
        let now = self.clock.wall();
        if self.fault.is_some_and(|(_, until)| until <= now) {
            self.fault = None;
            self.vault.fail(None);
            self.vault.lose(0.0);
            self.vault.fail_list(None);
            self.entra.fail(None);
            self.healthy_since = now;
        }
        for name in &self.names {
            self.objects.get_mut(name).expect("known").note_denial(now);
            if let Some((denial, _, until)) = self.objects[name].denied
                && until <= now
            {
                self.switch(name, denial, false);
                let truth = self.objects.get_mut(name).expect("known");
                (truth.denied, truth.calm_since) = (None, now);
            }
        }
    }

    pub(super) fn calm_down(&mut self) {
        self.fault = self.fault.map(|(trouble, _)| (trouble, Duration::ZERO));
        for truth in self.objects.values_mut() {
            truth.denied = truth.denied.map(|(denial, since, _)| (denial, since, Duration::ZERO));
        }
        self.end_what_is_over();
    }

    pub(super) async fn look_up_something_else(&mut self) {
        for _ in 0..self.random.usize(1..20) {
            let name = format!("other-{}", self.random.usize(..500));
            if self.random.bool() {
                self.vault.set(&name, &"x".repeat(self.random.usize(..2_000)));
            }
            self.extra += 1.0;
            // What other callers do must not show in what readers of watched objects see.
            let _ = self.broker.get(&self.key(&name)).await;
            // Until the next chance to drop it, one object may be above the limit.
            assert!(self.broker.weight() <= CAPACITY + 4_096, "{} bytes are held", self.broker.weight());
        }
    }

    pub(super) async fn restart(&mut self) {
        let saved = self.broker.export();
        self.run.abort();
        self.watch = None;
        for (name, truth) in &mut self.objects {
            truth.given = saved.iter().any(|saved| saved.key.request.object.name() == name);
            truth.sequence = 0;
        }
        let seed = self.random.u64(..);
        self.extra_tokens += 1;
        let identity = (*self.identity).clone();
        let provider = Proven::new(self.vault.clone(), self.entra.clone(), identity, self.clock.clone());
        (self.broker, self.run) = start(&self.settings, &self.clock, provider, &self.identity, seed);
        self.broker.restore(saved);
        self.watch_all().await;
        // First reads meet whatever is going on; what follows a restart is due like after any other trouble.
        self.healthy_since = self.healthy_since.max(self.clock.wall());
    }
}
