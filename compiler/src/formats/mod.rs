//! How weights are stored: each format is a Rust file that packs and unpacks, and a WGSL file that unpacks.
//!
//! A row of a weight is padded with zeros to a multiple of eight values ([`Format::padded`]). A shader loads eight
//! values at once (`PackedF16` and so on) and takes them apart with two pure functions, `low_…` and `high_…`, or four at
//! once (`HalfF16`) and unpacks them with `half_…`.

mod bf16;
mod f16;
mod f32;

use warpweft_plan::{DType, PAD};

/// A storage format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// 32-bit floats, `array<vec4<f32>>`.
    F32,
    /// 16-bit floats, eight to a `vec4<u32>`, low half first.
    F16,
    /// Upper halves of 32-bit floats, eight to a `vec4<u32>`, low half first.
    Bf16,
}

/// Why values cannot be stored in a format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormatError {
    /// The value is not finite, or its magnitude is above what the format can hold.
    #[error("the value {value} at row {row}, column {column} does not fit in {format}")]
    OutOfRange {
        /// The value.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The format's name.
        format: &'static str,
    },
    /// The number of values is no multiple of the width.
    #[error("{values} values are no rows of {width}")]
    Shape {
        /// Values given.
        values: usize,
        /// Columns of a row.
        width: usize,
    },
}

impl FormatError {
    /// The same, for rows that are a piece of a matrix from row `first` on.
    pub fn below(self, first: usize) -> FormatError {
        match self {
            FormatError::OutOfRange { value, row, column, format } => {
                FormatError::OutOfRange { value, row: row + first, column, format }
            }
            FormatError::Shape { .. } => self,
        }
    }
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

    /// The format that stores a tensor of `dtype` as it is.
    pub fn of(dtype: DType) -> Option<Format> {
        match dtype {
            DType::F32 => Some(Format::F32),
            DType::F16 => Some(Format::F16),
            DType::BF16 => Some(Format::Bf16),
            DType::U32 => None,
        }
    }

    /// The element type in a plan.
    pub fn dtype(self) -> DType {
        match self {
            Format::F32 => DType::F32,
            Format::F16 => DType::F16,
            Format::Bf16 => DType::BF16,
        }
    }

    /// The name in options, kernels and reports; also the suffix of the shader's functions.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> u32 {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
        }
    }

    /// Operations that unpack four values in the shader, each as long as a multiply-add.
    pub fn decode(self) -> f64 {
        match self {
            Format::F32 => 0.0,
            Format::F16 => 4.0,
            Format::Bf16 => 4.0,
        }
    }

    /// The shader's half: the type of eight packed values and the functions that unpack them.
    pub fn wgsl(self) -> &'static str {
        match self {
            Format::F32 => include_str!("f32.wgsl"),
            Format::F16 => include_str!("f16.wgsl"),
            Format::Bf16 => include_str!("bf16.wgsl"),
        }
    }

    /// The shader's type of eight packed values.
    pub fn packed(self) -> &'static str {
        match self {
            Format::F32 => "PackedF32",
            Format::F16 => "PackedF16",
            Format::Bf16 => "PackedBf16",
        }
    }

    /// The shader's type of four packed values.
    pub fn half(self) -> &'static str {
        match self {
            Format::F32 => "HalfF32",
            Format::F16 => "HalfF16",
            Format::Bf16 => "HalfBf16",
        }
    }

    /// Columns of a stored row of `width` values.
    pub fn padded(self, width: usize) -> usize {
        width.next_multiple_of(PAD as usize)
    }

    /// Stores rows of `width` values, each padded with zeros.
    ///
    /// # Errors
    /// A value that is not finite or too large, and a length that is no multiple of `width`.
    pub fn pack(self, values: &[f32], width: usize) -> Result<Vec<u8>, FormatError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(FormatError::Shape { values: values.len(), width });
        }
        let padded = self.padded(width);
        let row_bytes = padded * self.bytes() as usize;
        let mut bytes = Vec::with_capacity(values.len() / width * row_bytes);
        for (row, values) in values.chunks_exact(width).enumerate() {
            for (column, &value) in values.iter().enumerate() {
                let stored = match self {
                    Format::F32 => f32::put(value, &mut bytes),
                    Format::F16 => f16::put(value, &mut bytes),
                    Format::Bf16 => bf16::put(value, &mut bytes),
                };
                if !stored {
                    return Err(FormatError::OutOfRange { value, row, column, format: self.name() });
                }
            }
            bytes.resize((row + 1) * row_bytes, 0);
        }
        Ok(bytes)
    }

    /// The values of stored rows, without their padding. Bytes after the last whole row are ignored.
    pub fn unpack(self, bytes: &[u8], width: usize) -> Vec<f32> {
        let row_bytes = self.padded(width) * self.bytes() as usize;
        let mut values = Vec::with_capacity(bytes.len() / row_bytes.max(1) * width);
        for row in bytes.chunks_exact(row_bytes.max(1)) {
            let row = &row[..width * self.bytes() as usize];
            match self {
                Format::F32 => values.extend(row.as_chunks().0.iter().map(|b| f32::get(*b))),
                Format::F16 => values.extend(row.as_chunks().0.iter().map(|b| f16::get(*b))),
                Format::Bf16 => values.extend(row.as_chunks().0.iter().map(|b| bf16::get(*b))),
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pack_and_unpack_within_the_formats_precision() {
        let values: Vec<f32> = (0..3 * 15).map(|i| (i as f32 - 20.0) * 1.37e-1).collect();
        for format in Format::ALL {
            let bytes = format.pack(&values, 15).unwrap();
            assert_eq!(bytes.len(), 3 * 16 * format.bytes() as usize);
            let bits = match format {
                Format::F32 => 24,
                Format::F16 => 11,
                Format::Bf16 => 8,
            };
            for (a, b) in values.iter().zip(format.unpack(&bytes, 15)) {
                assert!((a - b).abs() <= a.abs() * 0.5f32.powi(bits), "{} {a} {b}", format.name());
            }
            let again = format.pack(&format.unpack(&bytes, 15), 15).unwrap();
            assert_eq!(again, bytes, "stored values survive");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for format in Format::ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let error = format.pack(&[1.0, bad], 1).unwrap_err();
                assert!(matches!(error, FormatError::OutOfRange { row: 1, column: 0, .. }), "{error}");
            }
            assert!(matches!(format.pack(&[1.0], 2), Err(FormatError::Shape { .. })));
            assert!(matches!(format.pack(&[], 0), Err(FormatError::Shape { .. })));
        }
        assert!(Format::F16.pack(&[65504.0, 65519.9], 1).is_ok());
        assert!(Format::F16.pack(&[65520.0], 1).is_err());
        assert!(Format::Bf16.pack(&[f32::MAX], 1).is_err(), "rounds to infinity");
        assert!(Format::Bf16.pack(&[3.38e38], 1).is_ok());
        assert!(Format::F32.pack(&[f32::MAX], 1).is_ok());
    }
}
