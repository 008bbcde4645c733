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

/// Pages of sequences in order, in the pool of each kind of caches; empty where there is none of that kind. Those that are
/// not empty are as long as each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageLists {
    /// In the caches that keep all rows.
    pub(crate) full: Vec<u32>,
    /// In those that keep a window.
    pub(crate) window: Vec<u32>,
}

impl PageLists {
    /// The list of the caches with or without a window.
    pub(crate) fn of(&mut self, window: Option<u32>) -> &mut Vec<u32> {
        if window.is_some() { &mut self.window } else { &mut self.full }
    }

    /// Pages in each list.
    pub(crate) fn len(&self) -> usize {
        self.full.len().max(self.window.len())
    }
}

/// The tables of one step, as [`Input`] describes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) ids: Vec<u32>,
    pub(crate) rows: Vec<Entry>,
    pub(crate) sequences: Vec<Entry>,
    /// Pages of each sequence in order; empty without a cache.
    pub(crate) pages: PageLists,
}

impl Tables {
    /// Tables of whole sequences.
    pub(crate) fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Tables {
        let mut tables = Tables::default();
        sequences.iter().for_each(|ids| tables.push(ids.as_ref(), 0, PageLists::default()));
        tables
    }

    /// Adds a sequence whose first `cached` rows lie in the cache. `pages` has room for the new ones too.
    pub(crate) fn push(&mut self, ids: &[u32], cached: u32, pages: PageLists) {
        let (first, rows) = (self.ids.len() as u32, ids.len() as u32);
        let index = self.sequences.len() as u32;
        self.ids.extend(ids);
        self.rows.extend((cached..cached + rows).map(|position| Entry([position, first, rows, index])));
        self.sequences.push(Entry([first, rows, cached, self.pages.len() as u32]));
        self.pages.full.extend(pages.full);
        self.pages.window.extend(pages.window);
    }

    /// Rows of the longest sequence, cached ones included.
    pub(crate) fn longest(&self) -> u64 {
        self.sequences.iter().map(|s| u64::from(s.0[1]) + u64::from(s.0[2])).max().unwrap_or(0)
    }

    /// The bytes of one table.
    pub(crate) fn bytes(&self, input: Input) -> Vec<u8> {
        match input {
            Input::Ids => bytemuck::cast_slice(&self.ids).to_vec(),
            Input::Rows => bytemuck::cast_slice(&self.rows).to_vec(),
            Input::Sequences => bytemuck::cast_slice(&self.sequences).to_vec(),
            Input::Pages => bytemuck::cast_slice(&self.pages.full).to_vec(),
            Input::WindowPages => bytemuck::cast_slice(&self.pages.window).to_vec(),
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
        let mut tables = Tables::new(&[vec![7]]);
        tables.push(&[8, 9], 33, PageLists { full: vec![4, 2], window: vec![0, 7] });
        tables.push(&[5], 0, PageLists { full: vec![6], window: vec![3] });
        assert_eq!(tables.rows[1..], [Entry([33, 1, 2, 1]), Entry([34, 1, 2, 1]), Entry([0, 3, 1, 2])]);
        assert_eq!(tables.sequences[1..], [Entry([1, 2, 33, 0]), Entry([3, 1, 0, 2])]);
        assert_eq!(tables.bytes(Input::Pages), bytemuck::cast_slice::<u32, u8>(&[4, 2, 6]));
        assert_eq!(tables.bytes(Input::WindowPages), bytemuck::cast_slice::<u32, u8>(&[0, 7, 3]));
        let mut windows = Tables::default();
        windows.push(&[8, 9], 33, PageLists { window: vec![0, 7], ..PageLists::default() });
        windows.push(&[5], 0, PageLists { window: vec![3], ..PageLists::default() });
        assert_eq!(windows.sequences, [Entry([0, 2, 33, 0]), Entry([2, 1, 0, 2])]);
        assert_eq!(tables.longest(), 35);
    }
}
