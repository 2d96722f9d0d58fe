//! The emulated Azure at the node's address. What proves a pod's identity is the API server's own signature.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyward_emulator::{
    Effect, Emulator, Fault, Identity, ListenerKind, Permission, Registration, TOKEN_EXCHANGE_AUDIENCE,
    VaultHandle,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Outcome;
use crate::cluster::Cluster;

/// Who signs the service accounts' tokens.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
/// The vault as its users write it.
pub(crate) const VAULT: &str = "https://shop.vault.azure.net/secrets";
const PORT: u16 = 8443;
/// Of the emulator's admin API, on loopback.
pub(crate) const ADMIN_PORT: u16 = 8444;

pub(crate) struct Azure {
    pub(crate) emulator: Emulator,
    address: String,
    /// Serves until the end of the process.
    _runtime: Runtime,
}

impl Azure {
    pub(crate) fn start(cluster: &Cluster) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let address = format!("{}:{PORT}", cluster.address);
        let listen: SocketAddr = address.parse().map_err(|_| format!("{address} is no address"))?;
        let builder = Emulator::builder()
            .vault("shop")
            .listen(ListenerKind::Https, listen)
            .listen(ListenerKind::Admin, SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)))
            .rate_limits(None);
        let emulator = runtime.block_on(builder.start()).map_err(|error| format!("the emulator: {error}"))?;
        emulator.alias(&address, "shop");
        let keys = cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])?;
        let keys: Value = serde_json::from_str(&keys).map_err(|error| error.to_string())?;
        emulator.issuer().trust(ISSUER, keys).map_err(|error| error.to_string())?;
        Ok(Self { emulator, address, _runtime: runtime })
    }

    /// What the chart must know to take this for Azure.
    pub(crate) fn values(&self) -> Value {
        let cloud = json!({
            "name": "Emulated",
            "authorityHost": format!("https://{}", self.address),
            "vaultDnsSuffix": "vault.azure.net",
            "audience": "https://vault.azure.net",
        });
        let vaults = json!([{"host": "shop.vault.azure.net", "address": self.address}]);
        // Every tenth check reads all values anew: later than the scenarios that count reads take.
        let rotation = json!({"interval": "3s", "jitter": 0});
        json!({
            "extraRoots": self.emulator.ca_pem(),
            "crds": {"secretProviderClass": true},
            "driver": {
                "config": {"clouds": [cloud], "defaultCloud": "Emulated", "vaults": vaults, "rotation": rotation},
            },
            "injector": {
                "config": {"cloud": cloud, "vaults": vaults, "rotation": rotation},
            },
        })
    }

    pub(crate) fn vault(&self) -> VaultHandle {
        self.emulator.vault("shop")
    }

    pub(crate) fn tenant(&self) -> &str {
        self.emulator.tenant_id()
    }

    /// An identity that trusts a service account, and may read the vault.
    pub(crate) fn reader(&self, namespace: &str, account: &str) -> Identity {
        let identity = self.stranger(namespace, account);
        self.permit(&identity);
        identity
    }

    /// Lets an identity read the vault.
    pub(crate) fn permit(&self, identity: &Identity) {
        self.vault().assign(identity, [Permission::SECRETS_GET, Permission::SECRETS_LIST]);
    }

    /// An identity that trusts a service account, and may do nothing.
    pub(crate) fn stranger(&self, namespace: &str, account: &str) -> Identity {
        let subject = format!("system:serviceaccount:{namespace}:{account}");
        let registration = Registration::application().federated(ISSUER, &subject, TOKEN_EXCHANGE_AUDIENCE);
        self.emulator.identities().register(registration)
    }

    /// The vault and the token endpoint answer nothing but 503.
    pub(crate) fn down(&self) {
        self.emulator.faults().set(Fault::on("*", Effect::Status { status: 503, retry_after: None }));
    }

    /// The vault takes requests and never answers.
    pub(crate) fn hang(&self) {
        self.emulator.faults().set(Fault::on("secrets.*", Effect::Hang));
    }

    /// Every answer takes this long.
    pub(crate) fn latency(&self, of: Duration) {
        let millis = of.as_millis() as u64;
        self.emulator.faults().set(Fault::on("*", Effect::Latency { millis, jitter_millis: 0 }));
    }

    pub(crate) fn heal(&self) {
        self.emulator.faults().clear_all();
    }

    /// How many values were handed out.
    pub(crate) fn gets(&self) -> u64 {
        self.emulator.counters().with_status("secrets.get", 200)
    }
}
