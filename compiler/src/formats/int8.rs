//! Signed bytes: -127 to 127 when rounded here, -128 too in a checkpoint.

use super::quantize::{magnitude, nearest, scale_of};

/// The greatest value becomes 127.
pub(super) fn scale(values: &[f32]) -> f32 {
    // Codes of checkpoints reach -128, so that this is what must stay finite.
    let scale = scale_of(magnitude(values), 127.0);
    if (128.0 * scale).is_finite() { scale } else { scale_of(magnitude(values), 128.0) }
}

/// The nearest code of a value over its scale.
pub(super) fn code(x: f32) -> u8 {
    nearest(x.clamp(-127.0, 127.0)) as i8 as u8
}

/// Two's complement.
pub(super) fn level(code: u8) -> f32 {
    f32::from(code as i8)
}
