//! The `compile-model` command: from a checkpoint to a plan, and from a plan to numbers.
//!
//! The command knows how to ask and how to show; everything else is in the other crates. Results go to stdout,
//! everything else to stderr. [`run`] is the whole command for callers that bring their own streams.

mod args;
mod cache;
mod calibrate;
mod clock;
mod commands;
mod compile;
mod console;
mod cpu;
pub mod doctor;
mod document;
mod error;
mod files;
mod hub;
mod interrupt;
mod load;
mod lossy;
mod plot;
mod process;
mod progress;
mod quantized;
mod report;
mod tensors;
mod texts;
mod tuned;
mod units;
mod work;

use std::ffi::OsString;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;

pub use args::Cli;
pub use compile::{adapter_target, choose_targets};
pub use error::CliError;
pub use hub::HubError;

use console::Console;

/// Runs the command with the process's arguments and streams.
pub fn main() -> ExitCode {
    interrupt::install();
    let (mut out, mut err) = (stdout().lock(), stderr());
    let interactive = err.is_terminal();
    ExitCode::from(run_with(std::env::args_os(), &mut out, &mut err, interactive))
}

/// Runs the command with the given arguments, the first of which is the program's name. Results go to `out`, everything
/// else to `err`. Returns the exit code: 0 for success, 1 for failure, 2 for a command line that cannot be understood,
/// 130 if it was interrupted.
pub fn run<A: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = A>,
    out: &mut dyn Write,
    err: &mut (dyn Write + Send),
) -> u8 {
    run_with(arguments, out, err, false)
}

fn run_with<A: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = A>,
    out: &mut dyn Write,
    err: &mut (dyn Write + Send),
    interactive: bool,
) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(message) => return show_usage(&message, out, err, interactive),
    };
    report::trace(cli.verbose);
    let mut console = Console::new(out, err, interactive, cli.json);
    let result = commands::run(&cli.command, &mut console).and_then(|()| console.flush());
    match result {
        Ok(()) => 0,
        Err(error) => {
            // Where nobody listens anymore, nothing is left to say.
            if let Some(text) = error.message() {
                let _ = console.error(&text, error.hint().as_deref());
            }
            error.code()
        }
    }
}

/// The program in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Help and version go to stdout, complaints to stderr.
fn show_usage(message: &clap::Error, out: &mut dyn Write, err: &mut (dyn Write + Send), interactive: bool) -> u8 {
    let text = message.render();
    let text = if interactive { text.ansi().to_string() } else { text.to_string() };
    // Where nobody listens, nothing is left to say.
    let _ = if message.use_stderr() { write!(err, "{text}") } else { write!(out, "{text}") };
    u8::try_from(message.exit_code()).unwrap_or(2)
}
