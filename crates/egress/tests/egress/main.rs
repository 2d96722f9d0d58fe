//! The outbound client against servers with a CA of their own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod gate;
mod limits;
mod origin;
mod proxy;
mod server;
mod tls;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use keyward_core::observe::{Event, Observer, Silent};
use keyward_core::{Result, SystemClock, VaultHost};
use keyward_egress::{Egress, EgressSettings, Request, Response, Target, VaultTransport};
use parking_lot::Mutex;
use server::{Authority, Server};
use url::Url;

pub(crate) const VAULT: &str = "shop.vault.test";

/// Settings that lead [`VAULT`] to `server` and trust `authority`.
pub(crate) fn settings(authority: &Authority, server: &Server) -> EgressSettings {
    EgressSettings {
        extra_roots_pem: Some(authority.pem.clone()),
        resolve: vec![(VAULT.to_owned(), server.address)],
        ..EgressSettings::default()
    }
}

pub(crate) fn egress(settings: EgressSettings) -> Arc<Egress> {
    Egress::new(settings, Arc::new(SystemClock), Arc::new(Silent)).unwrap()
}

pub(crate) fn transport(egress: &Arc<Egress>) -> Arc<VaultTransport> {
    egress.vault_transport(&VaultHost::parse(VAULT).unwrap())
}

pub(crate) async fn vault_get(transport: &VaultTransport, path: &str) -> Result<Response> {
    let url = Url::parse(&format!("https://{VAULT}{path}")).unwrap();
    transport.send(Method::GET, &url, HeaderMap::new(), Bytes::new()).await
}

pub(crate) fn get(url: &str) -> Request {
    Request::new(Target::Token, Method::GET, Url::parse(url).unwrap())
}

/// Keeps every event.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<Event>>);

impl Observer for Recorder {
    fn event(&self, event: &Event) {
        self.0.lock().push(*event);
    }
}
