//! A session: one sequence with its cached rows.

use super::ledger::{Ledger, Reservation};
use super::table::Table;
use crate::run::batch::PageLists;

/// One sequence and its rows in the cache of the engine that made it. Dropping it frees them.
///
/// It is a plain value: it can be kept, sent to another thread and outlive calls. Only the engine that made it can
/// add rows to it.
#[derive(Debug)]
pub struct Session {
    /// One for each pool.
    tables: Vec<Table>,
    ids: Vec<u32>,
    /// A token that follows on the rows but has none yet.
    unfed: Option<u32>,
}

impl Session {
    pub(crate) fn new(ledgers: &[Ledger]) -> Session {
        Session { tables: ledgers.iter().cloned().map(Table::new).collect(), ids: Vec::new(), unfed: None }
    }

    /// Its rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has no rows yet.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids of its rows.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Another session with the same rows. They share all pages; a page is copied when one of them writes to it.
    pub fn fork(&self) -> Session {
        Session { tables: self.tables.iter().map(Table::fork).collect(), ids: self.ids.clone(), unfed: self.unfed }
    }

    /// Forgets all rows but the first `rows`. Does nothing if there are no more.
    ///
    /// Returns the rows that are left: `rows`, or fewer if there were fewer. Where layers of the model see only the last
    /// rows (a sliding window), rows before them are forgotten as the session grows. If those are missing that a row
    /// behind the first `rows` would see, none are left, and all ids have to be added again. Going back by up to 31 rows
    /// from where the session was longest is always possible, and so is any cut of one that never had more than 32 rows
    /// beside those that a row sees.
    #[must_use = "a session of a model with sliding windows may have to begin anew"]
    pub fn truncate(&mut self, rows: usize) -> usize {
        self.unfed = self.unfed.filter(|_| rows > self.ids.len());
        let rows = rows.min(self.ids.len());
        let rows = if self.tables.iter().all(|table| table.has(rows)) { rows } else { 0 };
        self.ids.truncate(rows);
        self.tables.iter_mut().for_each(|table| table.cut(rows as u64));
        rows
    }

    /// The number of rows at the beginning that agree with `ids`: what need not be computed again.
    pub fn common(&self, ids: &[u32]) -> usize {
        self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count()
    }

    /// The last token of an answer: it was told, but has no row yet. The next answer begins with it.
    pub fn unfed(&self) -> Option<u32> {
        self.unfed
    }

    pub(crate) fn leave_unfed(&mut self, id: u32) {
        self.unfed = Some(id);
    }

    pub(crate) fn is_in(&self, ledgers: &[Ledger]) -> bool {
        self.tables.len() == ledgers.len()
            && self.tables.iter().zip(ledgers).all(|(table, ledger)| table.ledger().is(ledger))
    }

    /// Pages of each pool that `rows` more rows take.
    pub(crate) fn needed(&self, rows: usize) -> Vec<usize> {
        self.tables.iter().map(|table| table.needed(self.ids.len() as u64, rows as u64)).collect()
    }

    /// The greatest number of rows, at most `rows`, for which the pools of windows have room with `free` pages in each
    /// pool. Pages of those become free as rows are added; of the others they don't, so fewer rows would not help.
    pub(crate) fn fitting(&self, rows: usize, free: &[usize]) -> usize {
        let windowed = self.tables.iter().zip(free).filter(|(table, _)| table.ledger().window().is_some());
        let fitting = windowed.map(|(table, &free)| table.fitting(self.ids.len() as u64, rows as u64, free) as usize);
        fitting.min().unwrap_or(rows)
    }

    /// Its pages in order.
    pub(crate) fn pages(&self) -> PageLists {
        let mut lists = PageLists::default();
        self.tables.iter().for_each(|table| lists.of(table.ledger().window()).extend(table.pages()));
        lists
    }

    /// Pages of all pools, or of none.
    pub(crate) fn reserve(&self, rows: usize) -> Option<Vec<Reservation>> {
        self.tables.iter().map(|table| table.reserve(self.ids.len() as u64, rows as u64)).collect()
    }

    /// The pages that it will have with a reservation for each pool.
    pub(crate) fn pages_with(&self, reservations: &[Reservation]) -> PageLists {
        let mut lists = PageLists::default();
        for (table, reservation) in self.tables.iter().zip(reservations) {
            lists.of(table.ledger().window()).extend(table.with(reservation));
        }
        lists
    }

    /// The rows of `ids` are in the cache now.
    pub(crate) fn commit(&mut self, reservations: Vec<Reservation>, ids: &[u32]) {
        self.ids.extend(ids);
        self.unfed = None;
        let rows = self.ids.len() as u64;
        self.tables.iter_mut().zip(reservations).for_each(|(table, reservation)| table.commit(reservation, rows));
    }
}
