use clap::Args;
use keyward_proto::secrets::v1::GetSecretRequest;

use crate::client::Target;
use crate::failure::Failure;
use crate::output::{self, ValueFormat};

/// Write one secret to standard output
///
/// The bytes are exactly those that the secret's file holds: no newline is added. A secret is written to a terminal
/// only with --reveal.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keyward get db-password > password
  keyward get db-password --reveal
  keyward get web-tls -o json | jq -r .expiresAt
  keyward get db-password --version 0123456789abcdef0123456789abcdef | sha256sum")]
pub(crate) struct GetArgs {
    /// Name that the application knows the secret by; `keyward list` shows the names
    name: String,
    /// Version to read; without it, the one in place
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    version: String,
    /// How to write it
    #[arg(short, long, value_name = "FORMAT", default_value = "raw")]
    output: ValueFormat,
    /// Write the secret even to a terminal
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    target: Target,
}

/// Reads one secret.
pub(crate) async fn run(args: &GetArgs) -> Result<(), Failure> {
    // Before the call, so that nothing is read, and recorded as read, that is not shown.
    output::may_show(args.reveal)?;
    let request = GetSecretRequest { name: args.name.clone(), version: args.version.clone() };
    let response = args.target.connect().await?.get_secret(request).await?.into_inner();
    let secret = response.secret.unwrap_or_default();
    match args.output {
        ValueFormat::Raw => output::raw(&secret.value),
        ValueFormat::Json => output::line(output::secret(&secret)),
    }
}
