use clap::{Args, ValueEnum};
use keyward_proto::secrets::v1::ListSecretsRequest;

use crate::client::Target;
use crate::failure::Failure;
use crate::output;

/// List the declared secrets and how they stand, never their values
#[derive(Debug, Args)]
#[command(
    after_help = "States: fresh · stale (the last check failed, the last good value is served) · pending (never read yet)
        · expired (failing for longer than rotation.maxStale) · revoked (refused for good)

Examples:
  keyward list
  keyward list web/ -o json | jq -r 'select(.state != \"fresh\") | .name'"
)]
pub(crate) struct ListArgs {
    /// Only names that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// How to write it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Columns for people
    Table,
    /// One object a line
    Json,
}

/// Lists what is declared.
pub(crate) async fn run(args: &ListArgs) -> Result<(), Failure> {
    let request = ListSecretsRequest { prefix: args.prefix.clone() };
    let secrets = args.target.connect().await?.list_secrets(request).await?.into_inner().secrets;
    match args.output {
        Format::Json => secrets.iter().try_for_each(|secret| output::line(output::metadata(secret))),
        Format::Table => {
            let heading = ["NAME", "STATE", "VERSION", "CONFIRMED", "REASON"].map(str::to_owned);
            let rows = secrets.into_iter().map(|secret| {
                let fetched = secret.fetched_at.map(|time| prost_types::Timestamp { nanos: 0, ..time });
                [
                    output::state(&secret),
                    output::time(fetched.as_ref()),
                    secret.name,
                    secret.version,
                    secret.reason,
                ]
            });
            let rows =
                rows.map(|[state, fetched, name, version, reason]| [name, state, version, fetched, reason]);
            table(std::iter::once(heading).chain(rows).collect())
        }
    }
}

#[expect(clippy::indexing_slicing, reason = "both arrays have five columns")]
fn table(rows: Vec<[String; 5]>) -> Result<(), Failure> {
    let widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    rows.iter().try_for_each(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        output::line(cells.collect::<Vec<_>>().join("  ").trim_end())
    })
}
