mod classes;

use std::path::PathBuf;

use clap::Args;
use keyward_core::cloud::Cloud;
use keyward_core::config;
use keyward_core::document;
use keyward_core::spec::{Context, parse_objects_text};
use keyward_delivery::template::check_templates;
use serde_json::Value;

use crate::failure::Failure;
use crate::output;

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
    let bytes = document::read_file_or_stdin(&args.file)?;
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
