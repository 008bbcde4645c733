//! The upper half of a 32-bit float: 8 bits of precision, the same range.

use half::bf16;

/// Appends the nearest stored value; false if there is no finite one.
pub(super) fn put(value: f32, bytes: &mut Vec<u8>) -> bool {
    let stored = bf16::from_f32(value);
    bytes.extend(stored.to_le_bytes());
    stored.is_finite()
}

/// The stored value.
pub(super) fn get(bytes: [u8; 2]) -> f32 {
    bf16::from_le_bytes(bytes).to_f32()
}
