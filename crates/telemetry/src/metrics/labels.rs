//! The closed sets that label values come from. A text that is in none of them becomes `_OTHER`: what a TLS library
//! calls a new group must not grow the number of series.

use keyward_core::{Code, ErrorKind};

pub(super) const PROVIDERS: &[&str] = &["azure-key-vault", "aws-secrets-manager", "memory"];
pub(super) const OPERATIONS: &[&str] = &["get", "list", "versions"];
pub(super) const TARGETS: &[&str] = &["vault", "token", "imds", "notify", "otlp"];
pub(super) const METHODS: &[&str] =
    &["workload-identity", "identity-binding", "managed-identity", "service-principal", "web-identity"];
pub(super) const TLS: &[&str] = &["TLSv1_2", "TLSv1_3"];
pub(super) const GROUPS: &[&str] =
    &["X25519MLKEM768", "SECP256R1MLKEM768", "MLKEM768", "X25519", "secp256r1", "secp384r1", "secp521r1"];
pub(super) const NOTIFICATIONS: &[&str] = &["signal", "http", "exec"];
/// Methods that somebody may call on a socket of ours.
pub(super) const RPCS: &[&str] = &[
    "keyward.secrets.v1.SecretService/GetSecret",
    "keyward.secrets.v1.SecretService/BatchGetSecrets",
    "keyward.secrets.v1.SecretService/ListSecrets",
    "keyward.secrets.v1.SecretService/WatchSecrets",
    "keyward.secrets.v1.SecretService/RefreshSecret",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "csi.v1.Identity/GetPluginInfo",
    "csi.v1.Identity/GetPluginCapabilities",
    "csi.v1.Identity/Probe",
    "csi.v1.Node/NodeGetCapabilities",
    "csi.v1.Node/NodeGetInfo",
    "csi.v1.Node/NodePublishVolume",
    "csi.v1.Node/NodeUnpublishVolume",
    "pluginregistration.Registration/GetInfo",
    "pluginregistration.Registration/NotifyRegistrationStatus",
];
/// The canonical codes of gRPC.
pub(super) const GRPC: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `text` when it is one of `known`, else `_OTHER`.
pub(super) fn closed(text: &'static str, known: &[&str]) -> &'static str {
    if known.contains(&text) { text } else { "_OTHER" }
}

/// Where `text` stands in `known`; the length of `known` for any other.
pub(super) fn position(text: &str, known: &[&str]) -> usize {
    known.iter().position(|one| *one == text).unwrap_or(known.len())
}

pub(super) fn code(error: Option<Code>) -> &'static str {
    error.map_or("OK", Code::as_str)
}

pub(super) fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidInput => "invalid_input",
        ErrorKind::Unauthenticated => "unauthenticated",
        ErrorKind::Forbidden => "forbidden",
        ErrorKind::Disabled => "disabled",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Throttled => "throttled",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Protocol => "protocol",
        ErrorKind::StaleLimit => "stale_limit",
        ErrorKind::Content => "content",
        ErrorKind::ResourceExhausted => "resource_exhausted",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::System => "system",
        ErrorKind::Internal => "internal",
    }
}

/// The status codes that mean something here, and classes for the rest.
pub(super) fn status(number: u16) -> &'static str {
    match number {
        0 => "none",
        200 => "200",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        410 => "410",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        100..=199 => "1xx",
        201..=299 => "2xx",
        300..=399 => "3xx",
        402..=499 => "4xx",
        501..=599 => "5xx",
        _ => "_OTHER",
    }
}
