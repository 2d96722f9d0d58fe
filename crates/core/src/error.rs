use std::fmt;
use std::time::Duration;

/// What every fallible call of Keyward returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it is: decides retries, the promise-3 table, and the code at each edge (gRPC, CSI, HTTP, exit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's words are wrong: configuration, object reference, name, argument. Never retried.
    InvalidInput,
    /// Our identity was refused (token endpoint, or 401 after one refresh). A definite no.
    Unauthenticated,
    /// The vault knows us and says no. A definite no, unless a storm is on.
    Forbidden,
    /// The object's version is disabled. A definite no.
    Disabled,
    /// The object or version does not exist, or is deleted. A definite no.
    NotFound,
    /// The peer asks us to slow down. Transient.
    Throttled,
    /// The peer cannot be reached or fails. Transient.
    Unavailable,
    /// The deadline passed. Transient.
    Timeout,
    /// The peer's answer makes no sense or breaks a limit. Treated as transient: a proxy may have answered.
    Protocol,
    /// The last good value is older than `maxStale`.
    StaleLimit,
    /// Content cannot be converted as the spec asks (bad PFX, missing JSON key, wrong base64).
    Content,
    /// A local limit: rate, space, size, connections.
    ResourceExhausted,
    /// The local caller is not allowed to ask.
    PermissionDenied,
    /// The local system fails: files, mounts, sockets.
    System,
    /// A defect of Keyward.
    Internal,
}

impl ErrorKind {
    /// Whether the upstream said a definite no, as opposed to failing (promise 3).
    #[must_use]
    pub fn is_definite_no(self) -> bool {
        matches!(self, Self::Unauthenticated | Self::Forbidden | Self::Disabled | Self::NotFound)
    }

    /// Whether trying again later can help without anybody changing anything.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::Timeout | Self::Protocol)
    }
}

/// Which hop of the way failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hop {
    /// Reading what the user wrote.
    Configuration,
    /// The file or claims that prove who we are.
    Identity,
    /// The token endpoint, IMDS or the token proxy.
    Token,
    /// Resolving a host name.
    Dns,
    /// Opening the connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The vault's answer about permission or state.
    Vault,
    /// The object itself: missing, disabled, or content that cannot be converted.
    Object,
    /// Files, tmpfs, sockets.
    FileSystem,
    /// The local API's caller.
    Caller,
    /// The SecretProviderClass.
    Class,
    /// The Kubernetes API, or what kubelet passes for a pod.
    Kubernetes,
}

impl Hop {
    /// The word used in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Identity => "identity",
            Self::Token => "token",
            Self::Dns => "DNS",
            Self::Connect => "connect",
            Self::Tls => "TLS",
            Self::Vault => "vault",
            Self::Object => "object",
            Self::FileSystem => "file system",
            Self::Caller => "caller",
            Self::Class => "class",
            Self::Kubernetes => "Kubernetes",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $kind:ident, $hop:ident;)+) => {
        /// The stable name of a failure, as users see it in errors, metrics and `google.rpc.ErrorInfo.reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)+ } }

            /// What it means, one sentence for the reference page.
            #[must_use]
            pub fn meaning(self) -> &'static str { match self { $(Self::$name => concat!($($doc),+),)+ } }

            /// The kind that this code belongs to.
            #[must_use]
            pub fn kind(self) -> ErrorKind { match self { $(Self::$name => ErrorKind::$kind,)+ } }

            /// The hop that this code blames.
            #[must_use]
            pub fn hop(self) -> Hop { match self { $(Self::$name => Hop::$hop,)+ } }
        }
    };
}

codes! {
    /// The configuration or an argument is wrong; the message lists every mistake.
    ConfigInvalid = "KW_CONFIG_INVALID", InvalidInput, Configuration;
    /// An object's reference or settings are wrong.
    ObjectInvalid = "KW_OBJECT_INVALID", InvalidInput, Configuration;
    /// A SecretProviderClass cannot be used as it is written; the message lists every mistake.
    ClassInvalid = "KW_CLASS_INVALID", InvalidInput, Class;
    /// A pod's label or annotations ask for something that is wrong; the message lists every mistake.
    AnnotationInvalid = "KW_ANNOTATION_INVALID", InvalidInput, Configuration;
    /// A pod cannot be given secrets the way it asks for: Windows, a place that is taken, a name that is ours.
    PodUnsupported = "KW_POD_UNSUPPORTED", InvalidInput, Configuration;
    /// `notify` is written where nobody may be notified (CSI volumes and classes).
    NotifyNotHere = "KW_NOTIFY_NOT_HERE", InvalidInput, Configuration;
    /// The federated token, secret or certificate file is missing or unreadable.
    IdentityFile = "KW_IDENTITY_FILE", Unauthenticated, Identity;
    /// A fresh service-account token is awaited: kubelet passes one with its next call.
    TokenAwaited = "KW_TOKEN_AWAITED", Unavailable, Identity;
    /// Entra refused the token request; the message has the AADSTS number and the identity.
    TokenRefused = "KW_TOKEN_REFUSED", Unauthenticated, Token;
    /// A pod's right to its identity lapsed and could not be proved again with a token of its own.
    IdentityUnproved = "KW_IDENTITY_UNPROVED", Unauthenticated, Identity;
    /// The managed identity is not assigned to this machine.
    IdentityNotAssigned = "KW_IDENTITY_NOT_ASSIGNED", Unauthenticated, Token;
    /// The token endpoint cannot be reached or fails.
    TokenUnavailable = "KW_TOKEN_UNAVAILABLE", Unavailable, Token;
    /// The token endpoint asks us to slow down.
    TokenThrottled = "KW_TOKEN_THROTTLED", Throttled, Token;
    /// The token endpoint's answer makes no sense.
    TokenProtocol = "KW_TOKEN_PROTOCOL", Protocol, Token;
    /// A host name does not resolve, or the name server gives no answer in time.
    Dns = "KW_DNS", Unavailable, Dns;
    /// A host's addresses are not allowed (loopback or link-local without being listed).
    AddressRefused = "KW_ADDRESS_REFUSED", InvalidInput, Dns;
    /// A connection cannot be opened or broke.
    Connect = "KW_CONNECT", Unavailable, Connect;
    /// The server's certificate is not trusted; add its root with `tls.extraRootsFile`.
    TlsUntrusted = "KW_TLS_UNTRUSTED", Unavailable, Tls;
    /// The server does not speak TLS 1.3; an administrator may lower the floor for that host.
    TlsVersion = "KW_TLS_VERSION", Unavailable, Tls;
    /// The TLS handshake failed otherwise.
    Tls = "KW_TLS", Unavailable, Tls;
    /// The deadline of the request passed.
    Timeout = "KW_TIMEOUT", Timeout, Connect;
    /// A credentialed request tried to leave the host that it was meant for.
    OriginRefused = "KW_ORIGIN_REFUSED", Protocol, Connect;
    /// An answer is larger than its limit.
    ResponseTooLarge = "KW_RESPONSE_TOO_LARGE", Protocol, Vault;
    /// The vault refused our token even after a fresh one.
    VaultUnauthenticated = "KW_VAULT_UNAUTHENTICATED", Unauthenticated, Vault;
    /// The vault says that this identity may not do this.
    VaultForbidden = "KW_VAULT_FORBIDDEN", Forbidden, Vault;
    /// The vault throttles.
    VaultThrottled = "KW_VAULT_THROTTLED", Throttled, Vault;
    /// The vault fails.
    VaultUnavailable = "KW_VAULT_UNAVAILABLE", Unavailable, Vault;
    /// The vault's answer makes no sense.
    VaultProtocol = "KW_VAULT_PROTOCOL", Protocol, Vault;
    /// The vault rejected the request as malformed.
    VaultBadRequest = "KW_VAULT_BAD_REQUEST", InvalidInput, Vault;
    /// The challenge of the vault names a resource that is not the vault's own.
    ChallengeMismatch = "KW_CHALLENGE_MISMATCH", Protocol, Vault;
    /// The object or version does not exist, or is deleted.
    ObjectNotFound = "KW_OBJECT_NOT_FOUND", NotFound, Object;
    /// The object's version is disabled.
    ObjectDisabled = "KW_OBJECT_DISABLED", Disabled, Object;
    /// The value cannot be converted as asked.
    ContentInvalid = "KW_CONTENT_INVALID", Content, Object;
    /// A template cannot be rendered.
    TemplateFailed = "KW_TEMPLATE_FAILED", Content, Object;
    /// The last good value is older than `rotation.maxStale`.
    StaleLimit = "KW_STALE_LIMIT", StaleLimit, Vault;
    /// The name is not declared for this pod.
    UnknownName = "KW_UNKNOWN_NAME", NotFound, Caller;
    /// The caller's uid is not allowed.
    CallerRefused = "KW_CALLER_REFUSED", PermissionDenied, Caller;
    /// A request to the local API is malformed.
    RequestInvalid = "KW_REQUEST_INVALID", InvalidInput, Caller;
    /// The caller asks too often.
    RateLimited = "KW_RATE_LIMITED", ResourceExhausted, Caller;
    /// A limit is exceeded: volumes, vault hosts, descriptors or older versions of a pod, connections, calls or watches of the
    /// local API, or the size of a message.
    LimitExceeded = "KW_LIMIT_EXCEEDED", ResourceExhausted, Caller;
    /// The path is not tmpfs and none may be mounted.
    TmpfsRequired = "KW_TMPFS_REQUIRED", System, FileSystem;
    /// The tmpfs is full, or what is held for a pod is at its limit: its files and values, or answers that it does not read.
    NoSpace = "KW_NO_SPACE", ResourceExhausted, FileSystem;
    /// A file, directory, mount or socket operation failed.
    FileSystem = "KW_FILE_SYSTEM", System, FileSystem;
    /// The node or the container has no file descriptor, process or thread left; the message says which limit to raise.
    Exhausted = "KW_EXHAUSTED", System, FileSystem;
    /// A change notification did not reach its target.
    NotifyFailed = "KW_NOTIFY_FAILED", System, FileSystem;
    /// The audit log cannot be written and `audit.onFailure` is `deny`.
    AuditUnavailable = "KW_AUDIT_UNAVAILABLE", System, FileSystem;
    /// The audit log does not verify.
    AuditBroken = "KW_AUDIT_BROKEN", InvalidInput, FileSystem;
    /// A volume without `readOnly: true`, which alone keeps the pod from writing to it.
    ReadOnlyRequired = "KW_READ_ONLY_REQUIRED", InvalidInput, Configuration;
    /// A CSI volume's attributes are wrong, or it asks for what a volume cannot give.
    VolumeInvalid = "KW_VOLUME_INVALID", InvalidInput, Configuration;
    /// Another call for the same volume is under way.
    VolumeBusy = "KW_VOLUME_BUSY", Unavailable, Caller;
    /// The SecretProviderClass does not exist in the pod's namespace.
    ClassNotFound = "KW_CLASS_NOT_FOUND", NotFound, Class;
    /// The classes of the cluster are not known yet, because the Kubernetes API did not answer.
    ClassUnavailable = "KW_CLASS_UNAVAILABLE", Unavailable, Class;
    /// The Kubernetes API cannot be asked.
    KubernetesUnavailable = "KW_KUBERNETES_UNAVAILABLE", Unavailable, Kubernetes;
    /// The Kubernetes API refuses a request; the message names the missing right.
    KubernetesForbidden = "KW_KUBERNETES_FORBIDDEN", PermissionDenied, Kubernetes;
    /// The CSIDriver object lacks what the proof of identity rests on (`podInfoOnMount`, `tokenRequests`).
    DriverObjectInvalid = "KW_CSI_DRIVER_OBJECT", System, Kubernetes;
    /// Kubelet passed no service account token with the audience that the identity needs.
    TokenMissing = "KW_TOKEN_MISSING", InvalidInput, Identity;
    /// The token belongs to another pod or service account than the volume.
    ClaimsMismatch = "KW_CLAIMS_MISMATCH", PermissionDenied, Identity;
    /// No client id, tenant or client secret is known for the pod.
    IdentityMissing = "KW_IDENTITY_MISSING", InvalidInput, Identity;
    /// The administrator has not listed this service account for the node's managed identity.
    NodeIdentityRefused = "KW_NODE_IDENTITY_REFUSED", PermissionDenied, Identity;
    /// Keyward is shutting down.
    ShuttingDown = "KW_SHUTTING_DOWN", Unavailable, Caller;
    /// A defect of Keyward; please report it.
    Internal = "KW_INTERNAL", Internal, Caller;
}

/// The one error of Keyward. Its `Display` is public text: what failed, for which object and identity, and the next
/// step; it never holds a value, a token or a peer's own words. `detail` is for logs at debug level.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    object: Option<String>,
    identity: Option<String>,
    retry_after: Option<Duration>,
    detail: Option<String>,
}

impl Error {
    /// An error with its public message: what happened and what to do, without a trailing full stop.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            object: None,
            identity: None,
            retry_after: None,
            detail: None,
        }))
    }

    /// Names the object concerned, unless one is named already.
    #[must_use]
    pub fn object(mut self, object: impl fmt::Display) -> Self {
        self.0.object.get_or_insert_with(|| object.to_string());
        self
    }

    /// Names the identity that was tried, unless one is named already.
    #[must_use]
    pub fn identity(mut self, identity: impl fmt::Display) -> Self {
        self.0.identity.get_or_insert_with(|| identity.to_string());
        self
    }

    /// How long the peer asked us to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Internal detail for debug logs; must not hold a value, a token or unbounded peer text.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.0.detail = Some(detail.to_string());
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The kind, which the code decides.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.code.kind()
    }

    /// The hop that failed.
    #[must_use]
    pub fn hop(&self) -> Hop {
        self.0.code.hop()
    }

    /// The message alone, without code, object and identity.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The object concerned.
    #[must_use]
    pub fn object_name(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// The identity tried.
    #[must_use]
    pub fn identity_name(&self) -> Option<&str> {
        self.0.identity.as_deref()
    }

    /// How long the peer asked us to wait, unclamped.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Internal detail.
    #[must_use]
    pub fn internal_detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.message)?;
        if let Some(object) = &self.0.object {
            write!(f, " [object {object}]")?;
        }
        if let Some(identity) = &self.0.identity {
            write!(f, " [identity {identity}]")?;
        }
        Ok(())
    }
}

/// The same as `Display`, so that `unwrap` in a test and `?` in `main` never print more than is public.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_code_message_object_and_identity() {
        let error = Error::new(
            Code::VaultForbidden,
            "the vault refused `secrets get`; assign the role Key Vault Secrets User",
        )
        .object("https://shop.vault.azure.net/secrets/db")
        .identity("client 1111")
        .detail("not shown");
        assert_eq!(
            error.to_string(),
            "KW_VAULT_FORBIDDEN: the vault refused `secrets get`; assign the role Key Vault Secrets User \
             [object https://shop.vault.azure.net/secrets/db] [identity client 1111]"
        );
        assert!(error.kind().is_definite_no());
    }

    #[test]
    fn every_code_has_a_text_of_its_own() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        let count = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), count);
        assert!(texts.iter().all(|text| text.starts_with("KW_")));
    }
}
