//! Which pages of the pool are whose. A page is a number here; the same number means the same rows in every cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use warpweft_plan::PAGE_ROWS;

/// The books of a pool, shared by all of its sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    /// How many sessions hold each page.
    uses: Vec<u32>,
    /// Pages that no one holds.
    free: Vec<u32>,
}

/// Pages for the rows that a session is about to get. They are given back unless the session takes them.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Ledger,
    /// A shared page that ends in the middle, and the page of its own that the session gets for it.
    copied: Option<(u32, u32)>,
    fresh: Vec<u32>,
}

/// Pages that a sequence of `rows` rows has.
pub(crate) fn pages(rows: u64) -> usize {
    usize::try_from(rows.div_ceil(PAGE_ROWS)).unwrap_or(usize::MAX)
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether two sessions live in the same pool.
    pub(crate) fn is(&self, other: &Ledger) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds pages until there are `pages`.
    pub(crate) fn grow(&self, pages: u32) {
        let mut books = self.books();
        let first = books.uses.len() as u32;
        books.uses.resize(pages.max(first) as usize, 0);
        books.free.splice(..0, (first..pages).rev());
    }

    /// Pages that there are and pages that no one holds.
    pub(crate) fn count(&self) -> (usize, usize) {
        let books = self.books();
        (books.uses.len(), books.free.len())
    }

    /// Pages that `rows` more rows take after the first `held` rows, which lie in `table`.
    pub(crate) fn needed(&self, table: &[u32], held: u64, rows: u64) -> usize {
        pages(held + rows) - table.len() + usize::from(self.is_split(table, held, rows))
    }

    /// Takes the pages for `rows` more rows; `None` if too few are free.
    pub(crate) fn reserve(&self, table: &[u32], held: u64, rows: u64) -> Option<Reservation> {
        let split = self.is_split(table, held, rows);
        let needed = pages(held + rows) - table.len() + usize::from(split);
        let mut books = self.books();
        let rest = books.free.len().checked_sub(needed)?;
        let mut fresh = books.free.split_off(rest);
        fresh.reverse();
        fresh.iter().for_each(|&page| books.uses[page as usize] = 1);
        let copied = table.last().copied().filter(|_| split).map(|from| (from, fresh.remove(0)));
        drop(books);
        Some(Reservation { ledger: self.clone(), copied, fresh })
    }

    /// Whether new rows would go into a page that others hold as well.
    fn is_split(&self, table: &[u32], held: u64, rows: u64) -> bool {
        let shared = |page: &u32| self.books().uses[*page as usize] > 1;
        rows > 0 && !held.is_multiple_of(PAGE_ROWS) && table.last().is_some_and(shared)
    }

    /// One more session holds these pages.
    pub(crate) fn share(&self, pages: &[u32]) {
        let mut books = self.books();
        pages.iter().for_each(|&page| books.uses[page as usize] += 1);
    }

    /// One session less holds these pages.
    pub(crate) fn release(&self, pages: &[u32]) {
        let mut books = self.books();
        for &page in pages {
            books.uses[page as usize] -= 1;
            if books.uses[page as usize] == 0 {
                books.free.push(page);
            }
        }
    }
}

impl Reservation {
    /// The page whose content has to be copied, and where to.
    pub(crate) fn copied(&self) -> Option<(u32, u32)> {
        self.copied
    }

    /// The pages that the session will have, which has those of `table` now.
    pub(crate) fn table<'a>(&'a self, table: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let kept = &table[..table.len() - usize::from(self.copied.is_some())];
        kept.iter().copied().chain(self.copied.map(|(_, to)| to)).chain(self.fresh.iter().copied())
    }

    /// Makes the pages the session's.
    pub(crate) fn commit(mut self, table: &mut Vec<u32>) {
        if let Some((from, to)) = self.copied.take() {
            table.pop();
            table.push(to);
            self.ledger.release(&[from]);
        }
        table.append(&mut self.fresh);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.fresh.extend(self.copied.take().map(|(_, to)| to));
        self.ledger.release(&self.fresh);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ledger(pages: u32) -> Ledger {
        let ledger = Ledger::default();
        ledger.grow(pages);
        ledger
    }

    #[test]
    fn pages_are_taken_and_given_back() {
        let ledger = ledger(4);
        let mut table = Vec::new();
        ledger.reserve(&table, 0, 33).unwrap().commit(&mut table);
        assert_eq!((table.as_slice(), ledger.count()), (&[0, 1][..], (4, 2)));
        // The second page has room for 31 more rows.
        assert_eq!(ledger.needed(&table, 33, 31), 0);
        assert_eq!(ledger.needed(&table, 33, 32), 1);
        assert!(ledger.reserve(&table, 33, 32 * 3).is_none());
        drop(ledger.reserve(&table, 33, 64).unwrap());
        assert_eq!(ledger.count(), (4, 2));
        ledger.grow(5);
        assert_eq!(ledger.count(), (5, 3));
        ledger.release(&table);
        assert_eq!(ledger.count(), (5, 5));
    }

    #[test]
    fn a_shared_page_that_is_not_full_is_copied() {
        let ledger = ledger(5);
        let mut one = Vec::new();
        ledger.reserve(&one, 0, 40).unwrap().commit(&mut one);
        let mut two = one.clone();
        ledger.share(&two);
        assert_eq!(ledger.needed(&two, 40, 1), 1);
        let reservation = ledger.reserve(&two, 40, 30).unwrap();
        assert_eq!(reservation.copied(), Some((1, 2)));
        assert_eq!(reservation.table(&two).collect::<Vec<_>>(), [0, 2, 3]);
        drop(reservation);
        assert_eq!(ledger.count(), (5, 3));
        ledger.reserve(&two, 40, 1).unwrap().commit(&mut two);
        assert_eq!((&one, two[0], two.len()), (&vec![0, 1], 0, 2));
        assert!(two[1] > 1);
        // The other one has its page for itself now.
        assert_eq!(ledger.reserve(&one, 40, 1).unwrap().copied(), None);
        ledger.release(&one);
        ledger.release(&two);
        assert_eq!(ledger.count(), (5, 5));
    }

    #[test]
    fn a_shared_page_that_is_full_is_not_copied() {
        let ledger = ledger(3);
        let mut one = Vec::new();
        ledger.reserve(&one, 0, 64).unwrap().commit(&mut one);
        ledger.share(&one);
        assert_eq!(ledger.reserve(&one, 64, 1).unwrap().copied(), None);
        // Cut in the middle of a shared page, it is.
        assert!(ledger.reserve(&one[..1], 20, 1).unwrap().copied().is_some());
    }
}
