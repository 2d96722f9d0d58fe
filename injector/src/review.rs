//! The API server's question and our answer: admission.k8s.io/v1 AdmissionReview
//! (kubernetes.io, "Dynamic Admission Control", webhook request and response).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::{Code, Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::Decision;

/// The largest question that is read: a pod of at most 1.5 MiB, as etcd takes it, and what goes with it.
pub const LARGEST: usize = 3 * 1024 * 1024;
/// Longest message of an answer, so that it fits into the event that a controller makes of it.
const LONGEST: usize = 900;
/// Warnings are cut by the API server beyond this, all together.
const MOST_WARNINGS: usize = 16;

/// One question. Pods carry what their authors put into them, so there is no `Debug`.
#[derive(Clone, Deserialize)]
pub struct Request {
    /// What the answer must repeat.
    pub uid: String,
    /// What is being created.
    pub kind: Kind,
    /// Where; empty for what belongs to no namespace.
    #[serde(default)]
    pub namespace: String,
    /// CREATE, UPDATE, DELETE or CONNECT.
    #[serde(default)]
    pub operation: String,
    /// The object.
    #[serde(default)]
    pub object: Value,
}

/// A kind of object.
#[derive(Debug, Clone, Deserialize)]
pub struct Kind {
    /// The API group; empty for the core's.
    #[serde(default)]
    pub group: String,
    /// `Pod`
    #[serde(default)]
    pub kind: String,
}

impl Request {
    /// Whether it is the creation of a pod: nothing else is ever changed.
    #[must_use]
    pub fn is_new_pod(&self) -> bool {
        self.kind.group.is_empty() && self.kind.kind == "Pod" && self.operation == "CREATE"
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// Reads a question.
///
/// # Errors
/// `KW_CONFIG_INVALID` when it is none, or of a version that we did not offer.
pub fn read(body: &[u8]) -> Result<Request> {
    let bad = |what: &str| Error::new(Code::ConfigInvalid, format!("the question of the API server {what}"));
    if body.len() > LARGEST {
        return Err(bad("is larger than 3 MiB"));
    }
    let review: Review = serde_json::from_slice(body).map_err(|_| bad("is no AdmissionReview"))?;
    if review.api_version != "admission.k8s.io/v1" || review.kind != "AdmissionReview" {
        return Err(bad("is not of admission.k8s.io/v1"));
    }
    review.request.filter(|request| !request.uid.is_empty()).ok_or_else(|| bad("holds no request"))
}

/// The answer to a question.
#[must_use]
pub fn answer(request: &Request, decision: &Result<Decision>) -> Value {
    let mut response = json!({"uid": request.uid, "allowed": decision.is_ok()});
    match decision {
        Ok(Decision::Untouched) => {}
        Ok(Decision::Skipped { pod, .. }) => put_patch(&mut response, &request.object, pod),
        Ok(Decision::Injected { pod, warnings, .. }) => {
            put_patch(&mut response, &request.object, pod);
            if !warnings.is_empty() {
                response["warnings"] = warnings.iter().take(MOST_WARNINGS).map(|text| json!(text)).collect();
            }
        }
        Err(error) => {
            let (code, reason) = status(error);
            let mut message = error.to_string();
            message.truncate(message.floor_char_boundary(LONGEST));
            response["status"] = json!({"code": code, "reason": reason, "message": message});
        }
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Turns one document into another (RFC 6902).
#[must_use]
pub fn patch(from: &Value, to: &Value) -> Value {
    json!(json_patch::diff(from, to))
}

fn put_patch(response: &mut Value, from: &Value, to: &Value) {
    let patch = patch(from, to);
    if patch.as_array().is_some_and(|steps| !steps.is_empty()) {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(patch.to_string()));
    }
}

/// As which HTTP status the API server passes a refusal on, and its reason (metav1.StatusReason).
fn status(error: &Error) -> (u16, &'static str) {
    match error.kind() {
        ErrorKind::InvalidInput => (422, "Invalid"),
        ErrorKind::PermissionDenied | ErrorKind::Forbidden => (403, "Forbidden"),
        kind if kind.is_transient() => (503, "ServiceUnavailable"),
        _ => (500, "InternalError"),
    }
}
