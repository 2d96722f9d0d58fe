//! The API server's question and our answer: admission.k8s.io/v1 AdmissionReview
//! (kubernetes.io, "Dynamic Admission Control", webhook request and response).
//!
//! A question is read twice: first without its object, of which only the values are counted, and the object itself when
//! it is small enough and somebody wants it. What a tree of values costs is many times its text.

mod patch;
mod weigh;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward_core::{Code, Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use patch::patch;
use weigh::Weight;

use crate::admission::Decision;
use crate::text::shown;

/// The largest question that is read, bytes: what an API server reads itself (k8s.io/apiserver, MaxRequestBodyBytes).
pub const LARGEST: usize = 3 * 1024 * 1024;
/// Most JSON values of a pod (objects, lists, texts, numbers). A tree of so many takes less than 12 MiB beside its text.
pub const MOST_VALUES: usize = 20_000;
/// Longest message of an answer, bytes, so that it fits into the event that a controller makes of it.
const LONGEST: usize = 900;
/// Longest single warning, bytes (kubernetes.io, "Dynamic Admission Control": beyond 256 characters they may be cut).
const LONGEST_WARNING: usize = 256;
/// Warnings are cut by the API server beyond this, all together.
const MOST_WARNINGS: usize = 16;
/// Longest uid, namespace or name, bytes: no name of Kubernetes has more.
const LONGEST_NAME: usize = 253;

/// One question, without its object.
#[derive(Debug, Clone)]
pub struct Question {
    /// What the answer must repeat.
    pub uid: String,
    /// Where; empty for what belongs to no namespace.
    pub namespace: String,
    /// The object's name; empty for a pod of a controller.
    pub name: String,
    is_new_pod: bool,
    values: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "T: Deserialize<'de> + Default"))]
struct Review<T> {
    api_version: String,
    kind: String,
    request: Option<Request<T>>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de> + Default"))]
struct Request<T> {
    uid: String,
    kind: Kind,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: T,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
}

impl Question {
    /// Whether it is the creation of a pod: nothing else is ever changed.
    #[must_use]
    pub fn is_new_pod(&self) -> bool {
        self.is_new_pod
    }

    /// Whether the object may be made a tree.
    ///
    /// # Errors
    /// `KW_POD_UNSUPPORTED` with what to change.
    pub fn check_size(&self) -> Result<()> {
        if self.values <= MOST_VALUES {
            return Ok(());
        }
        Err(Error::new(
            Code::PodUnsupported,
            format!(
                "the pod has {} values (texts, numbers, lists, mappings), more than the {MOST_VALUES} allowed: take \
                 many entries of env from a ConfigMap by envFrom, or remove the label keyward.dev/inject",
                self.values
            ),
        ))
    }
}

/// Reads a question.
///
/// # Errors
/// `KW_CONFIG_INVALID` when it is none, or of a version that we did not offer.
pub fn read(body: &[u8]) -> Result<Question> {
    let request = request::<Weight>(body)?;
    if request.uid.is_empty() {
        return Err(bad("holds no request"));
    }
    if [&request.uid, &request.namespace, &request.name].iter().any(|text| text.len() > LONGEST_NAME) {
        return Err(bad("names something with more than 253 bytes"));
    }
    let kind = &request.kind;
    Ok(Question {
        is_new_pod: kind.group.is_empty() && kind.kind == "Pod" && request.operation == "CREATE",
        uid: request.uid,
        namespace: request.namespace,
        name: request.name,
        values: request.object.values(),
    })
}

/// The object of a question that was read and whose size is checked, as a tree.
///
/// # Errors
/// As [`read`].
pub fn object(body: &[u8]) -> Result<Value> {
    Ok(request::<Value>(body)?.object)
}

fn request<T: DeserializeOwned + Default>(body: &[u8]) -> Result<Request<T>> {
    if body.len() > LARGEST {
        return Err(bad("is larger than 3 MiB"));
    }
    let review: Review<T> = serde_json::from_slice(body).map_err(|_| bad("is no AdmissionReview"))?;
    if review.api_version != "admission.k8s.io/v1" || review.kind != "AdmissionReview" {
        return Err(bad("is not of admission.k8s.io/v1"));
    }
    review.request.ok_or_else(|| bad("holds no request"))
}

fn bad(what: &str) -> Error {
    Error::new(Code::ConfigInvalid, format!("the question of the API server {what}"))
}

/// The answer to a question about `object`.
#[must_use]
pub fn answer(question: &Question, object: Value, decision: &Result<Decision>) -> Value {
    let mut response = serde_json::Map::new();
    let mut put = |key: &str, value: Value| response.insert(key.to_owned(), value);
    put("uid", json!(question.uid));
    put("allowed", json!(decision.is_ok()));
    let steps = match decision {
        Ok(Decision::Untouched) | Err(_) => json_patch::Patch::default(),
        Ok(Decision::Skipped { pod, .. } | Decision::Injected { pod, .. }) => patch(object, pod),
    };
    if !steps.is_empty() {
        put("patchType", json!("JSONPatch"));
        put("patch", json!(STANDARD.encode(json!(steps).to_string())));
    }
    match decision {
        Ok(Decision::Injected { warnings, .. }) if !warnings.is_empty() => {
            let warnings =
                warnings.iter().take(MOST_WARNINGS).map(|text| json!(shown(text, LONGEST_WARNING)));
            put("warnings", warnings.collect());
        }
        Ok(_) => {}
        Err(error) => {
            let (code, reason) = status(error);
            let message = error.to_string();
            put("status", json!({"code": code, "reason": reason, "message": shown(&message, LONGEST)}));
        }
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
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
