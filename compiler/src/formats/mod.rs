//! How weights are stored.

use warpweft_plan::DType;

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

impl Format {
    /// The format that stores a tensor of `dtype` as it is.
    pub fn of(dtype: DType) -> Option<Format> {
        match dtype {
            DType::F32 => Some(Format::F32),
            DType::F16 => Some(Format::F16),
            DType::BF16 => Some(Format::Bf16),
            DType::U32 => None,
        }
    }
}
