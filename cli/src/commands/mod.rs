//! One file for each subcommand: its arguments, what it does, how it shows it.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod chat;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod explain;
pub(crate) mod fit;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod profile;
pub(crate) mod pull;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod tune;

use crate::CliError;
use crate::args::Command;
use crate::console::Console;

/// Runs a subcommand.
pub(crate) fn run(command: &Command, console: &mut Console<'_>) -> Result<(), CliError> {
    match command {
        Command::Build(args) => build::run(args, console),
        Command::Embed(args) => embed::run(args, console),
        Command::Logits(args) => logits::run(args, console),
        Command::Run(args) => run::run(args, console),
        Command::Chat(args) => chat::run(args, console),
        Command::Eval(args) => eval::run(args, console),
        Command::Explain(args) => explain::run(args, console),
        Command::Inspect(args) => inspect::run(args, console),
        Command::Report(args) => report::run(args, console),
        Command::Pull(args) => pull::run(args, console),
        Command::Fit(args) => fit::run(args, console),
        Command::Bench(args) => bench::run(args, console),
        Command::Profile(args) => profile::run(args, console),
        Command::Tune(args) => tune::run(args, console),
        Command::Devices(args) => devices::run(args, console),
        Command::Doctor(args) => doctor::run(args, console),
    }
}
