mod classes;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use keyward_core::cloud::Cloud;
use keyward_core::config;
use keyward_core::document;
use keyward_core::spec::{Context, parse_objects_text};
use keyward_core::{Code, Error};
use keyward_delivery::template::check_templates;
use serde_json::Value;

use crate::failure::Failure;
use crate::output;

/// Largest file that is looked at.
const MAX_FILE: u64 = 1 << 20;

/// Check a configuration, a list of objects or SecretProviderClasses, and report every mistake with its place
///
/// A document that is a list is taken for objects, as an annotation or a CSI volume holds them. Kubernetes manifests,
/// several documents or a `kind: List` included, are searched for SecretProviderClasses, and where Keyward differs
/// from the Azure provider is noted. Anything else is taken for a sidecar's configuration. Nothing is contacted:
/// `keyward doctor` does that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keyward lint keyward.yaml
  kubectl get secretproviderclass -A -o yaml | keyward lint -
  kubectl get pod web-0 -o jsonpath='{.metadata.annotations.keyward\\.dev/objects}' | keyward lint -")]
pub(crate) struct LintArgs {
    /// The file; - for standard input
    file: PathBuf,
    /// Cloud that the short form kv:// belongs to, in a list of objects
    #[arg(long, value_name = "NAME", default_value = "AzurePublicCloud")]
    cloud: String,
}

/// Parses the file and says what is wrong with it.
pub(crate) fn run(args: &LintArgs) -> Result<(), Failure> {
    let bytes = read(&args.file)?;
    let documents = document::parse_all(&bytes)?;
    if let Some(classes) = classes::find(&documents) {
        return classes::check(&classes, &args.file);
    }
    let objects = if matches!(documents.as_slice(), [Value::Array(_)]) {
        let cloud = Cloud::built_in(&args.cloud).ok_or_else(|| {
            Failure::usage(format!("--cloud must be one of {}", Cloud::BUILT_IN.join(", ")))
        })?;
        parse_objects_text(&bytes, Context { cloud: &cloud, listed_hosts: &[], notify: false })?
    } else {
        config::parse(&bytes)?.objects
    };
    check_templates(&objects)?;
    output::line(format!("{}: no mistakes, {} objects", args.file.display(), objects.len()))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |error: std::io::Error| {
        Error::new(Code::ConfigInvalid, format!("{} cannot be read: {error}", path.display()))
    };
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::new(Code::ConfigInvalid, format!("{} is larger than 1 MiB", path.display())));
    }
    Ok(bytes)
}
