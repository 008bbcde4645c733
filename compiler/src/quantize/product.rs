//! Products of matrices on the CPU, by the `gemm-f32` crate.

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

/// A matrix in a slice: element `[i, j]` is at `i · rows + j · columns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) data: &'a [f32],
    /// Elements from one row to the next.
    pub(super) rows: usize,
    /// Elements from one column to the next.
    pub(super) columns: usize,
}

impl<'a> View<'a> {
    /// Row-major, `stride` elements from row to row.
    pub(super) fn of(data: &'a [f32], stride: usize) -> View<'a> {
        View { data, rows: stride, columns: 1 }
    }

    /// The transpose.
    pub(super) fn turned(self) -> View<'a> {
        View { rows: self.columns, columns: self.rows, ..self }
    }

    fn reaches(self, rows: usize, columns: usize) -> usize {
        if rows == 0 || columns == 0 { 0 } else { (rows - 1) * self.rows + (columns - 1) * self.columns + 1 }
    }
}

/// Who works on a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread: several of them are at work.
    One,
    /// All cores.
    All,
}

/// `out[m, n] += factor · a[m, k] · b[k, n]`; `out` is row-major with `stride` elements from row to row.
pub(super) fn add_product(
    out: &mut [f32],
    stride: usize,
    [m, n, k]: [usize; 3],
    factor: f32,
    (a, b): (View<'_>, View<'_>),
    threads: Threads,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(n <= stride && (m - 1) * stride + n <= out.len(), "a result outside of its slice");
    assert!(a.reaches(m, k) <= a.data.len() && b.reaches(k, n) <= b.data.len(), "an operand outside of its slice");
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // Its kernels write columns: outᵀ += factor · bᵀ · aᵀ. Of each matrix, how far its columns are apart comes first.
    // SAFETY: the assertions say that every element lies in its slice, and `out` is borrowed alone.
    unsafe {
        get_gemm_fn()(
            n,
            m,
            k,
            out.as_mut_ptr(),
            stride as isize,
            1,
            true,
            b.data.as_ptr(),
            b.rows as isize,
            b.columns as isize,
            a.data.as_ptr(),
            a.rows as isize,
            a.columns as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_a_matrix_grows_by_the_product() {
        // a[i, j] = 10 i + j, b its transpose; the window is rows 1.. and columns 1.. of a 3 × 4 matrix.
        let a: Vec<f32> = (0..2).flat_map(|i| (0..3).map(move |j| (10 * i + j) as f32)).collect();
        for threads in [Threads::One, Threads::All] {
            let mut out = vec![1.0; 12];
            let view = View::of(&a, 3);
            add_product(&mut out[5..], 4, [2, 2, 3], 2.0, (view, view.turned()), threads);
            assert_eq!(out, [1., 1., 1., 1., 1., 11., 71., 1., 1., 71., 731., 1.]);
        }
        add_product(&mut [], 1, [0, 1, 1], 1.0, (View::of(&[], 1), View::of(&[], 1)), Threads::One);
    }
}
