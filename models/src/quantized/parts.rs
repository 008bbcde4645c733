//! Tensors of which quantized weights are made, and their elements.

use half::{bf16, f16};

use crate::checkpoint::{Checkpoint, StoredTensor, StoredType};
use crate::error::CheckpointError;

/// Types in which scales are stored.
pub(super) const SCALES: &[StoredType] = &[StoredType::F32, StoredType::F16, StoredType::BF16, StoredType::F8_E8M0];
/// Types of floats.
pub(super) const FLOATS: &[StoredType] = &[StoredType::F32, StoredType::F16, StoredType::BF16];
/// Types of numbers of groups.
pub(super) const INTEGERS: &[StoredType] = &[StoredType::I32, StoredType::I64];

/// A tensor of one of `types` and one of `shapes`.
///
/// # Errors
/// When it is missing, or has another type or shape; the first shape is the one that is named.
pub(super) fn part<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
    types: &[StoredType],
    shapes: &[&[usize]],
) -> Result<StoredTensor<'c>, CheckpointError> {
    let expected = || shapes.first().map_or_else(Vec::new, |s| s.iter().map(|&n| n as u64).collect::<Vec<u64>>());
    let tensor = checkpoint.tensor(name).ok_or_else(|| CheckpointError::MissingTensor {
        file: checkpoint.weights_file(),
        tensor: name.to_owned(),
        expected: format!("shape {:?}, type {}", expected(), names(types)),
    })?;
    if !types.contains(&tensor.stored) {
        return Err(wrong_type(&tensor, types));
    }
    let same = |shape: &&[usize]| shape.iter().map(|&n| n as u64).eq(tensor.shape.iter().copied());
    if !shapes.iter().any(same) {
        return Err(CheckpointError::Shape {
            file: tensor.file.to_owned(),
            tensor: tensor.name.to_owned(),
            found: tensor.shape.to_owned(),
            expected: expected(),
        });
    }
    Ok(tensor)
}

/// The error that a tensor has none of `types`.
pub(super) fn wrong_type(tensor: &StoredTensor<'_>, types: &[StoredType]) -> CheckpointError {
    CheckpointError::Type {
        file: tensor.file.to_owned(),
        tensor: tensor.name.to_owned(),
        found: tensor.stored.name(),
        expected: names(types),
    }
}

fn names(types: &[StoredType]) -> String {
    let names: Vec<&str> = types.iter().map(|t| t.name()).collect();
    match names.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        names => names.concat(),
    }
}

/// The tensor, which has been found before.
///
/// # Errors
/// When it is gone.
pub(super) fn again<'c>(checkpoint: &'c Checkpoint, name: &str) -> Result<StoredTensor<'c>, CheckpointError> {
    checkpoint.tensor(name).ok_or_else(|| CheckpointError::MissingTensor {
        file: checkpoint.weights_file(),
        tensor: name.to_owned(),
        expected: "a part of a quantized weight".to_owned(),
    })
}

/// The error that an element has a value that it cannot have.
pub(super) fn wrong_element(
    tensor: &StoredTensor<'_>,
    index: usize,
    found: impl ToString,
    expected: impl Into<String>,
) -> CheckpointError {
    CheckpointError::Element {
        file: tensor.file.to_owned(),
        tensor: tensor.name.to_owned(),
        index: index as u64,
        found: found.to_string(),
        expected: expected.into(),
    }
}

fn chunk<const N: usize>(tensor: &StoredTensor<'_>, index: usize) -> [u8; N] {
    // A header that has been checked gives each tensor the bytes of its shape, and indices stay within it.
    tensor.bytes.as_chunks().0.get(index).copied().unwrap_or([0; N])
}

/// An element of a tensor whose type is one of [`SCALES`].
///
/// # Errors
/// When it is not finite.
pub(super) fn scale(tensor: &StoredTensor<'_>, index: usize) -> Result<f32, CheckpointError> {
    let value = match tensor.stored {
        StoredType::F32 => f32::from_le_bytes(chunk(tensor, index)),
        StoredType::F16 => f16::from_le_bytes(chunk(tensor, index)).to_f32(),
        StoredType::BF16 => bf16::from_le_bytes(chunk(tensor, index)).to_f32(),
        StoredType::F8_E8M0 => power(chunk::<1>(tensor, index)[0]),
        _ => return Err(wrong_type(tensor, SCALES)),
    };
    if value.is_finite() { Ok(value) } else { Err(tensor.not_finite(value, index as u64)) }
}

/// `2^(exponent - 127)`; 255 is NaN.
pub(super) fn power(exponent: u8) -> f32 {
    match exponent {
        // Below the normal numbers.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// An element of a tensor of [`INTEGERS`].
pub(super) fn integer(tensor: &StoredTensor<'_>, index: usize) -> i64 {
    match tensor.stored {
        StoredType::I64 => i64::from_le_bytes(chunk(tensor, index)),
        _ => i32::from_le_bytes(chunk(tensor, index)).into(),
    }
}

/// A word of a tensor of type I32.
pub(super) fn word(tensor: &StoredTensor<'_>, index: usize) -> u32 {
    u32::from_le_bytes(chunk(tensor, index))
}

/// The words from `first` on of a tensor of type I32.
pub(super) fn words<'t>(tensor: &StoredTensor<'t>, first: usize, count: usize) -> impl Iterator<Item = u32> + use<'t> {
    let words = tensor.bytes.as_chunks::<4>().0.get(first..first + count).unwrap_or_default();
    words.iter().map(|word| u32::from_le_bytes(*word))
}
