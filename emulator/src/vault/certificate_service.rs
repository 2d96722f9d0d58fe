//! What only certificates do.

use http::StatusCode;
use serde_json::{Map, Value};

use super::bundles::Bundle as _;
use super::certificates::{CertificateContent, read_create, read_import};
use super::error::VaultError;
use super::service::{Answer, Visit, ok, sort_key};
use crate::operation::{Action, Collection};
use crate::reply::Reply;

impl Visit<'_> {
    pub(super) fn import_certificate(&self) -> Answer {
        let (keyed, new) = read_import(self.body)?;
        let mut store = self.vault.store.lock();
        store.add_certificate(self.name(), self.rng.version(), keyed, new, self.write_millis)?;
        let (object, version) = store.certificates.get_version(self.name(), None)?;
        Ok(ok(Value::Object(CertificateContent::bundle(&self.base(), &object.name, version, true))))
    }

    /// Answers "in progress" even when the certificate is there at once, as the service does.
    pub(super) fn create_certificate(&self) -> Answer {
        self.vault.store.lock().certificates.check_free(self.name(), self.write_millis)?;
        let (pending, made) = read_create(self.body, self.rng.version(), self.write_millis / 1000)?;
        let mut store = self.vault.store.lock();
        if let Some((keyed, new)) = made {
            store.add_certificate(self.name(), self.rng.version(), keyed, new, self.write_millis)?;
        }
        let base = self.base();
        let operation = pending.render(&base, self.name(), false);
        store.pending.insert(sort_key(self.name()), pending);
        let location = format!(
            "{}/pending?api-version={}",
            base.id(Collection::Certificates, self.name(), None),
            self.api_version()
        );
        Ok(Reply::json(StatusCode::ACCEPTED, &operation)
            .with_header("location", &location)
            .with_header("retry-after", "10"))
    }

    pub(super) fn pending_certificate(&self) -> Answer {
        let store = self.vault.store.lock();
        let pending = store.pending.get(&sort_key(self.name())).ok_or_else(|| {
            let missing = VaultError::not_found(Collection::Certificates, self.name(), None);
            VaultError { code: "PendingCertificateNotFound".to_owned(), ..missing }
        })?;
        Ok(ok(pending.render(&self.base(), self.name(), pending.completed())))
    }

    /// Attributes and tags of a certificate are those of its key and secret too.
    pub(super) fn update_certificate(&self) -> Answer {
        let mut store = self.vault.store.lock();
        let store = &mut *store;
        let reply = self.common(&mut store.certificates)?;
        let id = store.certificates.get_version(self.name(), self.version())?.1.id.clone();
        let mut body: Map<String, Value> = serde_json::from_slice(self.body).unwrap_or_default();
        body.remove("contentType");
        store.keys.update(self.name(), Some(&id), &body, self.write_millis)?;
        store.secrets.update(self.name(), Some(&id), &body, self.write_millis)?;
        Ok(reply)
    }

    /// Deleting, recovering and purging a certificate takes its key and secret along.
    pub(super) fn move_certificate(&self) -> Answer {
        let mut store = self.vault.store.lock();
        let store = &mut *store;
        let reply = self.common(&mut store.certificates)?;
        self.common(&mut store.keys)?;
        self.common(&mut store.secrets)?;
        if self.asked.action == Action::Purge {
            store.pending.remove(&sort_key(self.name()));
        }
        Ok(reply)
    }
}
