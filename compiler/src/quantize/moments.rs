//! Second moments of what goes into a contraction, and the factors by which errors are carried on.

use super::product::{Threads, View, add_product};

/// Columns of a block of the factorization.
const BLOCK: usize = 64;
/// Rows of the sums that are added to at once, from the diagonal on: the other half is the same.
const STRIPE: usize = 128;

/// Second moments of rows, `Σ xᵀx`, as they come in.
#[derive(Clone, Debug)]
pub struct Moments {
    width: usize,
    /// Row-major `[width, width]`, symmetric: of each stripe of rows, the columns from its first one on.
    sums: Vec<f32>,
    rows: u64,
}

/// Moments that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MomentsError {
    /// An input is NaN or infinite, or so large that its square is.
    #[error("column {column} of the input is not finite, or its square is not")]
    NotFinite {
        /// The column.
        column: usize,
    },
    /// There were no rows.
    #[error("no rows came in")]
    NoRows,
}

impl Moments {
    /// Of rows of `width` columns, none yet.
    pub fn new(width: usize) -> Moments {
        Moments { width, sums: vec![0.0; width * width], rows: 0 }
    }

    /// Bytes that the moments of rows of `width` columns take.
    pub fn bytes(width: usize) -> u64 {
        4 * (width as u64).pow(2)
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows that came in.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds whole rows, `[rows, width]` row-major.
    pub fn add(&mut self, rows: &[f32]) {
        let n = rows.len() / self.width.max(1);
        for first in (0..self.width).step_by(STRIPE) {
            let x = View::of(rows.get(first..).unwrap_or_default(), self.width);
            let shape = [STRIPE.min(self.width - first), self.width - first, n];
            let sums = &mut self.sums[first * self.width + first..];
            add_product(sums, self.width, shape, 1.0, (x.turned(), x), Threads::All);
        }
        self.rows += n as u64;
    }

    /// The factors of the mean moments, with `damping` times their mean diagonal added to the diagonal: without it,
    /// columns that never had an input would have no error.
    ///
    /// # Errors
    /// When nothing came in, or an input was not finite.
    pub fn factor(&self, damping: f32) -> Result<Factors, MomentsError> {
        if self.rows == 0 {
            return Err(MomentsError::NoRows);
        }
        let scale = 1.0 / self.rows as f32;
        let mut mean: Vec<f32> = self.sums.iter().map(|s| s * scale).collect();
        for row in 0..self.width {
            (0..row / STRIPE * STRIPE)
                .for_each(|column| mean[row * self.width + column] = mean[column * self.width + row]);
        }
        if let Some(at) = mean.iter().position(|m| !m.is_finite()) {
            return Err(MomentsError::NotFinite { column: at / self.width });
        }
        let diagonal = mean.iter().step_by(self.width + 1).map(|&m| f64::from(m)).sum::<f64>() / self.width as f64;
        // Where no input was ever other than zero, any error is as good as another.
        let diagonal = if diagonal > f64::from(f32::MIN_POSITIVE) { diagonal as f32 } else { 1.0 };
        let mut damping = damping;
        loop {
            let mut matrix = mean.clone();
            matrix.iter_mut().step_by(self.width + 1).for_each(|m| *m += damping * diagonal);
            if let Some(factors) = Factors::of(matrix, self.width) {
                return Ok(factors);
            }
            // Rounding made it indefinite. Far more of the diagonal makes any such matrix definite.
            damping = (damping * 10.0).max(1e-4);
        }
    }
}

/// A symmetric positive definite matrix `H = (I + U) D (I + U)ᵀ`, with `U` strictly upper triangular and `D` diagonal.
///
/// An error `e` of a row costs `e H eᵀ = Σ ηₖ² Dₖ` with `η = e (I + U)`. So if columns are rounded in order, and what
/// column `k` is rounded from is `wₖ + Σ_{j<k} eⱼ Uⱼₖ`, then `ηₖ` is just its own rounding's error: that is the error
/// feedback of OBQ and GPTQ in the form of LDLQ (Chee et al. 2023, arXiv 2307.13304, theorem 6).
#[derive(Clone, Debug)]
pub struct Factors {
    width: usize,
    /// Row-major `[width, width]`: strictly upper triangular, zeros elsewhere.
    upper: Vec<f32>,
    diagonal: Vec<f32>,
}

impl Factors {
    /// Of the identity: each column's error counts alone.
    pub fn identity(width: usize) -> Factors {
        Factors { width, upper: vec![0.0; width * width], diagonal: vec![1.0; width] }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `D`: what the square of each column's own error costs.
    pub fn diagonal(&self) -> &[f32] {
        &self.diagonal
    }

    /// `U` from row `row` and column `column` on, as it lies in a matrix of [`Factors::width`] columns.
    pub(super) fn upper(&self, row: usize, column: usize) -> &[f32] {
        &self.upper[row * self.width + column..]
    }

    /// `None` for a matrix that is not definite. Blocks from the last to the first (a Cholesky factorization from below):
    /// a block's own triangle, the panel above it, and what that leaves of all before it.
    fn of(mut a: Vec<f32>, width: usize) -> Option<Factors> {
        let mut end = width;
        while end > 0 {
            let first = end.saturating_sub(BLOCK);
            let n = end - first;
            let triangle = triangle(&a, width, first, n)?;
            // H = R Rᵀ with R upper triangular: the panel P of R solves P Tᵀ = A.
            let mut panel = vec![0f32; first * n];
            for row in 0..first {
                let given = &a[row * width + first..][..n];
                let solved = &mut panel[row * n..][..n];
                for j in (0..n).rev() {
                    let known: f64 = (j + 1..n).map(|k| f64::from(solved[k]) * triangle[j * n + k]).sum();
                    solved[j] = ((f64::from(given[j]) - known) / triangle[j * n + j]) as f32;
                }
            }
            let view = View::of(&panel, n);
            add_product(&mut a, width, [first, first, n], -1.0, (view, view.turned()), Threads::All);
            for row in 0..first {
                a[row * width + first..][..n].copy_from_slice(&panel[row * n..][..n]);
            }
            for (row, values) in triangle.chunks_exact(n).enumerate() {
                a[(first + row) * width + first..][..n].iter_mut().zip(values).for_each(|(a, &t)| *a = t as f32);
            }
            end = first;
        }
        let roots: Vec<f32> = a.iter().step_by(width + 1).copied().collect();
        for (row, values) in a.chunks_exact_mut(width).enumerate() {
            values[..=row].fill(0.0);
            values[row + 1..].iter_mut().zip(&roots[row + 1..]).for_each(|(u, root)| *u /= root);
        }
        Some(Factors { width, upper: a, diagonal: roots.iter().map(|r| r * r).collect() })
    }
}

/// The upper triangular root `T Tᵀ` of the block `[n, n]` at `first` on the diagonal; zeros below its diagonal.
fn triangle(a: &[f32], width: usize, first: usize, n: usize) -> Option<Vec<f64>> {
    let mut t = vec![0f64; n * n];
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let known: f64 = (j + 1..n).map(|k| t[i * n + k] * t[j * n + k]).sum();
            let rest = f64::from(a[(first + i) * width + first + j]) - known;
            t[i * n + j] = match i == j {
                true if rest > 0.0 => rest.sqrt(),
                true => return None,
                false => rest / t[j * n + j],
            };
        }
    }
    Some(t)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rows(n: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f32 / (1u64 << 30) as f32 - 1.0
        };
        let mixed: Vec<f32> = (0..n * width).map(|_| random()).collect();
        // Neighbors have something in common.
        (0..n * width).map(|i| mixed[i] + if i % width > 0 { 0.7 * mixed[i - 1] } else { 0.0 }).collect()
    }

    #[test]
    fn factors_multiply_to_the_damped_moments() {
        for width in [1, 5, 63, 64, 65, 150] {
            let x = rows(3 * width, width, 7);
            let mut moments = Moments::new(width);
            x.chunks(7 * width).for_each(|piece| moments.add(piece));
            assert_eq!(moments.rows(), 3 * width as u64);
            let mean = |i: usize, j: usize| {
                let sum: f64 = x.chunks(width).map(|r| f64::from(r[i]) * f64::from(r[j])).sum();
                sum / (3 * width) as f64
            };
            let damping = 0.01 * (0..width).map(|i| mean(i, i)).sum::<f64>() / width as f64;
            let factors = moments.factor(0.01).unwrap();
            let unit = |i: usize, k: usize| match i.cmp(&k) {
                std::cmp::Ordering::Less => f64::from(factors.upper(i, k)[0]),
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => 0.0,
            };
            for i in 0..width {
                for j in 0..width {
                    let product: f64 =
                        (0..width).map(|k| unit(i, k) * f64::from(factors.diagonal()[k]) * unit(j, k)).sum();
                    let expected = mean(i, j) + if i == j { damping } else { 0.0 };
                    // Sums of up to 450 products, each rounded once.
                    assert!((product - expected).abs() < 2e-5 * (1.0 + expected.abs()), "{width} {i} {j}");
                }
            }
        }
    }

    #[test]
    fn dead_columns_and_no_input_at_all_have_factors() {
        let mut moments = Moments::new(3);
        assert!(matches!(moments.factor(0.01), Err(MomentsError::NoRows)));
        moments.add(&[0.0; 6]);
        assert_eq!(moments.factor(0.01).unwrap().diagonal(), [0.01; 3].map(|d: f32| d.sqrt() * d.sqrt()));
        moments.add(&[2.0, 0.0, 4.0]);
        assert!(moments.factor(0.01).unwrap().diagonal().iter().all(|d| *d > 0.0));
        moments.add(&[0.0, f32::MAX, 0.0]);
        assert!(matches!(moments.factor(0.01), Err(MomentsError::NotFinite { column: 1 })));
    }

    #[test]
    fn columns_that_are_the_same_are_damped_enough() {
        let mut moments = Moments::new(80);
        moments.add(&rows(100, 1, 3).iter().flat_map(|&x| vec![1e3 * x; 80]).collect::<Vec<_>>());
        assert!(moments.factor(0.0).unwrap().diagonal().iter().all(|d| *d > 0.0 && d.is_finite()));
    }
}
