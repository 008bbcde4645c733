//! Messages as they are typed or piped: lines, joined where one goes on on the next.

use std::io::{self, BufRead};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::CliError;

/// Shown before a message, and before each further line of it.
const PROMPTS: [&str; 2] = ["> ", ". "];
/// Begins and ends a message of many lines.
const QUOTES: &str = "\"\"\"";

/// A line, or a whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Text(String),
    /// Ctrl-C: what has been typed is given up.
    Interrupted,
    /// Ctrl-D, or the end of a file.
    End,
}

/// Where lines come from.
pub(super) trait Lines {
    /// The next line, without its line break.
    fn line(&mut self, prompt: &str) -> Result<Typed, CliError>;

    /// Keeps a message, so that it can be called up again.
    fn remember(&mut self, message: &str);
}

/// A terminal with line editing.
pub(super) struct Terminal(DefaultEditor);

impl Terminal {
    pub(super) fn open() -> Result<Terminal, CliError> {
        Ok(Terminal(DefaultEditor::new().map_err(failed)?))
    }
}

impl Lines for Terminal {
    fn line(&mut self, prompt: &str) -> Result<Typed, CliError> {
        match self.0.readline(prompt) {
            Ok(line) => Ok(Typed::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(failed(error)),
        }
    }

    fn remember(&mut self, message: &str) {
        // A history that is full or refuses a line is no reason to stop.
        if let Err(error) = self.0.add_history_entry(message) {
            tracing::debug!(%error, "not kept in the history");
        }
    }
}

fn failed(error: ReadlineError) -> CliError {
    CliError::io("read from the terminal")(io::Error::other(error))
}

/// A pipe or a file.
pub(super) struct Piped<R>(pub(super) R);

impl<R: BufRead> Lines for Piped<R> {
    fn line(&mut self, _: &str) -> Result<Typed, CliError> {
        let mut line = String::new();
        if self.0.read_line(&mut line).map_err(CliError::io("read stdin"))? == 0 {
            return Ok(Typed::End);
        }
        let line = line.strip_suffix('\n').unwrap_or(&line);
        Ok(Typed::Text(line.strip_suffix('\r').unwrap_or(line).to_owned()))
    }

    fn remember(&mut self, _: &str) {}
}

/// The next message. A line that ends in a backslash goes on on the next one; three quotation marks begin a message that
/// ends with three others. The end of the file ends a message too.
pub(super) fn message(lines: &mut dyn Lines) -> Result<Typed, CliError> {
    let mut text = match lines.line(PROMPTS[0])? {
        Typed::Text(text) => text,
        other => return Ok(other),
    };
    loop {
        let quoted = text.strip_prefix(QUOTES);
        let end = match (quoted, text.strip_suffix('\\')) {
            (Some(body), _) => match body.strip_suffix(QUOTES) {
                Some(body) => return Ok(Typed::Text(body.trim_matches('\n').to_owned())),
                None => text.len(),
            },
            (None, Some(body)) => body.len(),
            (None, None) => return Ok(Typed::Text(text)),
        };
        let body = if quoted.is_some() { QUOTES.len() } else { 0 };
        match lines.line(PROMPTS[1])? {
            Typed::Text(more) => {
                text.truncate(end);
                text.push('\n');
                text.push_str(&more);
            }
            Typed::Interrupted => return Ok(Typed::Interrupted),
            Typed::End => return Ok(Typed::Text(text[body..end].trim_matches('\n').to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let mut lines = Piped(text.as_bytes());
        let next = || match message(&mut lines).unwrap() {
            Typed::Text(text) => Some(text),
            Typed::Interrupted | Typed::End => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_line_is_a_message() {
        assert_eq!(messages("one\r\n\n two \nthree"), ["one", "", " two ", "three"]);
        assert!(messages("").is_empty());
    }

    #[test]
    fn lines_go_on() {
        assert_eq!(messages("a\\\nb\\\nc\nd"), ["a\nb\nc", "d"]);
        assert_eq!(messages("\"\"\"\na\n\nb\\\n\"\"\"\nc"), ["a\n\nb\\", "c"]);
        assert_eq!(messages("\"\"\"a\"\"\"\n\"\"\"b\nc\"\"\""), ["a", "b\nc"]);
        // The end of the file ends what is open.
        assert_eq!(messages("a\\"), ["a"]);
        assert_eq!(messages("\"\"\"a\nb"), ["a\nb"]);
    }

    struct Interrupted(u32);

    impl Lines for Interrupted {
        fn line(&mut self, _: &str) -> Result<Typed, CliError> {
            self.0 += 1;
            Ok(if self.0 == 1 { Typed::Text("half a \\".into()) } else { Typed::Interrupted })
        }

        fn remember(&mut self, _: &str) {}
    }

    #[test]
    fn ctrl_c_gives_a_message_up() {
        assert_eq!(message(&mut Interrupted(0)).unwrap(), Typed::Interrupted);
    }
}
