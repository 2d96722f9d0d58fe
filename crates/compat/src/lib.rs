//! SecretProviderClass of the Azure provider to object specs, pure.
//!
//! [`parse_class`] reads a class as the Azure provider of the Secrets Store CSI driver does: the same parameters,
//! defaults, file names and identifiers. Where it differs, it does so on purpose, and either refuses with a reason or
//! leaves a [`Note`]:
//!
//! * a `filePermission` that is no octal number up to 0777 is refused (the provider makes it 0000, or drops bits);
//! * two objects that claim one path, or a path below the other's, are refused (the provider lets the last one win);
//! * an `objectVersion` that no version matches is refused, in a history too (the provider leaves it out);
//! * an alias such as `.` is refused, with a history too (the provider would empty a mounted volume);
//! * an empty list of objects is refused by name (the provider succeeds, and the driver then fails the mount);
//! * `objectVersion: latest` is the current version everywhere (the provider knows the word in a history only);
//! * objects may be written as a plain list, beside the list of texts under `array`;
//! * YAML anchors are refused, `cloudEnvFileName` is not read, and `usePodIdentity` is refused with advice.

// No input from outside may end the process.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod class;
mod history;
mod identity;
mod object;
mod objects;
mod parameters;
mod scalar;
mod yaml;

pub use class::{ClassInput, ClassSpec, Note, parse_class};
pub use identity::ClassIdentity;
pub use object::ClassObject;
pub use objects::MAX_OBJECTS;

/// The provider whose classes are read.
pub const PROVIDER: &str = "azure";
