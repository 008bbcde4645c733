//! What the CPU itself can do, as a yardstick for software adapters.

use std::time::{Duration, Instant};

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

/// Rows, columns and depth of the product: a feed-forward layer of a small transformer over a large batch.
const SHAPE: [usize; 3] = [1024, 1536, 1024];
/// How long to measure.
const TIME: Duration = Duration::from_millis(400);

/// The best rate of f32 matrix products with the `gemm-f32` crate on all cores, in 10⁹ operations per second.
pub(crate) fn gflop_per_s() -> f64 {
    let [m, n, k] = SHAPE;
    let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 - 8.0).collect();
    let b: Vec<f32> = (0..n * k).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut out = vec![0f32; m * n];
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < TIME {
        let start = Instant::now();
        product(&mut out, &a, &b);
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (m * n * k) as f64 / best / 1e9
}

/// `out[m, n] = Σ_k a[m, k] · b[n, k]`
fn product(out: &mut [f32], a: &[f32], b: &[f32]) {
    let [m, n, k] = SHAPE;
    assert_eq!([out.len(), a.len(), b.len()], [m * n, m * k, n * k]);
    let (row, one) = (|columns: usize| columns as isize, 1);
    // Its kernels write columns: outᵀ = b · aᵀ. Of each matrix, how far its columns are apart comes first.
    // SAFETY: the slices hold as many elements as the shapes and strides say, and `out` overlaps neither.
    unsafe {
        get_gemm_fn()(
            n,
            m,
            k,
            out.as_mut_ptr(),
            row(n),
            one,
            false,
            b.as_ptr(),
            one,
            row(k),
            a.as_ptr(),
            row(k),
            one,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_one() {
        let [m, n, k] = SHAPE;
        let (mut out, mut a, mut b) = (vec![0.0; m * n], vec![0.0; m * k], vec![0.0; n * k]);
        (a[3 * k + 5], a[3 * k + 6], b[7 * k + 5], b[7 * k + 6]) = (2.0, 3.0, 10.0, 100.0);
        product(&mut out, &a, &b);
        assert_eq!(out[3 * n + 7], 320.0);
        assert_eq!(out.iter().sum::<f32>(), 320.0);
    }
}
