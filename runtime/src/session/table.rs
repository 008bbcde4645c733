//! The pages of one session in one pool.

use warpweft_plan::PAGE_ROWS;

use super::ledger::{Ledger, Reservation, pages};

/// Rows that are kept before the window of a session's last row, so that it can be cut by one less and any of the rows
/// that are left computed again.
const CUT_ROWS: u64 = PAGE_ROWS;

/// Rows, in whole pages, that one session has at the most in a pool whose caches see `window` rows before each row, while
/// a step adds `rows` rows. All of them are written before the first one is read.
pub(super) fn alive(window: u32, rows: u64) -> u64 {
    (kept(window) + rows).next_multiple_of(PAGE_ROWS)
}

/// The most rows that one step can add to a session that has a pool of `pool` rows to itself; `None` if it could not even
/// add one after the other without end.
pub(super) fn most_alive(window: u32, pool: u64) -> Option<u64> {
    pool.checked_sub(kept(window)).filter(|&rows| rows > 0)
}

/// The most rows that are there between steps.
fn kept(window: u32) -> u64 {
    u64::from(window) + CUT_ROWS + PAGE_ROWS - 1
}

/// The pages of one session in order.
#[derive(Debug)]
pub(super) struct Table {
    ledger: Ledger,
    /// Those that were given back are 0.
    pages: Vec<u32>,
    /// How many of the first were given back, because no row will see them.
    forgotten: usize,
}

impl Table {
    pub(super) fn new(ledger: Ledger) -> Table {
        Table { ledger, pages: Vec::new(), forgotten: 0 }
    }

    /// Another one with the same pages.
    pub(super) fn fork(&self) -> Table {
        self.ledger.share(&self.pages[self.forgotten..]);
        Table { ledger: self.ledger.clone(), pages: self.pages.clone(), forgotten: self.forgotten }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = u32> {
        self.pages.iter().copied()
    }

    /// Pages that `rows` more rows take after `held` rows.
    pub(super) fn needed(&self, held: u64, rows: u64) -> usize {
        self.ledger.needed(&self.pages, held, rows)
    }

    /// The greatest number of rows, at most `rows`, for which `free` pages suffice.
    pub(super) fn fitting(&self, held: u64, rows: u64, free: usize) -> u64 {
        let last = self.needed(held, 1) - (pages(held + 1) - self.pages.len());
        let Some(fresh) = free.checked_sub(last) else { return 0 };
        ((self.pages.len() + fresh) as u64 * PAGE_ROWS).saturating_sub(held).min(rows)
    }

    pub(super) fn reserve(&self, held: u64, rows: u64) -> Option<Reservation> {
        self.ledger.reserve(&self.pages, held, rows)
    }

    /// The pages that it will have with a reservation.
    pub(super) fn with<'a>(&'a self, reservation: &'a Reservation) -> impl Iterator<Item = u32> + 'a {
        reservation.table(&self.pages)
    }

    /// Takes the reserved pages, with which there are `rows` rows, and gives back those that no row will see.
    pub(super) fn commit(&mut self, reservation: Reservation, rows: u64) {
        reservation.commit(&mut self.pages);
        let Some(window) = self.ledger.window() else { return };
        let kept_from = rows.saturating_sub(u64::from(window) + CUT_ROWS) / PAGE_ROWS;
        // No more than the pages of `rows` rows, so it fits.
        let kept_from = (kept_from as usize).max(self.forgotten);
        self.ledger.release(&self.pages[self.forgotten..kept_from]);
        self.pages[self.forgotten..kept_from].fill(0);
        self.forgotten = kept_from;
    }

    /// Whether all that the last of `rows` rows and those after it see is still there.
    pub(super) fn has(&self, rows: usize) -> bool {
        let window = self.ledger.window().unwrap_or(0) as usize;
        self.forgotten == 0 || self.forgotten * PAGE_ROWS as usize + window < rows
    }

    /// Gives back the pages behind the first `rows` rows, which it [has](Table::has), or which are none.
    pub(super) fn cut(&mut self, rows: u64) {
        let kept = pages(rows);
        self.ledger.release(&self.pages[kept.max(self.forgotten)..]);
        self.pages.truncate(kept);
        self.forgotten = self.forgotten.min(kept);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.cut(0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn room_and_rows_of_a_step_agree() {
        for window in 0..100 {
            assert_eq!(most_alive(window, alive(window, 1) - PAGE_ROWS), None);
            for pages in alive(window, 1) / PAGE_ROWS..20 {
                let rows = most_alive(window, pages * PAGE_ROWS).unwrap();
                assert!(alive(window, rows) <= pages * PAGE_ROWS && alive(window, rows + 1) > pages * PAGE_ROWS);
            }
        }
    }

    fn add(table: &mut Table, held: &mut u64, rows: u64) {
        let reservation = table.reserve(*held, rows).unwrap();
        *held += rows;
        table.commit(reservation, *held);
    }

    fn windowed(window: u32, pages: u32) -> (Ledger, Table) {
        let ledger = Ledger::new(Some(window));
        ledger.grow(pages);
        (ledger.clone(), Table::new(ledger))
    }

    fn used(ledger: &Ledger) -> usize {
        let (all, free) = ledger.count();
        all - free
    }

    #[test]
    fn pages_that_no_row_will_see_are_given_back() {
        for window in [0, 1, 16, 31, 32, 33, 63, 64, 100] {
            for step in [1, 7, 31, 32, 33, 64, 100] {
                let (ledger, mut table) = windowed(window, 12);
                let mut held = 0;
                for _ in 0..2000 / step {
                    let (before, needed) = (used(&ledger), table.needed(held, step));
                    assert!((before + needed) as u64 * PAGE_ROWS <= alive(window, step), "{window} {step}");
                    add(&mut table, &mut held, step);
                    // Whoever cuts less than a page and computes the last row anew still finds what that sees.
                    let first = table.forgotten as u64 * PAGE_ROWS;
                    assert!(first == 0 || first + u64::from(window) + CUT_ROWS <= held, "{window} {step}");
                    let kept = held.saturating_sub(u64::from(window) + CUT_ROWS);
                    assert!(first + PAGE_ROWS > kept, "{window} {step}: {first} {kept}");
                    assert!(table.pages[..table.forgotten].iter().all(|&page| page == 0));
                    assert_eq!(used(&ledger), table.pages.len() - table.forgotten);
                    assert_eq!(table.pages.len(), pages(held));
                }
                drop(table);
                assert_eq!(used(&ledger), 0);
            }
        }
    }

    #[test]
    fn a_cut_is_possible_while_its_window_is_there() {
        let (ledger, mut table) = windowed(20, 12);
        let mut held = 0;
        add(&mut table, &mut held, 52);
        assert!((0..=52).all(|rows| table.has(rows)));
        add(&mut table, &mut held, 68);
        // Rows 0 .. 64 are gone: 120 - 20 - 32 = 68.
        assert_eq!((table.forgotten, used(&ledger)), (2, 2));
        assert_eq!((0..=120).find(|&rows| table.has(rows)), Some(85));
        table.cut(90);
        assert_eq!((table.pages.len(), used(&ledger)), (3, 1));
        held = 90;
        add(&mut table, &mut held, 1);
        assert_eq!((table.forgotten, used(&ledger)), (2, 1));
        table.cut(0);
        assert_eq!((table.forgotten, table.pages.len(), used(&ledger)), (0, 0, 0));
        add(&mut table, &mut { 0 }, 33);
        assert_eq!(used(&ledger), 2);
    }

    #[test]
    fn forks_hold_what_others_forget() {
        let (ledger, mut table) = windowed(10, 12);
        let mut held = 0;
        add(&mut table, &mut held, 70);
        let mut fork = table.fork();
        assert_eq!(used(&ledger), 3);
        let mut other = held;
        add(&mut table, &mut held, 100);
        // The first three pages are the fork's alone: the third was copied when it was written to.
        assert_eq!((table.forgotten, used(&ledger)), (4, 3 + 2));
        assert!(fork.has(70) && fork.forgotten == 0);
        add(&mut fork, &mut other, 1);
        assert_eq!(fork.reserve(other, 1).unwrap().copied(), None);
        drop(table);
        assert_eq!(used(&ledger), 3);
        drop(fork);
        assert_eq!(used(&ledger), 0);
    }

    #[test]
    fn as_many_rows_fit_as_pages_are_free() {
        for held in [0, 1, 31, 32, 40, 64] {
            let (_ledger, mut table) = windowed(200, 12);
            let mut rows = 0;
            if held > 0 {
                add(&mut table, &mut rows, held);
            }
            for fork in [None, Some(table.fork())] {
                for free in 0..5 {
                    let fits = |n: u64| table.needed(held, n) <= free;
                    let expected = (0..=100).rev().find(|&n| n == 0 || fits(n)).unwrap();
                    let found = table.fitting(held, 100, free);
                    assert_eq!(found, expected, "{held} rows, {free} pages, {fork:?}");
                }
            }
        }
    }
}
