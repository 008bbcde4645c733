//! Sixteen quantiles of the normal distribution: `NormalFloat` 4 (Dettmers et al. 2023, arXiv 2305.14314, appendix E).

use super::quantize::magnitude;

const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The code of zero.
pub(super) const ZERO: u8 = 7;

/// The greatest value becomes 1 or -1.
pub(super) fn scale(values: &[f32]) -> f32 {
    super::quantize::scale_of(magnitude(values), 1.0)
}

/// The nearest code of a value over its scale.
pub(super) fn code(x: f32) -> u8 {
    let above = |pair: &[f32; 2]| u8::from(x > 0.5 * (pair[0] + pair[1]));
    LEVELS.array_windows().map(above).sum()
}

/// The quantile of a code.
pub(super) fn level(code: u8) -> Option<f32> {
    LEVELS.get(usize::from(code)).copied()
}
