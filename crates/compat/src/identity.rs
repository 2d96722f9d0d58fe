use crate::class::Notes;
use crate::parameters::Parameters;

/// Who asks the vault, as the class says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassIdentity {
    /// No mode is named. With a `clientID` it is workload identity with the pod's own token; without one it is the
    /// service principal of `nodePublishSecretRef` where the volume has one, otherwise workload identity again.
    Default {
        /// `clientID`; without one, and without a service principal, the service account's annotation decides.
        client_id: Option<String>,
    },
    /// `useAzureTokenProxy`: the cluster's identity binding exchanges the pod's token.
    TokenProxy {
        /// `clientID`; without one the service account's annotation decides.
        client_id: Option<String>,
    },
    /// `useVMManagedIdentity`: an identity of the node, where the administrator lists it.
    VmManaged {
        /// `userAssignedIdentityID`; without one the machine's own identity.
        client_id: Option<String>,
    },
}

impl ClassIdentity {
    /// The client id that the class names.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::Default { client_id } | Self::TokenProxy { client_id } | Self::VmManaged { client_id } => {
                client_id.as_deref()
            }
        }
    }
}

const MACHINE: &str = "useVMManagedIdentity";
const MODES: [&str; 3] = ["usePodIdentity", MACHINE, "useAzureTokenProxy"];

/// Reads the mode and its client id.
pub(crate) fn read(parameters: &Parameters<'_>, notes: &mut Notes) -> Option<ClassIdentity> {
    let [pod, machine, proxy] = MODES.map(|name| parameters.flag(name));
    let client_id = parameters.client_id("clientID");
    let assigned = parameters.client_id("userAssignedIdentityID");
    if pod {
        parameters.mistake(
            "usePodIdentity",
            "is not available: AAD Pod Identity was retired; give the pod's service account a federated credential \
             (workload identity), write its client id as clientID, and leave usePodIdentity out",
        );
    }
    if machine && proxy {
        parameters.mistake(MACHINE, "stands beside useAzureTokenProxy; write one of them");
    }
    if pod || (machine && proxy) {
        return None;
    }
    if machine {
        if client_id.is_some() {
            notes.add(
                "clientID",
                "has no meaning beside useVMManagedIdentity, and no service account token is needed for it",
            );
        }
        notes.add(
            MACHINE,
            "works only where the administrator lists the pod's service account under `nodeIdentity` of the node plugin",
        );
        return Some(ClassIdentity::VmManaged { client_id: assigned });
    }
    if assigned.is_some() {
        notes.add("userAssignedIdentityID", "has no meaning without useVMManagedIdentity");
    }
    if client_id.is_none() {
        let unless = if proxy { "" } else { "unless the volume has nodePublishSecretRef, " };
        notes.add(
            "clientID",
            format!(
                "is absent: {unless}the client id comes from the service account's annotation \
                 azure.workload.identity/client-id"
            ),
        );
    }
    Some(if proxy { ClassIdentity::TokenProxy { client_id } } else { ClassIdentity::Default { client_id } })
}
