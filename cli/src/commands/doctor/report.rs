#![expect(clippy::arithmetic_side_effects, reason = "counts of lines that are printed")]

use std::fmt::Display;

use keyward_core::{Code, Error, Result};

/// Says what was looked at and how it is, line by line, and remembers the first failure.
#[derive(Default)]
pub(super) struct Report {
    first: Option<Error>,
    failures: usize,
    checks: usize,
}

impl Report {
    pub(super) fn good(&mut self, hop: &str, what: impl Display) {
        self.checks += 1;
        print(format_args!("ok    {hop:<14} {what}"));
    }

    pub(super) fn note(&self, hop: &str, what: impl Display) {
        print(format_args!("note  {hop:<14} {what}"));
    }

    pub(super) fn bad(&mut self, hop: &str, error: &Error) {
        self.checks += 1;
        self.failures += 1;
        print(format_args!("FAIL  {hop:<14} {error}"));
        print(format_args!("      {:<14} fix: {}", "", fix(error.code())));
        self.first.get_or_insert_with(|| error.clone());
    }

    /// # Errors
    /// The first failure, so that the exit code says what kind it is.
    pub(super) fn finish(self) -> Result<()> {
        print(format_args!("{} checks, {} failed", self.checks, self.failures));
        self.first.map_or(Ok(()), Err)
    }
}

#[expect(clippy::print_stdout, reason = "the report is this command's output")]
fn print(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

/// The next step for each failure. Total, so that a new code cannot be without one.
fn fix(code: Code) -> &'static str {
    match code {
        Code::ConfigInvalid | Code::ObjectInvalid | Code::NotifyNotHere | Code::RequestInvalid => {
            "correct the settings named above; docs/configuration.md lists them all"
        }
        Code::IdentityFile => {
            "run in a pod with the label azure.workload.identity/use, or set identity.tokenFile"
        }
        Code::TokenRefused => {
            "compare issuer, subject and audience with the federated credential of the identity; matching is case-sensitive"
        }
        Code::IdentityNotAssigned => "assign the identity to the virtual machine scale set of the node pool",
        Code::TokenUnavailable | Code::TokenThrottled | Code::TokenProtocol => {
            "check egress to the authority host, and whether a proxy answers in its place"
        }
        Code::Dns => {
            "check the vault's name, and the private DNS zone privatelink.vaultcore.azure.net if it has one"
        }
        Code::AddressRefused => "list the host under vaults if it is meant to be local",
        Code::Connect | Code::Timeout => {
            "check network policies, firewalls and proxies between here and the host"
        }
        Code::TlsUntrusted => "add the root of whoever intercepts TLS with tls.extraRootsFile",
        Code::TlsVersion => "lower the floor for this host with tls.hosts, if that is acceptable",
        Code::Tls => "check whether something between here and the host intercepts TLS",
        Code::OriginRefused | Code::ChallengeMismatch => {
            "check that the vault's host is genuine; for an emulator set verifyChallengeResource: false"
        }
        Code::ResponseTooLarge | Code::VaultProtocol => {
            "check what answers at the vault's address; a proxy may"
        }
        Code::VaultUnauthenticated => {
            "check identity.tenantId and the cloud: the vault trusts tokens of its own tenant"
        }
        Code::VaultForbidden => {
            "assign the role Key Vault Secrets User (secrets), Crypto User (keys) or Certificate User, and allow this address in the vault's firewall; grants take minutes"
        }
        Code::VaultThrottled | Code::VaultUnavailable | Code::StaleLimit => {
            "wait, and look at the vault's metrics and Azure's status page"
        }
        Code::VaultBadRequest => "check the object's name and version",
        Code::ObjectNotFound => "create or recover the object, or mark it optional",
        Code::ObjectDisabled => "enable the object's current version, or pin another one",
        Code::ContentInvalid => "compare decode, key and format with what the vault holds",
        Code::TemplateFailed => "correct the template; docs/applications.md lists its filters",
        Code::TmpfsRequired => {
            "use an emptyDir with medium: Memory, or let Keyward mount tmpfs (CAP_SYS_ADMIN)"
        }
        Code::NoSpace => "raise the volume's sizeLimit",
        Code::FileSystem => "check owner and mode of the path named above",
        Code::AuditUnavailable | Code::AuditBroken => "check audit.file and the space on its volume",
        Code::NotifyFailed => "check shareProcessNamespace, the process's name and its user",
        _ => "see the message above",
    }
}
