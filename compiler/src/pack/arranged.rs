//! Stored rows on their way into a plan.

use std::mem;

use crate::formats::{Format, PANEL};

/// Bytes that are arranged at a time, about: few enough for a processor's own cache.
const BLOCK: usize = 256 << 10;

/// Gives on a matrix's rows as a plan has them, whole panels at a time.
pub(super) struct Arranged<'s, E> {
    format: Format,
    width: usize,
    /// Fewer rows than a panel has.
    rest: Vec<u8>,
    arranged: Vec<u8>,
    sink: &'s mut dyn FnMut(&[u8]) -> Result<(), E>,
}

impl<'s, E> Arranged<'s, E> {
    pub(super) fn new(format: Format, width: usize, sink: &'s mut dyn FnMut(&[u8]) -> Result<(), E>) -> Self {
        Arranged { format, width, rest: Vec::new(), arranged: Vec::new(), sink }
    }

    /// The next rows.
    pub(super) fn put(&mut self, mut rows: &[u8]) -> Result<(), E> {
        let panel = PANEL * self.format.row_bytes(self.width);
        if !self.rest.is_empty() {
            let (first, others) = rows.split_at((panel - self.rest.len()).min(rows.len()));
            self.rest.extend_from_slice(first);
            rows = others;
            if self.rest.len() < panel {
                return Ok(());
            }
            let first = mem::take(&mut self.rest);
            self.give(&first)?;
        }
        let (whole, rest) = rows.split_at(rows.len() / panel.max(1) * panel);
        self.rest.extend_from_slice(rest);
        self.give(whole)
    }

    /// Gives the last rows, with zeros behind them up to a whole panel.
    pub(super) fn finish(mut self) -> Result<(), E> {
        let rest = mem::take(&mut self.rest);
        self.give(&rest)
    }

    fn give(&mut self, rows: &[u8]) -> Result<(), E> {
        let panel = (PANEL * self.format.row_bytes(self.width)).max(1);
        for block in rows.chunks(BLOCK.next_multiple_of(panel)) {
            self.format.arrange_into(block, self.width, &mut self.arranged);
            (self.sink)(&self.arranged)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn pieces_of_any_size_are_the_whole() {
        let (format, width) = (Format::F16, 24);
        let row = format.row_bytes(width);
        for count in [0, 1, 32, 70, 96] {
            let rows: Vec<u8> = (0..count * row).map(|i| (i % 251) as u8).collect();
            for piece in [1, 3, 32, 50] {
                let mut found = Vec::new();
                let mut sink = |bytes: &[u8]| -> Result<(), Infallible> {
                    found.extend_from_slice(bytes);
                    Ok(())
                };
                let mut arranged = Arranged::new(format, width, &mut sink);
                let Ok(()) = rows.chunks(piece * row).try_for_each(|rows| arranged.put(rows));
                let Ok(()) = arranged.finish();
                assert!(found == format.arrange(&rows, width), "{count} rows by {piece}");
            }
        }
    }
}
