//! Key Vault, Entra, IMDS and App Service for development and tests, with faults.
//!
//! Written from what Azure documents and from captured exchanges, and sharing no code with the client side of Keyward,
//! so that a bug cannot agree with itself. Never part of a release image.
//!
//! ```
//! # async fn example() -> Result<(), keyward_emulator::StartError> {
//! use keyward_emulator::{Effect, Emulator, Fault, Permission, Registration};
//!
//! let emulator = Emulator::builder().vault("shop").start().await?;
//! let shop = emulator.vault("shop");
//! shop.set_secret("db-password", "hunter2");
//! let app = emulator.identities().register(Registration::application().client_secret("s3cret"));
//! shop.assign(&app, [Permission::SECRETS_GET]);
//! emulator.faults().set(Fault::on("secrets.get", Effect::Throttle { retry_after: None }).times(2));
//! // … point a client at `emulator.vault_addr()`, trusting `emulator.ca_pem()` …
//! assert_eq!(emulator.counters().with_status("secrets.get", 200), 0);
//! emulator.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod access;
mod admin;
mod builder;
mod clock;
mod counters;
mod emulator;
mod engine;
mod entra;
mod faults;
mod form;
mod identities;
mod issuer;
mod jwt;
mod key_material;
mod managed_identity;
mod operation;
mod pki;
mod reply;
mod rng;
mod server;
mod state_file;
mod tls;
mod vault;

pub use access::Permission;
pub use builder::{Builder, StartError};
pub use clock::{Clock, ManualClock, SystemClock, TokioClock};
pub use counters::{Connections, CounterRow, Counters};
pub use emulator::Emulator;
pub use engine::ListenerKind;
pub use faults::{Effect, Fault, FaultId, Faults, Phase, Schedule, ScheduleError};
pub use form::parse_form;
pub use identities::{FederatedCredential, Identities, Identity, IdentityKind, Registration};
pub use issuer::{IDENTITY_BINDING_AUDIENCE, Issuer, TOKEN_EXCHANGE_AUDIENCE};
pub use jwt::{Claims, UncheckedToken, parse_unchecked};
pub use key_material::{Curve, KeyKind};
pub use operation::{Action, Collection, Operation};
pub use reply::{HandlerOutcome, Reply, ReplyBody};
pub use state_file::StateFile;
pub use tls::TlsVersions;
pub use vault::{PathError, RateLimits, SecretOptions, VaultHandle, VaultPath, parse_vault_path};
