//! Operators over rows: softmax, norms, rotary embedding, pooling.

use super::Tensor;
use crate::graph::moments;

/// Replaces each row (the last axis) by what `f` makes of it.
fn rows(x: &Tensor, f: impl Fn(&[f64]) -> Vec<f64>) -> Tensor {
    let width = x.last();
    let mut data = Vec::with_capacity(x.data.len());
    for row in x.data.chunks_exact(width.max(1)) {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        data.extend(f(&row).into_iter().map(|v| v as f32));
    }
    Tensor { shape: x.shape.clone(), data }
}

pub(super) fn softmax(x: &Tensor) -> Tensor {
    rows(x, |row| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exp: Vec<f64> = row.iter().map(|v| (v - max).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.into_iter().map(|e| e / sum).collect()
    })
}

pub(super) fn layer_norm(x: &Tensor, eps: f64) -> Tensor {
    rows(x, |row| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        row.iter().map(|v| (v - mean) / (variance + eps).sqrt()).collect()
    })
}

pub(super) fn rms_norm(x: &Tensor, eps: f64) -> Tensor {
    rows(x, |row| {
        let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        row.iter().map(|v| v / (square + eps).sqrt()).collect()
    })
}

/// [`rms_norm`] of each head of each row, times the gain.
pub(super) fn head_norm(x: &Tensor, heads: usize, eps: f64, gain: &Tensor) -> Tensor {
    let width = x.last() / heads.max(1);
    let by_head = Tensor { shape: vec![x.data.len() / width.max(1), width], data: x.data.clone() };
    let normed = rms_norm(&by_head, eps);
    let product = |at: usize| (f64::from(normed.data[at]) * f64::from(gain.data[at % width])) as f32;
    Tensor::filled(x.shape.clone(), product)
}

/// Rows times a gain, zeros up to the padding, and sums of squares of the rows.
pub(super) fn gained(rows: &Tensor, gain: &Tensor) -> Tensor {
    let columns = rows.last();
    let all = moments::width(columns as u32) as usize;
    let mut data = Vec::with_capacity(rows.data.len() / columns.max(1) * all);
    for row in rows.data.chunks_exact(columns) {
        let start = data.len();
        data.extend(row.iter().zip(&gain.data).map(|(value, gain)| value * gain));
        data.resize(start + moments::first(columns as u32) as usize, 0.0);
        let squares = |part: &[f32]| part.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() as f32;
        data.extend(row.chunks(moments::GRANULE as usize).map(squares));
    }
    Tensor { shape: vec![rows.shape[0], all], data }
}

/// What a contraction of `columns` such columns is scaled with, for each row.
pub(super) fn scales(gained: &Tensor, columns: usize, eps: f64) -> Vec<f32> {
    let sums = moments::first(columns as u32) as usize;
    let scale = |row: &[f32]| {
        let sum: f64 = row[sums..].iter().map(|v| f64::from(v.abs())).sum();
        (1.0 / (sum / columns as f64 + eps).sqrt()) as f32
    };
    gained.data.chunks_exact(gained.last()).map(scale).collect()
}

pub(super) fn l2_norm(x: &Tensor, eps: f64) -> Tensor {
    rows(x, |row| {
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(eps);
        row.iter().map(|v| v / length).collect()
    })
}

pub(super) fn rope(
    x: &Tensor,
    positions: &Tensor,
    frequencies: &Tensor,
    heads: usize,
    interleaved: bool,
    scale: f64,
) -> Tensor {
    let [_, _, columns] = x.batches();
    let (width, pairs) = (columns / heads, frequencies.data.len());
    Tensor::filled(x.shape.clone(), |at| {
        let (row, j) = (at / columns, at % columns % width);
        if j >= 2 * pairs {
            return x.data[at];
        }
        let (pair, second) = if interleaved { (j / 2, j % 2 == 1) } else { (j % pairs, j >= pairs) };
        let step = if interleaved { 1 } else { pairs };
        let partner = f64::from(x.data[if second { at - step } else { at + step }]);
        let (sin, cos) = (f64::from(positions.data[row]) * f64::from(frequencies.data[pair])).sin_cos();
        let own = f64::from(x.data[at]);
        let turned = if second { own * cos + partner * sin } else { own * cos - partner * sin };
        (turned * scale) as f32
    })
}

fn columns(x: &Tensor, f: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Tensor {
    let width = x.last();
    Tensor::filled(vec![1, width], |j| f(&mut x.data.iter().skip(j).step_by(width).map(|&v| f64::from(v))) as f32)
}

pub(super) fn mean_pool(x: &Tensor) -> Tensor {
    let rows = x.shape[0] as f64;
    columns(x, |column| column.sum::<f64>() / rows)
}

pub(super) fn first_row(x: &Tensor) -> Tensor {
    columns(x, |column| column.next().unwrap_or(0.0))
}

pub(super) fn max_pool(x: &Tensor) -> Tensor {
    columns(x, |column| column.fold(f64::NEG_INFINITY, f64::max))
}

pub(super) fn last_row(x: &Tensor) -> Tensor {
    columns(x, |column| column.last().unwrap_or(0.0))
}

pub(super) fn candidates(x: &Tensor, n: usize) -> Tensor {
    let width = x.last();
    let mut data = Vec::new();
    for row in x.data.chunks_exact(width) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&v| (f64::from(v) - f64::from(max)).exp()).sum();
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        data.push((f64::from(max) + sum.ln()) as f32);
        data.extend(order[..n].iter().map(|&i| row[i]));
        data.extend(order[..n].iter().map(|&i| i as f32));
    }
    Tensor { shape: vec![x.shape[0], 1 + 2 * n], data }
}
