//! What every provider promises, as one suite: run on the in-memory fake, on Key Vault over the emulator, and by hand
//! on a real vault.
//!
//! [`provider_conformance!`](crate::provider_conformance) makes one test of each sentence.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keyward_core::{
    BundleType, Code, Collection, Content, Error, FetchRequest, Fetched, ObjectRef, Parts, Provider, Result,
    VaultHost, Version,
};

/// The other side of a provider: what an owner of the vault does. Panics when it cannot.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The provider under test; its identity may get and list everything until [`Self::permit`] says otherwise.
    fn provider(&self) -> &dyn Provider;
    /// The vault, empty at first.
    fn host(&self) -> VaultHost;
    /// Sets a secret.
    async fn set_secret(&self, name: &str, value: &str, content_type: Option<&str>) -> Version;
    /// Switches the version that `secret` pins on or off.
    async fn enable_secret(&self, secret: &ObjectRef, enabled: bool);
    /// Deletes a secret, and returns when it is deleted.
    async fn delete_secret(&self, name: &str);
    /// Recovers a deleted secret, and returns when it is back.
    async fn recover_secret(&self, name: &str);
    /// Makes an RSA key.
    async fn create_key(&self, name: &str) -> Version;
    /// Imports a certificate with its key, another one each time, kept in `form`; returns the leaf, DER.
    async fn import_certificate(&self, name: &str, form: BundleType) -> Vec<u8>;
    /// What the provider's identity may do from now on.
    async fn permit(&self, get: bool, list: bool);
    /// Returns in another second of the vault's clock.
    async fn next_second(&self);
}

/// One `#[tokio::test]` for each sentence of the suite. `$backend` is an expression for a future of a fresh
/// [`Backend`](crate::conformance::Backend).
#[macro_export]
macro_rules! provider_conformance {
    ($backend:expr) => {
        $crate::provider_conformance! { @each $backend;
            a_secret_comes_back_byte_for_byte
            a_new_version_is_the_current_one_and_the_old_one_stays_readable_when_pinned
            names_are_compared_without_regard_to_case
            an_absent_object_or_version_is_not_found
            a_disabled_current_version_is_disabled_and_no_older_one_takes_its_place
            a_deleted_secret_is_not_found_until_it_is_recovered
            an_identity_that_may_not_get_is_forbidden
            an_identity_that_may_not_list_can_still_get
            a_listing_has_every_object_of_its_collection_once
            a_listing_tells_when_an_object_changed_and_whether_it_is_enabled
            a_listing_stops_at_its_limit_and_costs_a_request_for_each_page
            versions_come_newest_first
            a_key_is_its_public_part
            a_certificate_is_its_leaf
            leaf_and_bundle_of_a_certificate_are_of_the_same_version
            a_secret_that_backs_a_certificate_says_how_it_is_written
            an_ordinary_secret_is_no_bundle_whatever_its_content_type_says
            every_refusal_names_object_and_identity
        }
    };
    (@each $backend:expr; $($sentence:ident)+) => {
        $(
            #[tokio::test]
            async fn $sentence() {
                let backend = $backend.await;
                $crate::conformance::$sentence(&backend).await;
            }
        )+
    };
}

/// Whatever text a secret holds, line ends, quotes and characters beyond the first plane included, is what is read.
pub async fn a_secret_comes_back_byte_for_byte(backend: &dyn Backend) {
    for (name, value) in
        [("plain", "hunter2"), ("odd", "a\r\n\t\"\\/\u{1}\u{7f} ä漢\u{1f511}\u{2028} "), ("0-", "-")]
    {
        let version = backend.set_secret(name, value, Some("text/plain")).await;
        let fetched = good(get(backend, &secret(backend, name)).await);
        assert_eq!(text(&fetched), value);
        assert_eq!(fetched.version, version);
        assert_eq!(fetched.object, secret(backend, name).at(version));
        assert_eq!(fetched.content_type.as_deref(), Some("text/plain"));
        assert!(fetched.created.is_some() && fetched.updated >= fetched.created);
    }
}

/// Versions are immutable: a pinned one is what it was.
pub async fn a_new_version_is_the_current_one_and_the_old_one_stays_readable_when_pinned(
    backend: &dyn Backend,
) {
    let first = backend.set_secret("db", "one", None).await;
    let second = backend.set_secret("db", "two", None).await;
    assert_ne!(first, second);
    let object = secret(backend, "db");
    assert_eq!(text(&good(get(backend, &object).await)), "two");
    assert_eq!(text(&good(get(backend, &object.at(first.clone())).await)), "one");
    assert_eq!(good(get(backend, &object.at(first.clone())).await).version, first);
    assert_eq!(good(get(backend, &object.at(second.clone())).await).version, second);
}

/// `DB` and `db` are one object.
pub async fn names_are_compared_without_regard_to_case(backend: &dyn Backend) {
    let version = backend.set_secret("Db-Password", "x", None).await;
    assert_eq!(good(get(backend, &secret(backend, "dB-pASSWORD")).await).version, version);
}

/// A definite no, and no other.
pub async fn an_absent_object_or_version_is_not_found(backend: &dyn Backend) {
    backend.set_secret("db", "x", None).await;
    let no_version = Version::parse("00000000000000000000000000000001").expect("a version by its form");
    for object in [
        secret(backend, "absent"),
        secret(backend, "db").at(no_version),
        object(backend, Collection::Keys, "absent"),
        object(backend, Collection::Certificates, "absent"),
    ] {
        assert_eq!(refused(get(backend, &object).await).code(), Code::ObjectNotFound, "{object}");
    }
}

/// Key Vault has no fallback to an older version.
pub async fn a_disabled_current_version_is_disabled_and_no_older_one_takes_its_place(backend: &dyn Backend) {
    let first = backend.set_secret("db", "one", None).await;
    let second = backend.set_secret("db", "two", None).await;
    let object = secret(backend, "db");
    backend.enable_secret(&object.at(second.clone()), false).await;
    assert_eq!(refused(get(backend, &object).await).code(), Code::ObjectDisabled);
    assert_eq!(refused(get(backend, &object.at(second.clone())).await).code(), Code::ObjectDisabled);
    assert_eq!(text(&good(get(backend, &object.at(first)).await)), "one");
    backend.enable_secret(&object.at(second), true).await;
    assert_eq!(text(&good(get(backend, &object).await)), "two");
}

/// Soft deletion looks like absence.
pub async fn a_deleted_secret_is_not_found_until_it_is_recovered(backend: &dyn Backend) {
    let version = backend.set_secret("db", "one", None).await;
    backend.delete_secret("db").await;
    let object = secret(backend, "db");
    assert_eq!(refused(get(backend, &object).await).code(), Code::ObjectNotFound);
    assert_eq!(refused(get(backend, &object.at(version.clone())).await).code(), Code::ObjectNotFound);
    backend.recover_secret("db").await;
    assert_eq!(good(get(backend, &object).await).version, version);
}

/// Forbidden is told apart from absent.
pub async fn an_identity_that_may_not_get_is_forbidden(backend: &dyn Backend) {
    backend.set_secret("db", "one", None).await;
    backend.permit(false, true).await;
    assert_eq!(refused(get(backend, &secret(backend, "db")).await).code(), Code::VaultForbidden);
    backend.permit(true, true).await;
    good(get(backend, &secret(backend, "db")).await);
}

/// Listing and getting are two permissions.
pub async fn an_identity_that_may_not_list_can_still_get(backend: &dyn Backend) {
    backend.set_secret("db", "one", None).await;
    backend.permit(true, false).await;
    let provider = backend.provider();
    let listed = provider.list(&backend.host(), Collection::Secrets, 100).await;
    assert_eq!(refused(listed).code(), Code::VaultForbidden);
    let versions = provider.versions(&secret(backend, "db"), 100).await;
    assert_eq!(refused(versions).code(), Code::VaultForbidden);
    good(get(backend, &secret(backend, "db")).await);
}

/// Over several pages.
pub async fn a_listing_has_every_object_of_its_collection_once(backend: &dyn Backend) {
    let names: BTreeSet<String> = (0..60).map(|number| format!("secret-{number}")).collect();
    for name in &names {
        backend.set_secret(name, "x", None).await;
    }
    backend.set_secret("secret-7", "y", None).await;
    backend.create_key("no-secret").await;
    let lines = good(backend.provider().list(&backend.host(), Collection::Secrets, 1000).await);
    assert_eq!(lines.len(), names.len());
    assert_eq!(lines.iter().map(|line| line.object.name().to_owned()).collect::<BTreeSet<_>>(), names);
    assert!(
        lines.iter().all(|line| line.object.version().is_none() && line.object.host() == &backend.host())
    );
    let keys = good(backend.provider().list(&backend.host(), Collection::Keys, 1000).await);
    assert_eq!(keys.iter().map(|line| line.object.name()).collect::<Vec<_>>(), ["no-secret"]);
    assert!(good(backend.provider().list(&backend.host(), Collection::Certificates, 1000).await).is_empty());
}

/// The cheap change detection that rotation is built on.
pub async fn a_listing_tells_when_an_object_changed_and_whether_it_is_enabled(backend: &dyn Backend) {
    backend.set_secret("still", "x", None).await;
    backend.set_secret("moving", "x", None).await;
    let before = good(backend.provider().list(&backend.host(), Collection::Secrets, 100).await);
    backend.next_second().await;
    let version = backend.set_secret("moving", "y", None).await;
    let after = good(backend.provider().list(&backend.host(), Collection::Secrets, 100).await);
    for line in &after {
        let earlier = before.iter().find(|other| other.object == line.object).expect("listed before");
        assert!(line.enabled && line.updated.is_some_and(|updated| updated.subsec_nanos() == 0));
        assert_eq!(line.updated > earlier.updated, line.object.name() == "moving");
    }
    backend.enable_secret(&secret(backend, "moving").at(version), false).await;
    let last = good(backend.provider().list(&backend.host(), Collection::Secrets, 100).await);
    let disabled: Vec<_> = last.iter().filter(|line| !line.enabled).map(|line| line.object.name()).collect();
    assert_eq!(disabled, ["moving"]);
}

/// The broker decides by this whether to list or to get.
pub async fn a_listing_stops_at_its_limit_and_costs_a_request_for_each_page(backend: &dyn Backend) {
    for number in 0..30 {
        backend.set_secret(&format!("secret-{number}"), "x", None).await;
    }
    let provider = backend.provider();
    assert_eq!(good(provider.list(&backend.host(), Collection::Secrets, 10).await).len(), 10);
    assert_eq!(good(provider.list(&backend.host(), Collection::Secrets, 26).await).len(), 26);
    let costs: Vec<_> = [0, 1, 25, 26, 100].into_iter().map(|count| provider.list_cost(count)).collect();
    assert_eq!(costs, [1, 1, 1, 2, 4]);
}

/// Whatever order the vault keeps them in.
pub async fn versions_come_newest_first(backend: &dyn Backend) {
    let mut made = Vec::new();
    for value in ["one", "two", "three"] {
        made.push(backend.set_secret("db", value, None).await);
        backend.next_second().await;
    }
    let object = secret(backend, "db");
    backend.enable_secret(&object.at(made[0].clone()), false).await;
    let versions = good(backend.provider().versions(&object, 100).await);
    let order: Vec<_> = versions.iter().map(|line| &line.version).collect();
    assert_eq!(order, [&made[2], &made[1], &made[0]]);
    assert_eq!(versions.iter().map(|line| line.enabled).collect::<Vec<_>>(), [true, true, false]);
    assert!(versions.iter().all(|line| line.created.is_some()));
    let newest = good(backend.provider().versions(&object, 1).await);
    assert_eq!(newest.iter().map(|line| &line.version).collect::<Vec<_>>(), [&made[2]]);
}

/// As a JSON Web Key without private members.
pub async fn a_key_is_its_public_part(backend: &dyn Backend) {
    let version = backend.create_key("signing").await;
    let fetched = good(get(backend, &object(backend, Collection::Keys, "signing")).await);
    assert_eq!(fetched.version, version);
    let Content::Key { jwk } = &fetched.content else { panic!("a key's content is a key") };
    let jwk: serde_json::Value = serde_json::from_str(jwk).expect("a JSON Web Key is JSON");
    assert_eq!(jwk["kty"], "RSA");
    assert!(jwk["n"].is_string() && jwk["e"].is_string());
    assert!(["d", "p", "q", "dp", "dq", "qi", "k"].iter().all(|private| jwk.get(private).is_none()));
}

/// Without touching the secret behind it.
pub async fn a_certificate_is_its_leaf(backend: &dyn Backend) {
    let leaf = backend.import_certificate("tls", BundleType::Pem).await;
    let fetched = good(get(backend, &object(backend, Collection::Certificates, "tls")).await);
    let Content::Certificate(content) = &fetched.content else { panic!("a certificate's content is one") };
    assert!(content.leaf_der == leaf && content.bundle.is_none());
}

/// Also when a newer version exists: a pair that does not belong together would break every TLS server that uses it.
pub async fn leaf_and_bundle_of_a_certificate_are_of_the_same_version(backend: &dyn Backend) {
    for (name, form) in [("tls-pem", BundleType::Pem), ("tls-pfx", BundleType::Pfx)] {
        let certificate = object(backend, Collection::Certificates, name);
        let old_leaf = backend.import_certificate(name, form).await;
        let old = bundle(backend, &certificate).await;
        backend.next_second().await;
        let new_leaf = backend.import_certificate(name, form).await;
        let new = bundle(backend, &certificate).await;
        assert!(old_leaf != new_leaf && old.version != new.version);
        let pinned = bundle(backend, &certificate.at(old.version.clone())).await;
        assert_eq!(pinned.version, old.version);
        let (Content::Certificate(old), Content::Certificate(new), Content::Certificate(pinned)) =
            (&old.content, &new.content, &pinned.content)
        else {
            panic!("a certificate's content is one")
        };
        assert!(old.leaf_der == old_leaf && new.leaf_der == new_leaf && pinned.leaf_der == old_leaf);
        let parts = |content: &keyward_core::CertificateContent| {
            content.bundle.clone().expect("the bundle was asked for")
        };
        assert!(parts(old).0 == form && parts(new).0 == form);
        assert!(parts(pinned).1.same_as(&parts(old).1) && !parts(pinned).1.same_as(&parts(new).1));
    }
}

/// So that whoever asks for the secret itself gets it converted.
pub async fn a_secret_that_backs_a_certificate_says_how_it_is_written(backend: &dyn Backend) {
    for (name, form) in [("tls-pem", BundleType::Pem), ("tls-pfx", BundleType::Pfx)] {
        backend.import_certificate(name, form).await;
        let fetched = good(get(backend, &secret(backend, name)).await);
        let Content::Secret { bundle, .. } = &fetched.content else { panic!("a secret's content is one") };
        assert_eq!(*bundle, Some(form));
    }
}

/// Anybody may write anything into a content type.
pub async fn an_ordinary_secret_is_no_bundle_whatever_its_content_type_says(backend: &dyn Backend) {
    backend.set_secret("db", "x", Some("application/x-pkcs12")).await;
    let fetched = good(get(backend, &secret(backend, "db")).await);
    assert!(matches!(fetched.content, Content::Secret { bundle: None, .. }));
}

/// Without which nobody can act on it.
pub async fn every_refusal_names_object_and_identity(backend: &dyn Backend) {
    backend.set_secret("db", "x", None).await;
    let absent = secret(backend, "absent");
    let error = refused(get(backend, &absent).await);
    assert_eq!(error.object_name(), Some(absent.to_string().as_str()));
    assert!(error.identity_name().is_some_and(|identity| !identity.is_empty()));
    backend.permit(false, false).await;
    let listed = backend.provider().list(&backend.host(), Collection::Keys, 1).await;
    let place = format!("https://{}/keys", backend.host());
    for (error, object) in [
        (refused(get(backend, &secret(backend, "db")).await), secret(backend, "db").to_string()),
        (refused(listed), place),
    ] {
        assert_eq!(error.object_name(), Some(object.as_str()));
        assert!(error.identity_name().is_some());
    }
}

fn object(backend: &dyn Backend, collection: Collection, name: &str) -> ObjectRef {
    ObjectRef::new(backend.host(), collection, name, None).expect("the suite uses legal names")
}

fn secret(backend: &dyn Backend, name: &str) -> ObjectRef {
    object(backend, Collection::Secrets, name)
}

async fn get(backend: &dyn Backend, object: &ObjectRef) -> Result<Fetched> {
    let request = FetchRequest { object: object.clone(), parts: Parts::Object };
    backend.provider().fetch(&request).await
}

async fn bundle(backend: &dyn Backend, object: &ObjectRef) -> Fetched {
    let request = FetchRequest { object: object.clone(), parts: Parts::Bundle };
    good(backend.provider().fetch(&request).await)
}

fn good<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error} ({})", error.internal_detail().unwrap_or("no detail")))
}

fn refused<T>(result: Result<T>) -> Error {
    result.err().expect("this has to be refused")
}

fn text(fetched: &Fetched) -> &str {
    let Content::Secret { value, .. } = &fetched.content else { panic!("a secret's content is one") };
    value.expose_str().expect("the suite sets texts")
}
