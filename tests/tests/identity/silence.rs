use std::io;
use std::sync::Arc;
use std::time::Duration;

use keyward_core::TokenSource as _;
use keyward_emulator::{Effect, Fault, Registration, TOKEN_EXCHANGE_AUDIENCE};
use keyward_identity::Selector;
use parking_lot::Mutex;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::setup::{SECRET, VAULT, World};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_token_assertion_secret_or_value_is_logged_at_any_level() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(log.clone()).finish();
    // One thread, so that every library's events pass here.
    let guard = tracing::subscriber::set_default(subscriber);
    let world = World::new().await;
    world.register(Registration::system_assigned());
    world.works(world.workload()).await;
    world.works(world.imds(Selector::System)).await;
    world.works(world.secret(world.application(), SECRET)).await;
    let tokens = world.tokens(world.workload());
    let token = tokens.token(VAULT).await.ok().unwrap();
    for effect in [Effect::TokenError { code: 7_000_222 }, Effect::GarbageJson, Effect::Reset] {
        world.emulator.faults().set(Fault::on("token.*", effect).times(1));
        tokens.reject(VAULT, &token);
        let _ = tokens.token(VAULT).await;
        tokens.reload();
    }
    let bad = world.service_account_token("web", TOKEN_EXCHANGE_AUDIENCE, Duration::from_secs(60));
    let other = world.application();
    assert!(world.token(world.workload_of(other, &world.file("bad", bad))).await.is_err());
    drop(guard);
    let log = log.0.lock();
    let text = String::from_utf8_lossy(&log);
    assert!(text.contains("a token exchange failed") && text.contains("TRACE"), "the log was kept");
    for secret in ["eyJ", SECRET, "hunter2", world.emulator.app_service_secret()] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} was logged");
    }
}
