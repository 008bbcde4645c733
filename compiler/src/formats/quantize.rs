//! Scales, zero points, rounding and decoding of the quantized formats.

use super::{Format, FormatError, fp8, int4, int8, mxfp4, nf4};

/// What a group's codes are decoded with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupFit {
    /// What a level is multiplied with.
    pub scale: f32,
    /// The level of the value zero: 0 but for int4.
    pub zero: f32,
}

pub(super) type Parameters = GroupFit;

impl GroupFit {
    /// The value of a level.
    pub(super) fn value(self, level: f32) -> f32 {
        (level - self.zero) * self.scale
    }
}

/// The nearest whole number, of two the even one; magnitudes up to 2²². Adding and subtracting 1.5 · 2²³ rounds as the
/// processor does, in two instructions; `round_ties_even` is a call where SSE 4.1 is not taken for granted.
pub(super) fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// The greatest magnitude.
pub(super) fn magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| f32::max(most, v.abs()))
}

/// `greatest / level` as a scale: normal, and such that `level · scale` is finite. Of zeros it is 1.
pub(super) fn scale_of(greatest: f32, level: f32) -> f32 {
    if greatest == 0.0 {
        return 1.0;
    }
    let mut scale = (greatest / level).max(f32::MIN_POSITIVE);
    while !(level * scale).is_finite() {
        scale = scale.next_down();
    }
    scale
}

/// Factors of the plain scale that a weighted fit tries.
const SHRINK: [f32; 12] = [1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.75, 0.7, 0.65];

impl Format {
    /// Parameters for the values of one group. Without weights they cover the greatest value (round to nearest does the
    /// rest); with a weight for each value they are those, of scales that let the greatest be clipped, whose rounding has
    /// the least weighted sum of squares. Of floats: 1 and 0. Values are finite.
    pub fn fit(self, values: &[f32], weights: Option<&[f32]>) -> GroupFit {
        let plain = self.plain_fit(values);
        let Some(weights) = weights else { return plain };
        let error = |fit: GroupFit| -> f64 {
            let of_value = |(&value, &weight): (&f32, &f32)| {
                let off = f64::from(value) - f64::from(self.round(value, fit).1);
                off * off * f64::from(weight)
            };
            values.iter().zip(weights).map(of_value).sum()
        };
        let (mut best, mut least) = (plain, error(plain));
        for candidate in SHRINK.iter().flat_map(|&shrink| self.variants(plain, shrink)) {
            let found = error(candidate);
            if found < least {
                (best, least) = (candidate, found);
            }
        }
        best
    }

    fn plain_fit(self, values: &[f32]) -> GroupFit {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => GroupFit { scale: 1.0, zero: 0.0 },
            Format::Int8(_) => GroupFit { scale: int8::scale(values), zero: 0.0 },
            Format::Int4 { zeros: true, .. } => int4::fit(values),
            Format::Int4 { zeros: false, .. } => GroupFit { scale: int4::symmetric_scale(values), zero: int4::MIDDLE },
            Format::Fp8(_) => GroupFit { scale: fp8::scale(values), zero: 0.0 },
            Format::Mxfp4 => GroupFit { scale: mxfp4::scale(values), zero: 0.0 },
            Format::Nf4(_) => GroupFit { scale: nf4::scale(values), zero: 0.0 },
        }
    }

    /// Parameters near the plain ones that the format can hold.
    fn variants(self, plain: GroupFit, shrink: f32) -> Vec<GroupFit> {
        let scale = plain.scale * shrink;
        match self {
            Format::Mxfp4 => {
                let double = GroupFit { scale: plain.scale * 2.0, ..plain };
                let fits = shrink == 1.0 && self.holds_scale(double.scale) && (6.0 * double.scale).is_finite();
                if fits { vec![double] } else { Vec::new() }
            }
            Format::Int4 { zeros: true, .. } => {
                let scale = int4::representable(scale);
                let steps = [-1.0, 0.0, 1.0].map(|step| GroupFit { scale, zero: plain.zero + step });
                // Beyond 15 no code would be zero.
                let held = |fit: &GroupFit| (0.0..=15.0).contains(&fit.zero) && self.is_finite(*fit);
                steps.into_iter().filter(held).collect()
            }
            Format::F32 | Format::F16 | Format::Bf16 => Vec::new(),
            Format::Int8(_) | Format::Int4 { zeros: false, .. } | Format::Fp8(_) | Format::Nf4(_) => {
                vec![GroupFit { scale, ..plain }].into_iter().filter(|fit| self.is_finite(*fit)).collect()
            }
        }
    }

    /// Every value of a group with these parameters is finite.
    fn is_finite(self, fit: GroupFit) -> bool {
        self.greatest_levels().into_iter().all(|level| fit.value(level).is_finite())
    }

    /// The levels at the ends.
    fn greatest_levels(self) -> [f32; 2] {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => [0.0; 2],
            Format::Int8(_) => [-128.0, 127.0],
            Format::Int4 { .. } => [0.0, 15.0],
            Format::Fp8(_) => [-448.0, 448.0],
            Format::Mxfp4 => [-6.0, 6.0],
            Format::Nf4(_) => [-1.0, 1.0],
        }
    }

    /// The nearest code for a value, and the value of that code; of floats, 0 and the value.
    pub fn round(self, value: f32, fit: GroupFit) -> (u8, f32) {
        let x = value / fit.scale;
        let code = match self {
            Format::F32 | Format::F16 | Format::Bf16 => return (0, value),
            Format::Int8(_) => int8::code(x),
            Format::Int4 { .. } => int4::code(x, fit.zero),
            Format::Fp8(_) => fp8::code(x),
            Format::Mxfp4 => mxfp4::code(x),
            Format::Nf4(_) => nf4::code(x),
        };
        (code, self.level(code).map_or(f32::NAN, |level| fit.value(level)))
    }

    /// The code of zero in a group whose zero point is a whole code.
    pub(super) fn padding(self, fit: Parameters) -> u8 {
        match self {
            Format::Int4 { .. } => int4::code(0.0, fit.zero),
            Format::Nf4(_) => nf4::ZERO,
            Format::F32 | Format::F16 | Format::Bf16 | Format::Int8(_) | Format::Fp8(_) | Format::Mxfp4 => 0,
        }
    }

    /// The level of a code: NaN for NaN, `None` where there is no such code (or no codes).
    pub(super) fn level(self, code: u8) -> Option<f32> {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => None,
            Format::Int8(_) => Some(int8::level(code)),
            Format::Int4 { .. } => int4::level(code),
            Format::Fp8(_) => Some(fp8::level(code)),
            Format::Mxfp4 => mxfp4::level(code),
            Format::Nf4(_) => nf4::level(code),
        }
    }

    /// The zero point of formats that have none for each group.
    pub(super) fn common_zero(self) -> f32 {
        match self {
            Format::Int4 { .. } => int4::MIDDLE,
            Format::F32 | Format::F16 | Format::Bf16 => 0.0,
            Format::Int8(_) | Format::Fp8(_) | Format::Mxfp4 | Format::Nf4(_) => 0.0,
        }
    }

    /// A scale can be stored as it is.
    pub fn holds_scale(self, scale: f32) -> bool {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => false,
            Format::Int4 { zeros: true, .. } => scale.is_finite() && int4::representable(scale) == scale,
            Format::Mxfp4 => mxfp4::exponent(scale).is_some(),
            Format::Int8(_) | Format::Int4 { zeros: false, .. } | Format::Fp8(_) | Format::Nf4(_) => scale.is_finite(),
        }
    }

    /// A zero point can be stored as it is.
    pub fn holds_zero(self, zero: f32) -> bool {
        match self {
            Format::Int4 { zeros: true, .. } => int4::holds_zero(zero),
            Format::Int4 { zeros: false, .. } => zero == int4::MIDDLE,
            Format::F32 | Format::F16 | Format::Bf16 => zero == 0.0,
            Format::Int8(_) | Format::Fp8(_) | Format::Mxfp4 | Format::Nf4(_) => zero == 0.0,
        }
    }

    /// Writes the parameters of a group, which the format can hold, into those of its row.
    pub(super) fn put_parameters(self, fit: Parameters, group: usize, stored: &mut [u8]) {
        let word = match self {
            Format::F32 | Format::F16 | Format::Bf16 => return,
            Format::Mxfp4 => {
                stored[group] = mxfp4::exponent(fit.scale).unwrap_or(mxfp4::NAN);
                return;
            }
            Format::Int4 { zeros: true, .. } => int4::word(fit),
            Format::Int8(_) | Format::Int4 { zeros: false, .. } | Format::Fp8(_) | Format::Nf4(_) => {
                fit.scale.to_bits()
            }
        };
        stored[4 * group..4 * group + 4].copy_from_slice(&word.to_le_bytes());
    }

    /// The parameters of a group from those of its row.
    pub(super) fn parameters(self, group: usize, stored: &[u8]) -> Parameters {
        let word = || stored[4 * group..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => GroupFit { scale: 1.0, zero: 0.0 },
            Format::Mxfp4 => GroupFit { scale: mxfp4::power(stored[group]), zero: 0.0 },
            Format::Int4 { zeros: true, .. } => int4::parameters(word()),
            Format::Int8(_) | Format::Int4 { zeros: false, .. } | Format::Fp8(_) | Format::Nf4(_) => {
                GroupFit { scale: f32::from_bits(word()), zero: self.common_zero() }
            }
        }
    }

    /// Rows of `width`, which divides the number of values, rounded to nearest.
    pub(super) fn quantize(self, values: &[f32], width: usize) -> Result<Vec<u8>, FormatError> {
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let (value, row, column) = (values[at], at / width, at % width);
            return Err(FormatError::OutOfRange { value, row, column, format: self });
        }
        let row_bytes = self.row_bytes(width);
        let mut bytes = vec![0; values.len() / width * row_bytes];
        let mut codes = vec![0; width];
        for (values, stored) in values.chunks_exact(width).zip(bytes.chunks_exact_mut(row_bytes)) {
            let groups = values.chunks(self.group_width(width)).zip(codes.chunks_mut(self.group_width(width)));
            for (group, (values, codes)) in groups.enumerate() {
                let fit = self.plain_fit(values);
                self.round_all(values, fit, codes);
                self.put_parameters(fit, group, &mut stored[self.code_bytes(width)..]);
            }
            let last = self.parameters(self.groups(width) - 1, &stored[self.code_bytes(width)..]);
            self.put_codes(&codes, self.padding(last), stored);
        }
        Ok(bytes)
    }

    /// The codes of a group. The format is asked for once, so that the loops are short.
    fn round_all(self, values: &[f32], fit: Parameters, codes: &mut [u8]) {
        let mut each = |code: fn(f32, f32) -> u8| {
            for (value, into) in values.iter().zip(codes.iter_mut()) {
                *into = code(value / fit.scale, fit.zero);
            }
        };
        match self {
            Format::F32 | Format::F16 | Format::Bf16 => {}
            Format::Int8(_) => {
                for (value, into) in values.iter().zip(codes) {
                    *into = int8::code(value / fit.scale);
                }
            }
            Format::Int4 { .. } => {
                for (value, into) in values.iter().zip(codes) {
                    *into = int4::code(value / fit.scale, fit.zero);
                }
            }
            Format::Fp8(_) => each(|x, _| fp8::code(x)),
            Format::Mxfp4 => each(|x, _| mxfp4::code(x)),
            Format::Nf4(_) => each(|x, _| nf4::code(x)),
        }
    }

    /// The values of stored rows.
    pub(super) fn dequantize(self, bytes: &[u8], width: usize) -> Vec<f32> {
        let row_bytes = self.row_bytes(width).max(1);
        let levels: [f32; 256] = std::array::from_fn(|code| self.level(code as u8).unwrap_or(f32::NAN));
        let mut values = Vec::with_capacity(bytes.len() / row_bytes * width);
        for row in bytes.chunks_exact(row_bytes) {
            for group in 0..self.groups(width) {
                let fit = self.parameters(group, &row[self.code_bytes(width)..]);
                let first = group * self.group_width(width);
                let columns = first..(first + self.group_width(width)).min(width);
                values.extend(columns.map(|column| fit.value(levels[usize::from(self.code(row, column))])));
            }
        }
        values
    }
}
