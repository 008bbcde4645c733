//! How caches store rows: a head of a row is a row of a weight's format, and shaders also make one.
//!
//! `stored` takes four numbers and `restored` gives them, as the format has them; where heads have scales, both are of
//! numbers over the scale.

use warpweft_plan::{CacheFormat, CacheRows, PAGE_ROWS};

use super::{Format, Group};

/// The greatest 16-bit float.
const GREATEST_F16: f32 = 65504.0;

/// The format of a head of a row.
pub fn format(format: CacheFormat) -> Format {
    match format {
        CacheFormat::F32 => Format::F32,
        CacheFormat::F16 => Format::F16,
        CacheFormat::Int8 => Format::Int8(Group::Row),
        CacheFormat::Fp8 => Format::Fp8(Group::Row),
    }
}

/// The shader's half: `stored(v)` gives the words of four columns, `restored(p, h)` the h-th four of sixteen bytes; with
/// scales also `scale_of(most)` and `greatest(v)`.
pub fn wgsl(format: CacheFormat) -> Vec<&'static str> {
    let own = match format {
        CacheFormat::F32 => include_str!("f32.wgsl"),
        CacheFormat::F16 => include_str!("f16.wgsl"),
        CacheFormat::Int8 => include_str!("int8.wgsl"),
        CacheFormat::Fp8 => include_str!("fp8.wgsl"),
    };
    match format.is_scaled() {
        true => vec![self::format(format).wgsl(), own, include_str!("scaled.wgsl")],
        false => vec![own],
    }
}

/// Rows as a cache stores them, whole pages; `values` are rows without padding.
///
/// # Errors
/// A value that is not finite.
pub fn pack(rows: CacheRows, values: &[f32]) -> Result<Vec<u8>, super::FormatError> {
    let columns = rows.columns as usize;
    let heads = match rows.format {
        CacheFormat::F16 => {
            let within: Vec<f32> =
                values.iter().map(|v| if v.is_finite() { v.clamp(-GREATEST_F16, GREATEST_F16) } else { *v }).collect();
            Format::F16.pack(&within, columns)
        }
        CacheFormat::F32 | CacheFormat::Int8 | CacheFormat::Fp8 => format(rows.format).pack(values, columns),
    }?;
    Ok(in_pages(&heads, rows, |row, head, [of_page, heads]| [row * heads + head, head * of_page + row]))
}

/// The numbers that stored pages stand for, without padding.
pub fn unpack(rows: CacheRows, bytes: &[u8]) -> Vec<f32> {
    let heads = in_pages(bytes, rows, |row, head, [of_page, heads]| [head * of_page + row, row * heads + head]);
    format(rows.format).unpack(&heads, rows.columns as usize)
}

/// The heads of each page in another order: from the first to the second place that `places` gives for a row of a page, a head,
/// and how many there are of both.
fn in_pages(bytes: &[u8], rows: CacheRows, places: impl Fn(usize, usize, [usize; 2]) -> [usize; 2]) -> Vec<u8> {
    let (heads, size) = (rows.heads as usize, 4 * rows.head_words() as usize);
    let mut moved = vec![0; bytes.len()];
    let page = (PAGE_ROWS as usize * heads * size).max(1);
    for (from, to) in bytes.chunks(page).zip(moved.chunks_mut(page)) {
        let of_page = from.len() / (heads * size).max(1);
        for (row, head) in (0..of_page).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let [a, b] = places(row, head, [of_page, heads]);
            to[b * size..][..size].copy_from_slice(&from[a * size..][..size]);
        }
    }
    moved
}

/// How far a value may be from what a cache has of it: half the distance of two neighbours, where the greatest magnitude
/// of the value's head is `most`.
pub fn rounding(format: CacheFormat, most: f64, value: f64) -> f64 {
    // Scales are not below this, and are rounded to f32 themselves.
    let scale = |greatest: f64| (most / greatest).max(1e-30) * 1.000_001;
    match format {
        CacheFormat::F32 => 0.0,
        // Eleven bits; the least ones are 2⁻²⁴ apart.
        CacheFormat::F16 => {
            (value.abs() * 2f64.powi(-11)).max(2f64.powi(-25)) + (value.abs() - f64::from(GREATEST_F16)).max(0.0)
        }
        CacheFormat::Int8 => scale(127.0) / 2.0,
        // Four bits; the least ones are 2⁻⁹ of the scale apart.
        CacheFormat::Fp8 => (value.abs() * 2f64.powi(-4)).max(scale(448.0) * 2f64.powi(-10)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plans_know_what_rows_take() {
        for name in CacheFormat::ALL {
            for (heads, columns) in [(1, 1), (2, 15), (3, 16), (4, 20), (1, 128), (8, 576)] {
                let rows = CacheRows { format: name, heads, columns };
                let values = vec![1.0; (heads * columns) as usize];
                let bytes = pack(rows, &values).unwrap();
                assert_eq!(bytes.len() as u64, rows.row_bytes(), "{rows:?}");
                assert_eq!(rows.head_words() * 4 * heads, bytes.len() as u32, "{rows:?}");
                for (found, expected) in unpack(rows, &bytes).iter().zip(values) {
                    assert!((found - expected).abs() < 1e-6, "{rows:?}");
                }
            }
        }
    }

    #[test]
    fn a_page_has_its_rows_head_by_head() {
        let rows = CacheRows { format: CacheFormat::F32, heads: 3, columns: 5 };
        let (pages, of_page) = (2, PAGE_ROWS as usize);
        let value = |row: usize, head: usize, column: usize| (row * 100 + head * 10 + column) as f32;
        let mut values = Vec::new();
        for row in 0..pages * of_page {
            values.extend((0..15).map(|i| value(row, i / 5, i % 5)));
        }
        let bytes = pack(rows, &values).unwrap();
        assert_eq!(unpack(rows, &bytes), values);
        let floats: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for (row, head) in [(0, 0), (31, 0), (0, 1), (31, 2), (32, 0), (63, 2)] {
            let first = ((row / of_page * 3 + head) * of_page + row % of_page) * 8;
            assert_eq!(floats[first..first + 5], [0, 1, 2, 3, 4].map(|column| value(row, head, column)));
        }
    }

    #[test]
    fn what_f16_cannot_hold_is_the_greatest() {
        let rows = CacheRows { format: CacheFormat::F16, heads: 1, columns: 2 };
        let bytes = pack(rows, &[1e30, -70000.0]).unwrap();
        assert_eq!(unpack(rows, &bytes), [65504.0, -65504.0]);
        assert!(pack(rows, &[f32::NAN, 0.0]).is_err());
    }
}
