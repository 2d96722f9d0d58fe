use clap::{Args, ValueEnum};
use keyward_proto::secrets::v1::watch_secrets_response::Event;
use keyward_proto::secrets::v1::{Secret, WatchSecretsRequest};
use serde_json::json;

use crate::client::Target;
use crate::failure::Failure;
use crate::output;

/// Follow secrets: first the current state of each, then every change
///
/// Runs until the server stops or Ctrl-C. Changes coalesce: what is shown is always the newest state.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keyward watch
  keyward watch db-password -o raw | while IFS= read -r password; do reload \"$password\"; done
  keyward watch -o json | jq -r 'select(.removed) | .removed'")]
pub(crate) struct WatchArgs {
    /// Names to follow; without any, all of them
    names: Vec<String>,
    /// How to write it
    #[arg(short, long, value_name = "FORMAT", default_value = "summary")]
    output: Format,
    /// Write values even to a terminal
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line for each change, without values
    Summary,
    /// The value of one secret and a newline, at each change
    Raw,
    /// One object a line, values included
    Json,
}

/// Follows until the stream ends.
pub(crate) async fn run(args: &WatchArgs) -> Result<(), Failure> {
    if args.output != Format::Summary {
        output::may_show(args.reveal)?;
    }
    if args.output == Format::Raw && args.names.len() != 1 {
        return Err(Failure::usage(
            "-o raw follows exactly one name, because values alone do not say whose they are",
        ));
    }
    let request = WatchSecretsRequest { names: args.names.clone() };
    let mut stream = args.target.connect().await?.watch_secrets(request).await?.into_inner();
    while let Some(change) = stream.message().await? {
        let Some(event) = change.event else { continue };
        match (args.output, event) {
            (Format::Summary, event) => output::line(summary(&event))?,
            (Format::Raw, Event::Current(secret)) => {
                output::raw(&secret.value)?;
                output::raw(b"\n")?;
            }
            (Format::Raw, Event::Failure(failure)) => return Err(Failure::withheld(&failure)),
            (Format::Raw, Event::Removed(removal)) => {
                return Err(Failure::failed(format!("{} is no longer declared", removal.name)));
            }
            (Format::Json, Event::Current(secret)) => {
                output::line(json!({"current": output::secret(&secret)}))?;
            }
            (Format::Json, Event::Failure(failure)) => output::line(json!({"failure": {
                "name": failure.name, "reason": failure.reason, "message": failure.message, "sequence": failure.sequence,
            }}))?,
            (Format::Json, Event::Removed(removal)) => output::line(json!({"removed": removal.name}))?,
        }
    }
    Ok(())
}

fn summary(event: &Event) -> String {
    match event {
        Event::Current(secret) => {
            let Secret { name, version, sequence, value, .. } = secret;
            let stale = if secret.stale { "  stale" } else { "" };
            format!("{name}  version {version}  {} bytes  sequence {sequence}{stale}", value.len())
        }
        Event::Failure(failure) => format!("{}  unavailable  {}", failure.name, failure.message),
        Event::Removed(removal) => format!("{}  removed", removal.name),
    }
}
