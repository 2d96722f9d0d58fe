//! Key Vault's error bodies.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::operation::Collection;
use crate::reply::Reply;

/// A refusal, before it is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VaultError {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) inner_code: Option<String>,
}

impl VaultError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), inner_code: None }
    }

    fn with_inner(self, inner_code: &str) -> Self {
        Self { inner_code: Some(inner_code.to_owned()), ..self }
    }

    pub(crate) fn bad_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadParameter", message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    pub(crate) fn not_found(collection: Collection, name: &str, version: Option<&str>) -> Self {
        let kind = collection.singular();
        let what = match version {
            Some(version) => format!("{name}/{version}"),
            None => name.to_owned(),
        };
        let lower = kind.to_ascii_lowercase();
        Self::new(
            StatusCode::NOT_FOUND,
            &format!("{kind}NotFound"),
            format!(
                "A {lower} with (name/id) {what} was not found in this key vault. If you recently deleted this \
                 {lower} you may be able to recover it using the correct recovery command. For help resolving this \
                 issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"
            ),
        )
    }

    pub(crate) fn disabled() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", "Operation get is not allowed on a disabled secret.")
            .with_inner("SecretDisabled")
    }

    pub(crate) fn deleted_but_recoverable(collection: Collection, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!(
                "{} {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this \
                 state, the object can only be recovered or purged.",
                collection.singular()
            ),
        )
        .with_inner("ObjectIsDeletedButRecoverable")
    }

    pub(crate) fn being_deleted(collection: Collection, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("{} {name} is currently being deleted.", collection.singular()),
        )
        .with_inner("ObjectIsBeingDeleted")
    }

    /// Key and secret of a certificate are deleted with it, never alone.
    pub(crate) fn managed(collection: Collection) -> Self {
        let kind = collection.singular().to_ascii_lowercase();
        Self::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("Operation delete is not allowed on a {kind} that belongs to a certificate."),
        )
    }

    pub(crate) fn forbidden(inner_code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with_inner(inner_code)
    }

    pub(crate) fn throttled() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Throttled",
            "Request was not processed because too many requests were received. Reason: \
             VaultRequestTypeLimitReached",
        )
    }

    /// The body that goes with a status made up by a fault.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            429 => Self::throttled(),
            500 => Self::new(status, "InternalServerError", "An internal server error occurred."),
            503 => Self::new(status, "ServiceUnavailable", "The service is temporarily unavailable."),
            _ => Self::new(
                status,
                &status.canonical_reason().unwrap_or("Error").replace(' ', ""),
                "The request could not be processed.",
            ),
        }
    }

    pub(crate) fn into_reply(self) -> Reply {
        let mut error = Map::new();
        error.insert("code".to_owned(), self.code.into());
        error.insert("message".to_owned(), self.message.into());
        if let Some(inner_code) = self.inner_code {
            error.insert("innererror".to_owned(), json!({ "code": inner_code }));
        }
        Reply::json(self.status, &json!({ "error": Value::Object(error) }))
    }
}
