//! What a model is run on.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::CliError;

/// Texts or ids.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Inputs {
    /// A text; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Vec<String>,

    /// A file with one text per line; `-` is stdin. Its texts come after those of --text.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Token ids instead of text: 101,7592,102; several times for several sequences.
    #[arg(long, value_name = "IDS", value_parser = parse_ids, conflicts_with_all = ["text", "input"])]
    ids: Vec<Ids>,
}

/// One sequence of ids; a type of its own so that an argument is one value.
#[derive(Clone, Debug)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

/// What is to be run.
pub(crate) enum Batch {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

impl Inputs {
    /// Reads what is to be run.
    pub(crate) fn read(&self) -> Result<Batch, CliError> {
        if !self.ids.is_empty() {
            return Ok(Batch::Ids(self.ids.iter().map(|ids| ids.0.clone()).collect()));
        }
        let mut texts = self.text.clone();
        match &self.input {
            Some(path) => texts.extend(lines(&read(path)?)),
            None if texts.is_empty() => {
                return Err(CliError::Usage("nothing to run: give --text TEXT, --input FILE or --ids 1,2,3".into()));
            }
            None => {}
        }
        Ok(Batch::Texts(texts))
    }
}

/// The lines of a text; a line break at the end does not begin another one.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = String> {
    text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::to_owned)
}

/// The text in a file, or that of stdin for `-`.
pub(crate) fn read(path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(CliError::io("read stdin"))?;
    } else {
        bytes = std::fs::read(path).map_err(CliError::io(format!("read {}", path.display())))?;
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::Failed(format!("{}: found other bytes than UTF-8 at offset {at}, expected text", path.display()))
    })
}

/// Ids as people write them.
pub(crate) fn parse_ids(text: &str) -> Result<Ids, String> {
    let id = |part: &str| {
        let part = part.trim();
        part.parse::<u32>().map_err(|_| format!("expected ids such as 101,7592,102, found {part:?}"))
    };
    text.split(',').map(id).collect::<Result<_, _>>().map(Ids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_is_a_text() {
        assert_eq!(lines("a\r\n\nb c\n").collect::<Vec<_>>(), ["a", "", "b c"]);
        assert_eq!(lines("").count(), 0);
        assert_eq!(lines("\u{feff}a").collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn ids_are_numbers() {
        assert_eq!(parse_ids("1, 2,3").unwrap().0, [1, 2, 3]);
        for wrong in ["", "1,", "a", "-1", "4294967296"] {
            assert!(parse_ids(wrong).is_err(), "{wrong}");
        }
    }
}
