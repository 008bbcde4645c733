//! 32-bit floats as they are.

/// Appends the value; false if it is not finite.
pub(super) fn put(value: f32, bytes: &mut Vec<u8>) -> bool {
    bytes.extend(value.to_le_bytes());
    value.is_finite()
}

/// The stored value.
pub(super) fn get(bytes: [u8; 4]) -> f32 {
    f32::from_le_bytes(bytes)
}
