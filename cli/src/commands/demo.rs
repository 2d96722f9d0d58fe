//! `keyward demo`: the main job from end to end, on this machine, in a minute.

mod rig;
mod steps;
mod story;

use std::io::IsTerminal;

use clap::Args;
use keyward_core::{Code, Error, Result};

use story::Story;

/// Options of `keyward demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave everything running at the end, with the commands to try, until Ctrl-C
    #[arg(long)]
    hold: bool,
    /// No colours
    #[arg(long)]
    no_color: bool,
}

/// Tells the story. Every step is checked; the error names how many failed.
pub(crate) async fn run(args: &DemoArgs) -> Result<()> {
    let color = !args.no_color && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut story = Story::new(color);
    story.say("Keyward brings secrets from a vault to the process that needs them, and nowhere else.");
    story.say("Here: an embedded Key Vault and token endpoint over TLS, the real sidecar as a process of its own, and you.");
    let told = steps::tell(&mut story, args.hold).await;
    if let Err(error) = &told {
        story.fail(error);
    }
    story.summary();
    match story.failures() {
        0 => Ok(()),
        count => Err(Error::new(Code::Internal, format!("{count} of the demo's steps failed"))),
    }
}
