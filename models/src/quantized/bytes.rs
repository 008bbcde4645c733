//! Weights `[out, in]` whose codes are a byte each, and a scale for each block of them.

use std::ops::Range;

use warpweft_compiler::formats::{Format, Group};

use super::parts::{SCALES, again, part, scale, wrong_type};
use super::{Found, Layout, Rows, Site};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::error::CheckpointError;

/// Values that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// All of a tensor.
    Tensor,
    /// A row.
    Row,
    /// So many columns of a row.
    Group(usize),
    /// So many rows of so many columns; blocks at the ends may be smaller.
    Block([usize; 2]),
}

impl Shared {
    /// Rows and columns of a block in a matrix.
    fn block(self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        match self {
            Shared::Tensor => [rows, columns],
            Shared::Row => [1, columns],
            Shared::Group(size) => [1, size],
            Shared::Block(block) => block,
        }
    }

    /// Shapes that the scales of a matrix may have; the first is the usual one.
    fn shapes(self, [rows, columns]: [usize; 2]) -> Vec<Vec<usize>> {
        match self {
            Shared::Tensor => vec![vec![1], vec![], vec![1, 1]],
            Shared::Row => vec![vec![rows, 1], vec![rows]],
            Shared::Group(size) => vec![vec![rows, columns.div_ceil(size)]],
            Shared::Block([r, c]) => vec![vec![rows.div_ceil(r), columns.div_ceil(c)]],
        }
    }
}

/// Finds the weight with its scales in the tensor `scales`, which are shared in one of these ways; the first is named
/// where none fits. `idle` are tensors that belong to the weight and are not needed.
///
/// # Errors
/// When weight or scales have another type or shape.
pub(super) fn find(
    site: &Site<'_>,
    scales: String,
    shared: &[Shared],
    idle: &[&str],
) -> Result<Found, CheckpointError> {
    let &Site { checkpoint, name, rows, columns, .. } = site;
    let weight = part(checkpoint, name, &[StoredType::F8_E4M3, StoredType::I8], &[&[rows, columns]])?;
    let size = [rows, columns];
    let all: Vec<Vec<usize>> = shared.iter().flat_map(|shared| shared.shapes(size)).collect();
    let shapes: Vec<&[usize]> = all.iter().map(Vec::as_slice).collect();
    let stored = part(checkpoint, &scales, SCALES, &shapes)?;
    let is_shape = |shape: &Vec<usize>| shape.iter().map(|&n| n as u64).eq(stored.shape.iter().copied());
    // `part` has found one of the shapes.
    let found = shared.iter().find(|shared| shared.shapes(size).iter().any(is_shape)).unwrap_or(&Shared::Tensor);
    let block = found.block(size);
    let group: Group = site.group(Some(block[1]))?;
    let format = match weight.stored {
        StoredType::F8_E4M3 => Format::Fp8(group),
        StoredType::I8 => Format::Int8(group),
        _ => return Err(wrong_type(&weight, &[StoredType::F8_E4M3, StoredType::I8])),
    };
    let there = idle.iter().map(|idle| site.beside(idle)).filter(|idle| checkpoint.tensor(idle).is_some());
    let parts = [name.to_owned(), scales.clone()].into_iter().chain(there).collect();
    let layout = Stored { weight: name.to_owned(), scales, columns, block };
    Ok(Found { format, order: None, parts, layout: Box::new(layout) })
}

#[derive(Debug)]
struct Stored {
    weight: String,
    scales: String,
    columns: usize,
    /// Rows and columns that share a scale.
    block: [usize; 2],
}

impl Layout for Stored {
    fn rows(&self, checkpoint: &Checkpoint, rows: Range<usize>) -> Result<Rows, CheckpointError> {
        let (weight, stored) = (again(checkpoint, &self.weight)?, again(checkpoint, &self.scales)?);
        let range = rows.start * self.columns..rows.end * self.columns;
        let codes = weight.bytes.get(range).unwrap_or_default().to_vec();
        let [block_rows, block_columns] = self.block;
        let groups = self.columns.div_ceil(block_columns);
        let mut scales = Vec::with_capacity(rows.len() * groups);
        for row in rows {
            for group in 0..groups {
                scales.push(scale(&stored, row / block_rows * groups + group)?);
            }
        }
        Ok(Rows { codes, scales, zeros: None })
    }
}
