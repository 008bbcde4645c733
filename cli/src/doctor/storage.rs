//! Rows of numbers as bindings hold them: floats, codes of activations, and what caches store.

use warpweft_compiler::formats::{Format, Group, cache};
use warpweft_compiler::kernels::spec::View;
use warpweft_plan::{CacheRows, PAD};

/// How activations are stored as codes.
const CODES: Format = Format::Int8(Group::Row);

/// From one code to the next, of a row whose greatest magnitude is 1.
const STEP: f32 = 1.01 / 127.0;

/// How the rows of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Storage {
    /// As 32-bit floats, padded.
    Floats,
    /// As signed bytes with a scale for each row.
    Codes,
    /// As a cache has them.
    Cache(CacheRows),
}

impl Storage {
    /// 32-bit words from one row of `width` columns to the next, of what is no cache.
    pub(super) fn words(self, width: usize) -> usize {
        match self {
            Storage::Codes => View::of_codes(width as u32).stride as usize,
            Storage::Floats | Storage::Cache(_) => padded(width),
        }
    }

    /// The bytes of padded rows of `width` columns. The numbers become what these stand for.
    pub(super) fn store(self, numbers: &mut Vec<f32>, width: usize) -> Vec<u8> {
        let row = |row: &[f32]| row[..width].to_vec();
        let rows = numbers.chunks_exact(padded(width).max(1));
        // Finite numbers of this size fit in every format, and a row has `width` of them.
        let bytes = match self {
            Storage::Floats => return floats(numbers),
            Storage::Codes => {
                let code = |values: &[f32]| {
                    let mut bytes = CODES.pack(&row(values), width).unwrap_or_default();
                    bytes.resize(4 * self.words(width), 0);
                    bytes
                };
                rows.flat_map(code).collect()
            }
            Storage::Cache(stored) => cache::pack(stored, &rows.flat_map(row).collect::<Vec<_>>()).unwrap_or_default(),
        };
        *numbers = self.numbers(&bytes, width);
        bytes
    }

    /// What bytes stand for, as padded rows of `width` columns. Padding that is not stored is zero.
    pub(super) fn numbers(self, bytes: &[u8], width: usize) -> Vec<f32> {
        let pad = |row: &[f32]| row.iter().copied().chain(std::iter::repeat_n(0.0, padded(width) - width)).collect();
        match self {
            Storage::Floats => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Storage::Codes => {
                let rows = bytes.chunks_exact(4 * self.words(width));
                rows.flat_map(|row| -> Vec<f32> { pad(&CODES.unpack(&row[..CODES.row_bytes(width)], width)) }).collect()
            }
            Storage::Cache(rows) => {
                cache::unpack(rows, bytes).chunks_exact(width.max(1)).flat_map(|row| -> Vec<f32> { pad(row) }).collect()
            }
        }
    }

    /// How far a number of a row may be from the exact one because it is stored.
    pub(super) fn rounding(self, row: &[f32], column: usize) -> f32 {
        let Storage::Cache(rows) = self else { return 0.0 };
        let columns = rows.columns as usize;
        let head = &row[column / columns * columns..][..columns];
        let most = head.iter().fold(0f32, |most, v| most.max(v.abs()));
        cache::rounding(rows.format, most.into(), row[column].into()) as f32
    }

    /// How far a number may be off that is `largest` at the most, as a part `otherwise` of it where it is a float. Of two codes
    /// that are equally near either is right.
    pub(super) fn tolerance(self, largest: f32, otherwise: f32) -> f32 {
        match self {
            Storage::Codes => largest * STEP,
            Storage::Floats | Storage::Cache(_) => largest * otherwise,
        }
    }
}

/// Elements from one padded row of `width` columns to the next.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(PAD as usize)
}

pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use warpweft_plan::CacheFormat;

    use super::*;

    #[test]
    fn rows_come_back_with_their_padding() {
        let rows: Vec<f32> = [1.0, -127.0, 64.0].into_iter().chain([0.0; 5]).collect();
        let caches = CacheFormat::ALL.map(|format| Storage::Cache(CacheRows { format, heads: 1, columns: 3 }));
        for storage in [Storage::Floats, Storage::Codes].into_iter().chain(caches) {
            let mut stored = rows.clone();
            let bytes = storage.store(&mut stored, 3);
            assert_eq!(storage.numbers(&bytes, 3), stored, "{storage:?}");
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 127.0 / 16.0;
            assert!(stored.len() == rows.len() && stored.iter().zip(&rows).all(near), "{storage:?}: {stored:?}");
        }
        assert_eq!(Storage::Codes.words(3), 8);
    }
}
