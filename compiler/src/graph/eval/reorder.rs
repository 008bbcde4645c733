//! Operators that move elements.

use super::{EvalError, Tensor};

pub(super) fn transpose(x: &Tensor) -> Tensor {
    let [_, rows, columns] = x.batches();
    let mut shape = x.shape.clone();
    let n = shape.len();
    shape.swap(n - 1, n - 2);
    Tensor::filled(shape, |at| {
        let (o, i, j) = (at / (rows * columns), at / rows % columns, at % rows);
        x.data[(o * rows + j) * columns + i]
    })
}

pub(super) fn slice(x: &Tensor, axis: usize, start: usize, len: usize) -> Tensor {
    let mut shape = x.shape.clone();
    let (size, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    shape[axis] = len;
    Tensor::filled(shape, |at| x.data[(at / inner / len * size + start + at / inner % len) * inner + at % inner])
}

pub(super) fn concat(a: &Tensor, b: &Tensor, axis: usize) -> Tensor {
    let mut shape = a.shape.clone();
    let inner = shape[axis + 1..].iter().product::<usize>();
    let (na, nb) = (a.shape[axis], b.shape[axis]);
    shape[axis] = na + nb;
    Tensor::filled(shape, |at| {
        let (o, i, rest) = (at / inner / (na + nb), at / inner % (na + nb), at % inner);
        if i < na { a.data[(o * na + i) * inner + rest] } else { b.data[(o * nb + i - na) * inner + rest] }
    })
}

pub(super) fn gather(table: &Tensor, index: &Tensor) -> Result<Tensor, EvalError> {
    let [_, rows, width] = table.batches();
    let mut data = Vec::with_capacity(index.data.len() * width);
    for &id in &index.data {
        let row = table.data.get(id as usize * width..(id as usize + 1) * width);
        data.extend_from_slice(row.ok_or(EvalError::Id { id: id as u32, rows })?);
    }
    Ok(Tensor { shape: vec![index.data.len(), width], data })
}

pub(super) fn gather_columns(x: &Tensor, index: &Tensor) -> Tensor {
    let [_, rows, width] = x.batches();
    let columns = index.data.len();
    // A float as an integer is clamped at 0.
    let column = |j: usize| (index.data[j] as usize).min(width.saturating_sub(1));
    Tensor::filled(vec![rows, columns], |at| x.data[at / columns * width + column(at % columns)])
}

pub(super) fn split_heads(x: &Tensor, heads: usize) -> Tensor {
    let [_, rows, columns] = x.batches();
    let width = columns / heads;
    Tensor::filled(vec![heads, rows, width], |at| {
        let (h, i, j) = (at / width / rows, at / width % rows, at % width);
        x.data[i * columns + h * width + j]
    })
}

pub(super) fn merge_heads(x: &Tensor) -> Tensor {
    let [heads, rows, width] = x.batches();
    Tensor::filled(vec![rows, heads * width], |at| {
        let (i, h, j) = (at / width / heads, at / width % heads, at % width);
        x.data[(h * rows + i) * width + j]
    })
}

pub(super) fn repeat_heads(x: &Tensor, times: usize) -> Tensor {
    let [heads, rows, width] = x.batches();
    let inner = rows * width;
    Tensor::filled(vec![heads * times, rows, width], |at| x.data[at / inner / times * inner + at % inner])
}
