//! Four bits: 0 to 15, less the level of zero.
//!
//! With zero points, the word of a group is the upper 24 bits of an f32 scale (a precision of 16 bits over the whole range
//! of f32, so that scales that were f16 or bf16 stay as they are) and the zero point in eighths.

use super::quantize::{GroupFit, magnitude, nearest, scale_of};

/// The level of zero where groups have no zero points.
pub(super) const MIDDLE: f32 = 8.0;

const CODES: f32 = 15.0;
const STEPS_OF_ZERO: f32 = 8.0;
/// The bits of a word that hold the scale.
const SCALE: u32 = 0xffff_ff00;

/// The nearest scale that a word can hold; never infinite.
pub(super) fn representable(scale: f32) -> f32 {
    let bits = scale.to_bits();
    // Half of the last place kept, and to even at a tie.
    let rounded = f32::from_bits((bits + 0x7f + (bits >> 8 & 1)) & SCALE);
    if rounded.is_finite() { rounded } else { f32::from_bits(bits & SCALE) }
}

/// A word can hold the zero point.
pub(super) fn holds_zero(zero: f32) -> bool {
    let steps = zero * STEPS_OF_ZERO;
    (0.0..=255.0).contains(&steps) && steps.fract() == 0.0
}

/// The stored form of parameters that it can hold.
pub(super) fn word(fit: GroupFit) -> u32 {
    fit.scale.to_bits() & SCALE | (fit.zero * STEPS_OF_ZERO) as u32
}

/// The parameters that a word holds.
pub(super) fn parameters(word: u32) -> GroupFit {
    GroupFit { scale: f32::from_bits(word & SCALE), zero: (word & !SCALE) as f32 / STEPS_OF_ZERO }
}

/// The least and the greatest value, and zero, become codes: the zero point is a whole number.
pub(super) fn fit(values: &[f32]) -> GroupFit {
    let (low, high) = values.iter().fold((0.0f32, 0.0f32), |(low, high), &v| (low.min(v), high.max(v)));
    if low == high {
        return GroupFit { scale: 1.0, zero: 0.0 };
    }
    // Each over 15, as their difference may be above f32.
    let mut scale = representable((high / CODES - low / CODES).max(f32::MIN_POSITIVE));
    loop {
        let zero = nearest((-low / scale).min(CODES));
        let ends = [zero * scale, (CODES - zero) * scale];
        if ends.into_iter().all(f32::is_finite) {
            return GroupFit { scale, zero };
        }
        scale = f32::from_bits(scale.to_bits() - !SCALE - 1);
    }
}

/// Without zero points the greatest magnitude becomes 7.
pub(super) fn symmetric_scale(values: &[f32]) -> f32 {
    // The lowest level is -8, which must stay finite.
    let scale = scale_of(magnitude(values), 7.0);
    if (MIDDLE * scale).is_finite() { scale } else { scale_of(magnitude(values), MIDDLE) }
}

/// The nearest code of a value over its scale.
pub(super) fn code(x: f32, zero: f32) -> u8 {
    // Clamped first: far outside, rounding by addition would not.
    nearest(x.clamp(-32.0, 32.0) + zero).clamp(0.0, CODES) as u8
}

/// 0 to 15.
pub(super) fn level(code: u8) -> Option<f32> {
    (code < 16).then(|| f32::from(code))
}
