//! Four-bit floats (`e2m1`) and shared powers of two (`e8m0`): OCP Microscaling Formats (MX) Specification 1.0.

use super::quantize::magnitude;

/// The magnitudes of codes 0 to 7; with 8 added they are negative.
const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
/// The exponent of the greatest magnitude.
const GREATEST_EXPONENT: i32 = 2;
/// The e8m0 that is no number.
pub(super) const NAN: u8 = 0xff;

/// 2^(floor(log2(greatest)) - 2), as the specification says (5.3): what is above 6 is clipped to it.
pub(super) fn scale(values: &[f32]) -> f32 {
    let greatest = magnitude(values);
    if greatest == 0.0 {
        return 1.0;
    }
    let bits = greatest.to_bits();
    let exponent = if bits >> 23 == 0 { -127 } else { (bits >> 23) as i32 - 127 };
    // 2⁻¹²⁷ is subnormal as f32, which a device may take for zero.
    power((exponent - GREATEST_EXPONENT).max(-126).wrapping_add(127) as u8)
}

/// 2^(stored - 127); NaN for 0xff.
pub(super) fn power(stored: u8) -> f32 {
    match stored {
        NAN => f32::NAN,
        0 => f32::from_bits(0x0040_0000),
        _ => f32::from_bits(u32::from(stored) << 23),
    }
}

/// The stored exponent of a power of two.
pub(super) fn exponent(scale: f32) -> Option<u8> {
    let stored = (scale.to_bits() >> 23) as u8;
    (scale > 0.0 && stored != NAN && power(stored) == scale).then_some(stored)
}

/// The nearest code of a value over its scale, of two the even one; beyond 6, that.
pub(super) fn code(x: f32) -> u8 {
    let a = x.abs();
    let above = [a > 0.25, a >= 0.75, a > 1.25, a >= 1.75, a > 2.5, a >= 3.5, a > 5.0];
    let sign = (x.to_bits() >> 28) as u8 & 8;
    above.into_iter().map(u8::from).sum::<u8>() | sign
}

/// The number of a code.
pub(super) fn level(code: u8) -> Option<f32> {
    let a = *MAGNITUDES.get(usize::from(code & 7))?;
    (code < 16).then_some(if code < 8 { a } else { -a })
}
