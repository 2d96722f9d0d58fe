//! The emulated Azure at the node's address. What proves a pod's identity is the API server's own signature.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyward_emulator::{
    Builder, Effect, Emulator, Fault, Identity, ListenerKind, Permission, Registration,
    TOKEN_EXCHANGE_AUDIENCE, VaultHandle,
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
/// Of a second one, which speaks HTTP/1.1 only.
const OLD_PORT: u16 = 8445;

pub(crate) struct Azure {
    pub(crate) emulator: Emulator,
    address: String,
    /// What vaults' hosts end in.
    suffix: &'static str,
    /// How volumes name this cloud; the default one needs no name.
    pub(crate) cloud: Option<&'static str>,
    /// Serves until the end of the process.
    _runtime: Runtime,
}

impl Azure {
    pub(crate) fn start(cluster: &Cluster) -> Outcome<Self> {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
        let builder = Emulator::builder().vault("shop").listen(ListenerKind::Admin, admin);
        Self::serve(cluster, builder, PORT, "vault.azure.net", None)
    }

    /// Another Azure, a cloud of its own, without HTTP/2.
    pub(crate) fn start_old(cluster: &Cluster) -> Outcome<Self> {
        let builder = Emulator::builder().vault("shop.vault.old.example").http2(false);
        Self::serve(cluster, builder, OLD_PORT, "vault.old.example", Some("Old"))
    }

    fn serve(
        cluster: &Cluster,
        builder: Builder,
        port: u16,
        suffix: &'static str,
        cloud: Option<&'static str>,
    ) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let address = format!("{}:{port}", cluster.address);
        let listen: SocketAddr = address.parse().map_err(|_| format!("{address} is no address"))?;
        let builder = builder.listen(ListenerKind::Https, listen).rate_limits(None);
        let emulator = runtime.block_on(builder.start()).map_err(|error| format!("the emulator: {error}"))?;
        // The certificate is good for the address too, by which the token endpoint is named.
        emulator.alias(&address, &format!("shop.{suffix}"));
        let keys = cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])?;
        let keys: Value = serde_json::from_str(&keys).map_err(|error| error.to_string())?;
        emulator.issuer().trust(ISSUER, keys).map_err(|error| error.to_string())?;
        Ok(Self { emulator, address, suffix, cloud, _runtime: runtime })
    }

    /// What the chart must know to take these for Azure; the first is the default.
    pub(crate) fn values(all: [&Self; 2]) -> Value {
        let cloud = |azure: &Self| {
            json!({
                "name": azure.cloud.unwrap_or("Emulated"),
                "authorityHost": format!("https://{}", azure.address),
                "vaultDnsSuffix": azure.suffix,
                "audience": "https://vault.azure.net",
            })
        };
        // The emulator's challenges are those of Azure's own cloud.
        let vault = |azure: &Self| {
            let verify = azure.cloud.is_none();
            json!({
                "host": format!("shop.{}", azure.suffix), "address": azure.address, "verifyChallengeResource": verify,
            })
        };
        let rotation = json!({"interval": "1s", "jitter": 0});
        let (clouds, vaults) = (all.map(cloud), all.map(vault));
        json!({
            "extraRoots": all.map(|azure| azure.emulator.ca_pem()).concat(),
            "crds": {"secretProviderClass": true},
            "driver": {
                "config": {"clouds": clouds, "defaultCloud": "Emulated", "vaults": vaults, "rotation": rotation},
            },
            "injector": {"config": {"cloud": clouds[0], "vaults": [vaults[0]], "rotation": rotation}},
        })
    }

    /// A secret's address as its users write it.
    pub(crate) fn url(&self, secret: &str) -> String {
        format!("https://shop.{}/secrets/{secret}", self.suffix)
    }

    pub(crate) fn vault(&self) -> VaultHandle {
        self.emulator.vault(&format!("shop.{}", self.suffix))
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
        self.fail("*");
    }

    /// The vault takes requests and never answers.
    pub(crate) fn hang(&self) {
        self.emulator.faults().set(Fault::on("secrets.*", Effect::Hang));
    }

    /// These operations, such as `token.*`, are answered by nothing but 503.
    pub(crate) fn fail(&self, operations: &str) {
        self.emulator.faults().set(Fault::on(operations, Effect::Status { status: 503, retry_after: None }));
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
