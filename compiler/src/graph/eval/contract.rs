//! Contractions.

use super::Tensor;

/// `[…, m, k] × […, k, n]`
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    let ([outer, m, k], [_, _, n]) = (a.batches(), b.batches());
    let mut shape = a.shape.clone();
    let rank = shape.len();
    shape[rank - 1] = n;
    let mut data = Vec::with_capacity(outer * m * n);
    let mut sums = vec![0f64; n];
    for o in 0..outer {
        for i in 0..m {
            sums.fill(0.0);
            for j in 0..k {
                let x = f64::from(a.data[(o * m + i) * k + j]);
                let row = &b.data[(o * k + j) * n..][..n];
                sums.iter_mut().zip(row).for_each(|(s, &y)| *s += x * f64::from(y));
            }
            data.extend(sums.iter().map(|&s| s as f32));
        }
    }
    Tensor { shape, data }
}

/// `x [rows, k] · w [n, k]ᵀ`
pub(super) fn linear(x: &Tensor, w: &Tensor) -> Tensor {
    let ([_, rows, k], [_, n, _]) = (x.batches(), w.batches());
    Tensor::filled(vec![rows, n], |i| dot(&x.data[i / n * k..][..k], &w.data[i % n * k..][..k]) as f32)
}

/// `x [rows, heads · k]`, of each head its own rows of `w [heads · n, k]`
pub(super) fn head_linear(x: &Tensor, w: &Tensor, heads: usize) -> Tensor {
    let ([_, rows, width], k) = (x.batches(), w.last());
    let columns = w.data.len() / k;
    let n = columns / heads;
    Tensor::filled(vec![rows, columns], |at| {
        let (i, j) = (at / columns, at % columns);
        dot(&x.data[i * width + j / n * k..][..k], &w.data[j * k..][..k]) as f32
    })
}

/// For each head the raw scores `q · k`: `[heads, queries, keys]`.
pub(super) fn scores(q: &Tensor, k: &Tensor, heads: usize, kv_heads: usize) -> Tensor {
    let ([_, queries, qw], [_, keys, kw]) = (q.batches(), k.batches());
    let width = qw / heads;
    Tensor::filled(vec![heads, queries, keys], |at| {
        let (h, i, j) = (at / keys / queries, at / keys % queries, at % keys);
        let g = h / (heads / kv_heads);
        dot(&q.data[i * qw + h * width..][..width], &k.data[j * kw + g * width..][..width]) as f32
    })
}

/// From +0, as `matmul` sums: an empty or all-negative-zero sum would otherwise differ in sign.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (&x, &y)| sum + f64::from(x) * f64::from(y))
}
