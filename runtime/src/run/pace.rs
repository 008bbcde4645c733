//! How many rows one submission gets.
//!
//! Drivers reset a device that works too long on one submission (often 2 to 10 s), and small submissions waste it.
//! So the number of rows follows the time that the last submission took.

/// Seconds that a submission should take.
const TARGET: f64 = 0.5;
/// Rows of the first submission.
const FIRST: u64 = 256;
/// Least number of rows aimed at.
const LEAST: u64 = 32;
/// The pace grows by this factor at the most: the first submissions include work that the driver put off.
const GROWTH: u64 = 4;

/// The number of rows to aim at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    rows: u64,
    most: u64,
}

impl Pace {
    pub(crate) fn new(most: u64) -> Pace {
        Pace { rows: FIRST.min(most), most }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Learns from a submission.
    pub(crate) fn learn(&mut self, rows: u64, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let fitting = (rows as f64 * TARGET / seconds) as u64;
        // A small submission says little about a large one, so it only slows down when it was itself too slow.
        let least = if seconds < TARGET { self.rows } else { LEAST };
        self.rows = fitting.clamp(least, (self.rows * GROWTH).max(least)).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_time() {
        let mut pace = Pace::new(10_000);
        pace.learn(256, 0.05);
        assert_eq!(pace.rows(), 1024);
        pace.learn(1024, 0.25);
        assert_eq!(pace.rows(), 2048);
        pace.learn(2048, 2.0);
        assert_eq!(pace.rows(), 512);
        pace.learn(3, 0.01);
        assert_eq!(pace.rows(), 512);
        pace.learn(512, 100.0);
        assert_eq!(pace.rows(), LEAST);
        pace.learn(512, 0.0);
        assert_eq!(pace.rows(), LEAST);
    }

    #[test]
    fn keeps_its_bound() {
        let mut pace = Pace::new(100);
        assert_eq!(pace.rows(), 100);
        pace.learn(100, 0.001);
        assert_eq!(pace.rows(), 100);
    }
}
