//! Certificates: import, creation, policy, and the key and secret that come with each.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Store;
use super::attributes::{AttributeChanges, Attributes, Tags, check_tags};
use super::bundles::Base;
use super::error::VaultError;
use super::keys::{KeyContent, key_kind};
use super::objects::{Content, Version};
use super::secrets::SecretContent;
use crate::key_material::{KeyKind, KeyMaterial, sha1};
use crate::operation::Collection;
use crate::pki::{KeyedChain, Request, self_signed, subject, validity};

pub(crate) const PFX: &str = "application/x-pkcs12";
pub(crate) const PEM: &str = "application/x-pem-file";

/// A certificate's own part; its private key lives in the key of the same name and version.
#[derive(Clone)]
pub(crate) struct CertificateContent {
    /// DER, the key's own certificate first unless the order of the upload was to be kept.
    pub(crate) chain: Vec<Vec<u8>>,
    /// DER.
    pub(crate) leaf: Vec<u8>,
    pub(crate) policy: Policy,
    pub(crate) preserve_order: Option<bool>,
}

impl Content for CertificateContent {
    const COLLECTION: Collection = Collection::Certificates;

    fn summary(&self, members: &mut Map<String, Value>) {
        members.insert("x5t".to_owned(), URL_SAFE_NO_PAD.encode(sha1(&self.leaf)).into());
        members.insert("subject".to_owned(), subject(&self.leaf).unwrap_or_default().into());
    }
}

impl CertificateContent {
    pub(crate) fn der_base64(&self) -> String {
        STANDARD.encode(&self.leaf)
    }
}

/// A certificate policy, kept as it was given, with what it left out filled in.
#[derive(Clone)]
pub(crate) struct Policy(Map<String, Value>);

impl Policy {
    pub(crate) fn new(given: Option<Value>) -> Self {
        Self(given.and_then(|value| value.as_object().cloned()).unwrap_or_default())
    }

    fn member(&self, section: &str, name: &str) -> Option<&Value> {
        self.0.get(section)?.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn content_type(&self) -> &str {
        self.member("secret_props", "contentType").and_then(Value::as_str).unwrap_or(PFX)
    }

    fn exportable(&self) -> bool {
        self.member("key_props", "exportable").and_then(Value::as_bool).unwrap_or(true)
    }

    fn issuer(&self) -> &str {
        self.member("issuer", "name").and_then(Value::as_str).unwrap_or("Unknown")
    }

    fn key_kind(&self) -> Result<KeyKind, VaultError> {
        let text = |name| self.member("key_props", name).and_then(Value::as_str);
        let size = self.member("key_props", "key_size").and_then(Value::as_u64);
        key_kind(text("kty").unwrap_or("RSA"), size.and_then(|size| u16::try_from(size).ok()), text("crv"))
    }

    /// Fills in what the key and the certificate themselves say.
    fn complete(&mut self, keyed: &KeyedChain, is_import: bool) {
        let jwk = keyed.key.public_jwk();
        let mut fill = |section: &str, name: &str, value: Value| {
            let section = self.0.entry(section).or_insert_with(|| json!({}));
            if section.get(name).is_none_or(Value::is_null) {
                section[name] = value;
            }
        };
        fill("key_props", "exportable", true.into());
        fill("key_props", "reuse_key", false.into());
        fill("key_props", "kty", jwk.get("kty").cloned().unwrap_or_default());
        match keyed.key.kind {
            KeyKind::Rsa(bits) => fill("key_props", "key_size", bits.into()),
            KeyKind::Ec(_) => fill("key_props", "crv", jwk.get("crv").cloned().unwrap_or_default()),
        }
        fill("secret_props", "contentType", PFX.into());
        fill("x509_props", "subject", subject(keyed.leaf_der()).unwrap_or_default().into());
        fill("x509_props", "validity_months", 12.into());
        fill("issuer", "name", if is_import { "Unknown" } else { "Self" }.into());
    }

    pub(crate) fn render(&self, base: &Base<'_>, name: &str) -> Value {
        let mut members = self.0.clone();
        let id = format!("{}/policy", base.id(Collection::Certificates, name, None));
        members.insert("id".to_owned(), id.into());
        Value::Object(members)
    }
}

/// A certificate under way, or the memory of one that was made.
#[derive(Clone)]
pub(crate) struct Pending {
    issuer: String,
    csr: Vec<u8>,
    request_id: String,
    completed: bool,
}

impl Pending {
    pub(crate) fn render(&self, base: &Base<'_>, name: &str, completed: bool) -> Value {
        let id = base.id(Collection::Certificates, name, None);
        let mut operation = json!({
            "id": format!("{id}/pending"),
            "issuer": { "name": self.issuer },
            "csr": STANDARD.encode(&self.csr),
            "cancellation_requested": false,
            "status": if completed { "completed" } else { "inProgress" },
            "request_id": self.request_id,
        });
        if completed {
            operation["target"] = id.into();
        } else {
            operation["status_details"] = "Pending certificate created. Certificate request is in progress. This may \
                                           take some time based on the issuer provider. Please check again later."
                .into();
        }
        operation
    }

    pub(crate) fn completed(&self) -> bool {
        self.completed
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    value: Option<String>,
    pwd: Option<String>,
    policy: Option<Value>,
    attributes: Option<AttributeChanges>,
    tags: Option<Tags>,
    preserve_cert_order: Option<bool>,
}

impl Body {
    fn parse(bytes: &[u8]) -> Result<Self, VaultError> {
        let body: Self = serde_json::from_slice(bytes).map_err(|_| {
            VaultError::bad_parameter("Property  has invalid value: the request body is malformed.")
        })?;
        if let Some(tags) = &body.tags {
            check_tags(tags)?;
        }
        Ok(body)
    }
}

/// What a new certificate is made of beside its bytes.
pub(crate) struct NewCertificate {
    pub(crate) policy: Policy,
    pub(crate) attributes: AttributeChanges,
    pub(crate) tags: Tags,
    pub(crate) preserve_order: Option<bool>,
    pub(crate) is_import: bool,
}

/// An import, read but not yet stored.
pub(crate) fn read_import(body: &[u8]) -> Result<(KeyedChain, NewCertificate), VaultError> {
    let body = Body::parse(body)?;
    let value = body.value.ok_or_else(|| VaultError::bad_parameter("Property value is missing."))?;
    let password = body.pwd.as_deref().unwrap_or_default();
    let keyed = read_content(&value, password).map_err(VaultError::bad_parameter)?;
    let keyed = if body.preserve_cert_order == Some(true) { keyed } else { keyed.leaf_first() };
    let mut policy = Policy::new(body.policy);
    policy.complete(&keyed, true);
    let new = NewCertificate {
        policy,
        attributes: body.attributes.unwrap_or_default(),
        tags: body.tags.unwrap_or_default(),
        preserve_order: body.preserve_cert_order,
        is_import: true,
    };
    Ok((keyed, new))
}

/// PEM text, PEM in base64 (some SDKs encode whatever they are given), or a PFX in base64.
fn read_content(value: &str, password: &str) -> Result<KeyedChain, &'static str> {
    if value.contains("-----BEGIN") {
        return KeyedChain::from_pem(value);
    }
    let bytes =
        STANDARD.decode(value.trim()).map_err(|_| "The specified content is neither PEM nor base64.")?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.contains("-----BEGIN") => KeyedChain::from_pem(text),
        _ => KeyedChain::from_pfx(&bytes, password),
    }
}

/// A creation: the operation to remember and, when the vault signs by itself, the certificate.
pub(crate) fn read_create(
    body: &[u8],
    request_id: String,
    now_seconds: i64,
) -> Result<(Pending, Option<(KeyedChain, NewCertificate)>), VaultError> {
    let body = Body::parse(body)?;
    let mut policy = Policy::new(body.policy);
    let key = KeyMaterial::generate(policy.key_kind()?).ok_or_else(|| {
        VaultError::new(http::StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "No key.")
    })?;
    let subject = policy.member("x509_props", "subject").and_then(Value::as_str).unwrap_or("CN=unnamed");
    let sans = policy.member("x509_props", "sans").and_then(|sans| sans.get("dns_names"));
    let names =
        sans.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let months = policy.member("x509_props", "validity_months").and_then(Value::as_i64).unwrap_or(12);
    let request = Request {
        subject,
        dns_names: names.collect(),
        not_before: now_seconds - 600,
        not_after: now_seconds + months.clamp(1, 1200) * 30 * 86_400,
    };
    let (der, csr) = self_signed(&key, &request).map_err(VaultError::bad_parameter)?;
    let own = policy.issuer() == "Self";
    let pending = Pending { issuer: policy.issuer().to_owned(), csr, request_id, completed: own };
    if !own {
        return Ok((pending, None));
    }
    let keyed = KeyedChain { key, chain: vec![der] };
    policy.complete(&keyed, false);
    let new = NewCertificate {
        policy,
        attributes: body.attributes.unwrap_or_default(),
        tags: body.tags.unwrap_or_default(),
        preserve_order: body.preserve_cert_order,
        is_import: false,
    };
    Ok((pending, Some((keyed, new))))
}

/// What a backing secret holds.
pub(crate) fn secret_value(
    keyed: &KeyedChain,
    policy: &Policy,
    content_type: &str,
) -> Result<String, VaultError> {
    match content_type {
        PEM => Ok(keyed.to_pem(policy.exportable())),
        PFX => {
            let pfx = keyed.to_pfx(policy.exportable()).map_err(VaultError::bad_parameter)?;
            Ok(STANDARD.encode(pfx))
        }
        _ => Err(VaultError::bad_parameter("Property contentType has an invalid value.")),
    }
}

impl Store {
    /// Stores a certificate together with its key and its secret, all under one version.
    pub(crate) fn add_certificate(
        &mut self,
        name: &str,
        version: String,
        keyed: KeyedChain,
        new: NewCertificate,
        now_millis: i64,
    ) -> Result<(), VaultError> {
        self.certificates.check_free(name, now_millis)?;
        self.keys.check_free(name, now_millis)?;
        self.secrets.check_free(name, now_millis)?;

        let content_type = new.policy.content_type().to_owned();
        let value = secret_value(&keyed, &new.policy, &content_type)?;
        let mut attributes = Attributes::new(&new.attributes, now_millis / 1000);
        if let Some((not_before, not_after)) = validity(keyed.leaf_der()) {
            attributes.not_before = Some(not_before);
            attributes.expires = Some(not_after);
        }
        let leaf = keyed.leaf_der().to_vec();
        let secret = SecretContent {
            value,
            content_type: Some(content_type),
            certificate: Some((name.to_owned(), version.clone())),
        };
        let KeyedChain { key, chain } = keyed;
        let certificate =
            CertificateContent { chain, leaf, policy: new.policy, preserve_order: new.preserve_order };
        tracing::debug!(import = new.is_import, "certificate stored");

        let (id, tags) = (version, new.tags);
        self.keys.add(name, stamp(&id, &attributes, &tags, KeyContent::new(key, None, true), now_millis))?;
        self.secrets.add(name, stamp(&id, &attributes, &tags, secret, now_millis))?;
        self.certificates.add(name, stamp(&id, &attributes, &tags, certificate, now_millis))
    }

    /// The key and chain of a certificate's version.
    pub(crate) fn keyed_chain(&self, name: &str, version: &str) -> Option<(KeyedChain, Policy)> {
        let (_, certificate) = self.certificates.get_version(name, Some(version)).ok()?;
        let (_, key) = self.keys.get_version(name, Some(version)).ok()?;
        let keyed =
            KeyedChain { key: key.content.material.clone(), chain: certificate.content.chain.clone() };
        Some((keyed, certificate.content.policy.clone()))
    }
}

fn stamp<C>(id: &str, attributes: &Attributes, tags: &Tags, content: C, created_millis: i64) -> Version<C> {
    Version { id: id.to_owned(), attributes: attributes.clone(), tags: tags.clone(), content, created_millis }
}
