//! Where results and messages go.

use std::io::{self, Write};

use serde::Serialize;

use crate::CliError;
use crate::progress::Bar;

/// Results on one stream, messages on the other.
pub(crate) struct Console<'c> {
    out: &'c mut dyn Write,
    err: &'c mut (dyn Write + Send),
    /// Whether messages go to a terminal, where bars can be drawn.
    interactive: bool,
    /// Whether results are wanted as JSON.
    pub(crate) json: bool,
}

impl<'c> Console<'c> {
    pub(crate) fn new(
        out: &'c mut dyn Write,
        err: &'c mut (dyn Write + Send),
        interactive: bool,
        json: bool,
    ) -> Console<'c> {
        Console { out, err, interactive, json }
    }

    /// A result for people, ended by a line break.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), CliError> {
        writeln!(self.out, "{text}").map_err(CliError::io("write to stdout"))
    }

    /// A piece of a result for people, at once.
    pub(crate) fn write(&mut self, text: &str) -> Result<(), CliError> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(CliError::io("write to stdout"))
    }

    /// A result for machines: one document in one line.
    pub(crate) fn print_json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let written = serde_json::to_writer(&mut *self.out, value).map_err(io::Error::from);
        written.and_then(|()| self.out.write_all(b"\n")).map_err(CliError::io("write to stdout"))
    }

    /// A message. Where nobody listens, the work goes on all the same.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// What went wrong and what to do about it.
    pub(crate) fn error(&mut self, text: &str, hint: Option<&str>) -> io::Result<()> {
        let colored = self.interactive && std::env::var_os("NO_COLOR").is_none();
        let (red, cyan, plain) = if colored { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
        self.out.flush().and_then(|()| writeln!(self.err, "{red}error:{plain} {text}"))?;
        match hint {
            Some(hint) => writeln!(self.err, "{cyan}hint:{plain} {hint}"),
            None => Ok(()),
        }
    }

    /// Work whose end can be seen.
    pub(crate) fn bar(&mut self, label: &'static str) -> Bar<'_> {
        Bar::new(label, &mut *self.err, self.interactive)
    }

    /// The stream of messages, for progress that outlives a call.
    pub(crate) fn messages(&mut self) -> (&mut (dyn Write + Send), bool) {
        (&mut *self.err, self.interactive)
    }

    /// Hands everything on.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::io("write to stdout"))
    }
}
