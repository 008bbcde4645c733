//! Small integers with a scale and a zero point for each group: what GPTQ, AWQ and compressed-tensors have in common.

use warpweft_compiler::formats::{Format, Group};

use super::parts::scale;
use super::{Rows, Site};
use crate::checkpoint::{StoredTensor, StoredType};
use crate::config::Config;
use crate::error::CheckpointError;

/// How many bits a code has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bits {
    Four,
    Eight,
}

impl Bits {
    const ALL: [Bits; 2] = [Bits::Four, Bits::Eight];

    pub(super) fn count(self) -> usize {
        match self {
            Bits::Four => 4,
            Bits::Eight => 8,
        }
    }

    /// Codes of a word of 32 bits.
    pub(super) fn per_word(self) -> usize {
        32 / self.count()
    }

    /// The bits of a code.
    pub(super) fn mask(self) -> u8 {
        match self {
            Bits::Four => 15,
            Bits::Eight => 255,
        }
    }

    /// The code that is zero where there are no zero points.
    pub(super) fn middle(self) -> u8 {
        match self {
            Bits::Four => 8,
            Bits::Eight => 128,
        }
    }

    /// Code `n` of a word, the lowest bits first.
    pub(super) fn code(self, word: u32, n: usize) -> u8 {
        match self {
            Bits::Four => (word >> (4 * n)) as u8 & self.mask(),
            Bits::Eight => (word >> (8 * n)) as u8,
        }
    }
}

/// What a quantizer says of zero points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeros {
    /// All are the middle code.
    Middle,
    /// They are any.
    Any,
}

/// The format that holds codes of that many bits without loss.
///
/// # Errors
/// When a scale is not finite, and when there are zero points of 8 bits.
pub(super) fn format(
    site: &Site<'_>,
    bits: Bits,
    group: Group,
    zeros: Zeros,
    scales: &StoredTensor<'_>,
) -> Result<Format, CheckpointError> {
    match (bits, zeros) {
        (Bits::Eight, Zeros::Middle) => Ok(Format::Int8(group)),
        (Bits::Eight, Zeros::Any) => {
            Err(site.wrong("8 bits with zero points that differ from 128", "4 bits, or a symmetric quantization"))
        }
        (Bits::Four, zeros) => {
            let format = Format::Int4 { group, zeros: zeros == Zeros::Any };
            // In twice the size nothing is lost.
            if holds_all(format, scales)? { Ok(format) } else { Ok(Format::Int8(group)) }
        }
    }
}

/// Whether a format can hold all scales as they are; the types of half the size always fit.
fn holds_all(format: Format, scales: &StoredTensor<'_>) -> Result<bool, CheckpointError> {
    if scales.stored != StoredType::F32 {
        return Ok(true);
    }
    for index in 0..scales.bytes.len() / 4 {
        if !format.holds_scale(scale(scales, index)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Unsigned codes with their zero points, `group` columns each, as `format` has them.
pub(super) fn rows(format: Format, mut codes: Vec<u8>, scales: Vec<f32>, zeros: Vec<u8>, columns: usize) -> Rows {
    match format {
        Format::Int4 { zeros: true, .. } => {
            let zeros = zeros.into_iter().map(f32::from).collect();
            Rows { codes, scales, zeros: Some(zeros) }
        }
        Format::Int8(_) => {
            let (size, groups) = (format.group_width(columns), format.groups(columns));
            for (row, zeros) in codes.chunks_exact_mut(columns.max(1)).zip(zeros.chunks_exact(groups.max(1))) {
                for (codes, zero) in row.chunks_mut(size).zip(zeros) {
                    codes.iter_mut().for_each(|code| *code = code.wrapping_sub(*zero));
                }
            }
            Rows { codes, scales, zeros: None }
        }
        Format::Int4 { zeros: false, .. } => Rows { codes, scales, zeros: None },
        Format::F32 | Format::F16 | Format::Bf16 | Format::Fp8(_) | Format::Mxfp4 | Format::Nf4(_) => {
            Rows { codes, scales, zeros: None }
        }
    }
}

/// Reads how many bits a code has.
///
/// # Errors
/// When it is absent or another number than 4 or 8.
pub(super) fn bits(config: &Config, field: &str) -> Result<Bits, CheckpointError> {
    let found = config.get(field).and_then(serde_json::Value::as_u64);
    let known = Bits::ALL.into_iter().find(|bits| Some(bits.count() as u64) == found);
    known.ok_or_else(|| config.wrong(field, "4 or 8"))
}

/// Fails unless all sizes are multiples of the codes of a word.
pub(super) fn whole_words(site: &Site<'_>, per: usize, sizes: &[(&str, usize)]) -> Result<(), CheckpointError> {
    match sizes.iter().find(|(_, size)| !size.is_multiple_of(per)) {
        Some((what, size)) => Err(site.wrong(format!("{size} {what}"), format!("a multiple of {per}"))),
        None => Ok(()),
    }
}
