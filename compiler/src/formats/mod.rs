//! How weights are stored: each format is a Rust file that packs and unpacks, and a WGSL file that unpacks.
//!
//! A row of a weight of floats is padded with zeros to a multiple of eight values ([`Format::padded`]). Where they have 16 bits a
//! shader takes halves of four words with pure functions, `low_…`, `high_…` and `halves_…`.
//!
//! A row of a quantized weight is first its codes and then the parameters of its groups (see `layout.rs`). A shader turns four
//! codes into levels with `levels_…`; a value is a level times its group's scale, or a level less its group's zero point, times
//! the scale.

mod bf16;
pub mod cache;
mod codes;
mod error;
mod f16;
mod f32;
mod fp8;
mod int4;
mod int8;
mod layout;
mod mxfp4;
mod name;
mod nf4;
mod quantize;

use warpweft_plan::{DType, PAD};

pub use codes::{Codes, StoredCodes};
pub use error::FormatError;
pub use layout::PANEL;
pub(crate) use layout::{PANEL_QUADS, WORD};
pub use name::UnknownFormat;
pub use quantize::GroupFit;

/// A storage format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// 32-bit floats, `array<vec4<f32>>`.
    F32,
    /// 16-bit floats, eight to a `vec4<u32>`, low half first.
    F16,
    /// Upper halves of 32-bit floats, eight to a `vec4<u32>`, low half first.
    Bf16,
    /// Signed bytes times an f32 scale.
    Int8(Group),
    /// Four bits, less a zero point, times a scale.
    Int4 {
        /// What shares a scale and a zero point.
        group: Group,
        /// Each group has a zero point of its own; without, it is 8 for all and the scale has full precision.
        zeros: bool,
    },
    /// Eight-bit floats of four exponent and three mantissa bits (e4m3fn) times an f32 scale.
    Fp8(Group),
    /// Four-bit floats of two exponent bits and one mantissa bit (e2m1), 32 of which share a power of two (e8m0): MXFP4
    /// of the OCP Microscaling Formats specification 1.0.
    Mxfp4,
    /// Four bits that name one of sixteen quantiles of the normal distribution, times an f32 scale: `NormalFloat`
    /// (Dettmers et al. 2023, arXiv 2305.14314).
    Nf4(Group),
}

/// The columns of a row that share their parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// The whole row.
    Row,
    /// So many, a multiple of eight; the last group of a row may be shorter.
    Of(u32),
}

impl Format {
    /// Floats, each stored on its own.
    pub const FLOATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

    /// Quantized formats, with groups of every kind.
    pub const QUANTIZED: [Format; 12] = [
        Format::Int8(Group::Row),
        Format::Int8(Group::Of(32)),
        Format::Int4 { group: Group::Of(32), zeros: true },
        Format::Int4 { group: Group::Of(64), zeros: true },
        Format::Int4 { group: Group::Of(128), zeros: true },
        Format::Int4 { group: Group::Of(32), zeros: false },
        Format::Int4 { group: Group::Row, zeros: false },
        Format::Fp8(Group::Row),
        Format::Fp8(Group::Of(128)),
        Format::Mxfp4,
        Format::Nf4(Group::Of(64)),
        Format::Nf4(Group::Row),
    ];

    /// The format that stores a tensor of `dtype` as it is.
    pub fn of(dtype: DType) -> Option<Format> {
        match dtype {
            DType::F32 => Some(Format::F32),
            DType::F16 => Some(Format::F16),
            DType::BF16 => Some(Format::Bf16),
            DType::U32 => None,
        }
    }

    /// The element type in a plan: of a quantized format, of words that a plan does not look into.
    pub fn dtype(self) -> DType {
        match self {
            Format::F32 => DType::F32,
            Format::F16 => DType::F16,
            Format::Bf16 => DType::BF16,
            Format::Int8(_) | Format::Int4 { .. } | Format::Fp8(_) | Format::Mxfp4 | Format::Nf4(_) => DType::U32,
        }
    }

    /// It stores codes and scales, not each value on its own.
    pub fn is_quantized(self) -> bool {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => false,
            Format::Int8(_) | Format::Int4 { .. } | Format::Fp8(_) | Format::Mxfp4 | Format::Nf4(_) => true,
        }
    }

    /// Bits of one value, or of its code.
    pub fn bits(self) -> u32 {
        match self {
            Format::F32 => 32,
            Format::F16 | Format::Bf16 => 16,
            Format::Int8(_) | Format::Fp8(_) => 8,
            Format::Int4 { .. } | Format::Mxfp4 | Format::Nf4(_) => 4,
        }
    }

    /// Bytes of one value, of codes rounded up.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Operations that unpack four values in the shader, each as long as a multiply-add.
    pub fn decode(self) -> f64 {
        match self {
            Format::F32 => 0.0,
            Format::F16 | Format::Bf16 => 4.0,
            // Cut out and convert; where a group has a scale of its own, that is one more.
            Format::Int8(_) | Format::Int4 { .. } => 8.0,
            Format::Fp8(_) => 28.0,
            Format::Mxfp4 => 24.0,
            Format::Nf4(_) => 72.0,
        }
    }

    /// The shader's half: the functions that unpack.
    pub fn wgsl(self) -> &'static str {
        match self {
            Format::F32 => include_str!("f32.wgsl"),
            Format::F16 => include_str!("f16.wgsl"),
            Format::Bf16 => include_str!("bf16.wgsl"),
            Format::Int8(_) => include_str!("int8.wgsl"),
            Format::Int4 { .. } => include_str!("int4.wgsl"),
            Format::Fp8(_) => include_str!("fp8.wgsl"),
            Format::Mxfp4 => include_str!("mxfp4.wgsl"),
            Format::Nf4(_) => include_str!("nf4.wgsl"),
        }
    }

    /// The suffix of the shader's functions.
    pub fn suffix(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Int8(_) => "int8",
            Format::Int4 { .. } => "int4",
            Format::Fp8(_) => "fp8",
            Format::Mxfp4 => "mxfp4",
            Format::Nf4(_) => "nf4",
        }
    }

    /// Columns of a stored row of `width` floats.
    pub fn padded(self, width: usize) -> usize {
        width.next_multiple_of(PAD as usize)
    }

    /// Stores rows of `width` values: floats padded with zeros, others rounded to the nearest code with the scales of
    /// [`Format::fit`].
    ///
    /// # Errors
    /// A value that is not finite or too large, and a length that is no multiple of `width`.
    pub fn pack(self, values: &[f32], width: usize) -> Result<Vec<u8>, FormatError> {
        self.check_groups()?;
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(FormatError::Shape { values: values.len(), width });
        }
        if self.is_quantized() { self.quantize(values, width) } else { self.pack_floats(values, width) }
    }

    /// The values of stored rows, without their padding. Bytes after the last whole row are ignored.
    pub fn unpack(self, bytes: &[u8], width: usize) -> Vec<f32> {
        if self.is_quantized() { self.dequantize(bytes, width) } else { self.unpack_floats(bytes, width) }
    }

    fn pack_floats(self, values: &[f32], width: usize) -> Result<Vec<u8>, FormatError> {
        let row_bytes = self.row_bytes(width);
        let mut bytes = Vec::with_capacity(values.len() / width * row_bytes);
        for (row, values) in values.chunks_exact(width).enumerate() {
            for (column, &value) in values.iter().enumerate() {
                let stored = match self {
                    Format::F16 => f16::put(value, &mut bytes),
                    Format::Bf16 => bf16::put(value, &mut bytes),
                    Format::F32
                    | Format::Int8(_)
                    | Format::Int4 { .. }
                    | Format::Fp8(_)
                    | Format::Mxfp4
                    | Format::Nf4(_) => f32::put(value, &mut bytes),
                };
                if !stored {
                    return Err(FormatError::OutOfRange { value, row, column, format: self });
                }
            }
            bytes.resize((row + 1) * row_bytes, 0);
        }
        Ok(bytes)
    }

    fn unpack_floats(self, bytes: &[u8], width: usize) -> Vec<f32> {
        let row_bytes = self.row_bytes(width).max(1);
        let mut values = Vec::with_capacity(bytes.len() / row_bytes * width);
        for row in bytes.chunks_exact(row_bytes) {
            let row = &row[..width * self.bytes() as usize];
            match self {
                Format::F16 => values.extend(row.as_chunks().0.iter().map(|b| f16::get(*b))),
                Format::Bf16 => values.extend(row.as_chunks().0.iter().map(|b| bf16::get(*b))),
                Format::F32
                | Format::Int8(_)
                | Format::Int4 { .. }
                | Format::Fp8(_)
                | Format::Mxfp4
                | Format::Nf4(_) => values.extend(row.as_chunks().0.iter().map(|b| f32::get(*b))),
            }
        }
        values
    }
}

#[cfg(test)]
mod tests;
