//! A session: one sequence with its cached rows.

use super::ledger::{Ledger, Reservation, pages};

/// One sequence and its rows in the cache of the engine that made it. Dropping it frees them.
///
/// It is a plain value: it can be kept, sent to another thread and outlive calls. Only the engine that made it can
/// add rows to it.
#[derive(Debug)]
pub struct Session {
    ledger: Ledger,
    table: Vec<u32>,
    ids: Vec<u32>,
    /// A token that follows on the rows but has none yet.
    unfed: Option<u32>,
}

impl Session {
    pub(crate) fn new(ledger: Ledger) -> Session {
        Session { ledger, table: Vec::new(), ids: Vec::new(), unfed: None }
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
        self.ledger.share(&self.table);
        let (ledger, table) = (self.ledger.clone(), self.table.clone());
        Session { ledger, table, ids: self.ids.clone(), unfed: self.unfed }
    }

    /// Forgets all rows but the first `rows`. Does nothing if there are no more.
    pub fn truncate(&mut self, rows: usize) {
        self.unfed = self.unfed.filter(|_| rows > self.ids.len());
        self.ids.truncate(rows);
        let kept = pages(self.ids.len() as u64);
        self.ledger.release(&self.table[kept..]);
        self.table.truncate(kept);
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

    pub(crate) fn is_in(&self, ledger: &Ledger) -> bool {
        self.ledger.is(ledger)
    }

    /// Pages that `rows` more rows take.
    pub(crate) fn needed(&self, rows: usize) -> usize {
        self.ledger.needed(&self.table, self.ids.len() as u64, rows as u64)
    }

    /// Its pages in order.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u32> {
        self.table.iter().copied()
    }

    pub(crate) fn reserve(&self, rows: usize) -> Option<Reservation> {
        self.ledger.reserve(&self.table, self.ids.len() as u64, rows as u64)
    }

    /// The pages that it will have with a reservation.
    pub(crate) fn table<'a>(&'a self, reservation: &'a Reservation) -> impl Iterator<Item = u32> + 'a {
        reservation.table(&self.table)
    }

    /// The rows of `ids` are in the cache now.
    pub(crate) fn commit(&mut self, reservation: Reservation, ids: &[u32]) {
        reservation.commit(&mut self.table);
        self.ids.extend(ids);
        self.unfed = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.truncate(0);
    }
}
