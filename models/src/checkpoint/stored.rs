//! Element types of tensors in a file.

use warpweft_plan::DType;

/// The type of a stored tensor's elements. Only some can be weights of a model; the others are read past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoredType {
    name: &'static str,
    bits: u64,
    weight: Option<DType>,
}

const fn stored(name: &'static str, bits: u64, weight: Option<DType>) -> StoredType {
    StoredType { name, bits, weight }
}

/// All types of the safetensors format.
const ALL: [StoredType; 21] = [
    StoredType::F32,
    StoredType::F16,
    StoredType::BF16,
    stored("F64", 64, None),
    StoredType::I64,
    StoredType::I32,
    stored("I16", 16, None),
    StoredType::I8,
    stored("U64", 64, None),
    stored("U32", 32, None),
    stored("U16", 16, None),
    StoredType::U8,
    stored("BOOL", 8, None),
    stored("C64", 64, None),
    StoredType::F8_E4M3,
    stored("F8_E5M2", 8, None),
    StoredType::F8_E8M0,
    stored("F8_E4M3FNUZ", 8, None),
    stored("F6_E2M3", 6, None),
    stored("F6_E3M2", 6, None),
    stored("F4", 4, None),
];

impl StoredType {
    /// 32-bit floats.
    pub const F32: StoredType = stored("F32", 32, Some(DType::F32));
    /// IEEE half precision.
    pub const F16: StoredType = stored("F16", 16, Some(DType::F16));
    /// Upper halves of 32-bit floats.
    pub const BF16: StoredType = stored("BF16", 16, Some(DType::BF16));
    /// Signed 64-bit integers.
    pub const I64: StoredType = stored("I64", 64, None);
    /// Signed 32-bit integers; also words that are full of small codes.
    pub const I32: StoredType = stored("I32", 32, None);
    /// Signed bytes.
    pub const I8: StoredType = stored("I8", 8, None);
    /// Bytes.
    pub const U8: StoredType = stored("U8", 8, None);
    /// Floats of 4 bits of exponent and 3 of mantissa: no infinities, magnitudes up to 448.
    pub const F8_E4M3: StoredType = stored("F8_E4M3", 8, None);
    /// Powers of two from 2^-127 to 2^127; 255 is NaN.
    pub const F8_E8M0: StoredType = stored("F8_E8M0", 8, None);

    /// The type that a safetensors header calls `name`.
    pub fn parse(name: &str) -> Option<StoredType> {
        ALL.into_iter().find(|t| t.name == name)
    }

    /// Its name in a safetensors header.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The type as a weight of a model; `None` if it cannot be one.
    pub fn weight(self) -> Option<DType> {
        self.weight
    }

    /// Bytes of a tensor of `shape`; `None` on overflow, or where the last byte would be filled in part.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let bits = shape.iter().try_fold(self.bits, |bits, &n| bits.checked_mul(n))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}
