//! Rows of codes: activations as signed bytes with a scale for each row.

use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::kernels::spec::View;
use warpweft_plan::PAD;

/// How activations are stored.
const FORMAT: Format = Format::Int8(Group::Row);

/// From one code to the next, of a row whose greatest magnitude is 1.
pub(super) const STEP: f32 = 1.01 / 127.0;

/// 32-bit words from one row of `width` columns to the next.
pub(super) fn words(width: usize) -> usize {
    View::of_codes(width as u32).stride as usize
}

/// Padded rows of numbers as codes.
pub(super) fn encoded(values: &[f32], width: usize) -> Vec<u8> {
    let rows = values.chunks_exact(width.next_multiple_of(PAD as usize));
    rows.flat_map(|row| {
        // Finite numbers fit, and a row has `width` of them.
        let mut bytes = FORMAT.pack(&row[..width], width).unwrap_or_default();
        bytes.resize(4 * words(width), 0);
        bytes
    })
    .collect()
}

/// What rows of codes stand for, as padded rows.
pub(super) fn decoded(bytes: &[u8], width: usize) -> Vec<f32> {
    let rows = bytes.chunks_exact(4 * words(width));
    rows.flat_map(|row| {
        let mut values = FORMAT.unpack(&row[..FORMAT.row_bytes(width)], width);
        values.resize(width.next_multiple_of(PAD as usize), 0.0);
        values
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_with_their_padding() {
        let rows: Vec<f32> = [1.0, -127.0, 64.0].into_iter().chain([0.0; 5]).collect();
        assert_eq!(decoded(&encoded(&rows, 3), 3), rows);
        assert_eq!(words(3), 8);
    }
}
