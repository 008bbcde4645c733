//! Tables and logs.

use std::sync::Once;

use tracing_subscriber::EnvFilter;

/// Sends log lines to stderr. Only the first call counts.
pub(crate) fn trace(verbose: u8) {
    static ONCE: Once = Once::new();
    let default = match verbose {
        0 => "error",
        1 => "warn,compile_model=debug,warpweft_compiler=debug,warpweft_models=debug,warpweft_runtime=debug",
        _ => "info,compile_model=trace,warpweft_compiler=trace,warpweft_models=trace,warpweft_runtime=trace",
    };
    ONCE.call_once(|| {
        let filter = EnvFilter::try_from_env("WARPWEFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // A program that has its own subscriber keeps it.
        let _ = subscriber.try_init();
    });
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of text in columns.
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head; a title that begins with `>` is of a column of numbers.
    pub(crate) fn new(titles: &[&str]) -> Table {
        let align = |title: &&str| if title.starts_with('>') { Align::Right } else { Align::Left };
        let head = titles.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
        Table { columns: titles.iter().map(align).collect(), rows: vec![head] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, without a line break at its end.
    pub(crate) fn text(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).zip(&self.columns).map(|((cell, &width), align)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// `text` in at most `width` characters, without line breaks.
pub(crate) fn clip(text: &str, width: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&["name", ">rows"]);
        table.row(["a".into(), "1".into()]);
        table.row(["longer".into(), "100".into()]);
        assert_eq!(table.text(), "name    rows\na          1\nlonger   100");
    }

    #[test]
    fn long_texts_are_clipped() {
        assert_eq!(clip("ab\ncd", 5), "ab cd");
        assert_eq!(clip("abcdef", 4), "abc…");
    }
}
