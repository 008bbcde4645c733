//! Eight-bit floats with four exponent bits, three mantissa bits, no infinity and one NaN (`e4m3fn`): Micikevicius et al.
//! 2022, arXiv 2209.05433.

use super::quantize::{magnitude, nearest, scale_of};

/// The greatest number.
const GREATEST: f32 = 448.0;
/// Its code.
const GREATEST_CODE: u32 = 0x7e;
/// The least normal number, 2⁻⁶.
const LEAST_NORMAL: f32 = 0.015625;
/// Subnormals are multiples of 2⁻⁹.
const SUBNORMALS: f32 = 512.0;
/// The difference of the exponents' biases, 127 - 7, where the exponent of an e4m3 begins.
const BIAS: u32 = 120 << 3;

/// The greatest value becomes 448.
pub(super) fn scale(values: &[f32]) -> f32 {
    scale_of(magnitude(values), GREATEST)
}

/// The nearest code of a value over its scale, of two the even one; beyond the greatest, that.
pub(super) fn code(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let a = x.abs().min(GREATEST);
    let magnitude = if a < LEAST_NORMAL {
        nearest(a * SUBNORMALS) as u32
    } else {
        let bits = a.to_bits();
        (((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20) - BIAS).min(GREATEST_CODE)
    };
    sign | magnitude as u8
}

/// The number of a code; NaN for 0x7f and 0xff.
pub(super) fn level(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    let a = match magnitude {
        0x7f => f32::NAN,
        0..8 => magnitude as f32 / SUBNORMALS,
        _ => f32::from_bits((magnitude + BIAS) << 20),
    };
    if code & 0x80 == 0 { a } else { -a }
}
