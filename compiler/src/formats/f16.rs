//! IEEE 754 half precision: 11 bits of precision, magnitudes up to 65504.

use half::f16;

/// Appends the nearest stored value; false if there is no finite one.
pub(super) fn put(value: f32, bytes: &mut Vec<u8>) -> bool {
    let stored = f16::from_f32(value);
    bytes.extend(stored.to_le_bytes());
    stored.is_finite()
}

/// The stored value.
pub(super) fn get(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}
