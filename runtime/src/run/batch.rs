//! Ragged batches: rows of several sequences one after the other, without padding, with tables that tell them apart.

use bytemuck::{Pod, Zeroable};
use warpweft_plan::Input;

/// Number of sequences, from the first of `lengths`, whose rows go into one step of at most `rows` rows.
/// A sequence that is longer by itself goes alone.
pub(crate) fn cut(lengths: impl Iterator<Item = usize>, rows: u64) -> usize {
    let mut total = 0;
    let fits = |&length: &usize| {
        total += length as u64;
        total <= rows
    };
    lengths.take_while(fits).count().max(1)
}

/// The layout of a row in [`Input::Rows`] and [`Input::Sequences`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Entry(pub(crate) [u32; 4]);

/// The tables of one step, as [`Input`] describes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) ids: Vec<u32>,
    pub(crate) rows: Vec<Entry>,
    pub(crate) sequences: Vec<Entry>,
}

impl Tables {
    pub(crate) fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Tables {
        let mut tables = Tables::default();
        for (index, sequence) in (0..).zip(sequences) {
            let ids = sequence.as_ref();
            let (first, rows) = (tables.ids.len() as u32, ids.len() as u32);
            tables.ids.extend(ids);
            tables.rows.extend((0..rows).map(|position| Entry([position, first, rows, index])));
            tables.sequences.push(Entry([first, rows, 0, 0]));
        }
        tables
    }

    /// Rows of the longest sequence.
    pub(crate) fn longest(&self) -> u64 {
        self.sequences.iter().map(|s| u64::from(s.0[1])).max().unwrap_or(0)
    }

    /// The bytes of one table.
    pub(crate) fn bytes(&self, input: Input) -> Vec<u8> {
        match input {
            Input::Ids => bytemuck::cast_slice(&self.ids).to_vec(),
            Input::Rows => bytemuck::cast_slice(&self.rows).to_vec(),
            Input::Sequences => bytemuck::cast_slice(&self.sequences).to_vec(),
            Input::Step => bytemuck::bytes_of(&[self.ids.len() as u32, self.sequences.len() as u32, 0, 0]).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_keep_the_order() {
        assert_eq!(cut([3, 4, 5].into_iter(), 7), 2);
        assert_eq!(cut([3, 4, 5].into_iter(), 12), 3);
        assert_eq!(cut([9, 1].into_iter(), 7), 1);
    }

    #[test]
    fn tables_describe_each_row() {
        let tables = Tables::new(&[vec![7, 8], vec![9]]);
        assert_eq!(tables.ids, [7, 8, 9]);
        assert_eq!(tables.rows, [Entry([0, 0, 2, 0]), Entry([1, 0, 2, 0]), Entry([0, 2, 1, 1])]);
        assert_eq!(tables.sequences, [Entry([0, 2, 0, 0]), Entry([2, 1, 0, 0])]);
        assert_eq!(tables.bytes(Input::Step), bytemuck::cast_slice::<u32, u8>(&[3, 2, 0, 0]));
        assert_eq!(tables.longest(), 2);
    }
}
