//! The check that all weights are finite numbers.

use half::{bf16, f16};
use warpweft_plan::DType;

use super::StoredTensor;
use crate::error::CheckpointError;

/// Elements that are tested between two looks at the outcome: long enough for vector code.
const BLOCK: usize = 4096;

impl StoredTensor<'_> {
    /// Fails if an element is NaN or infinite. Integers are finite.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`] with the first such element.
    pub fn check_finite(&self) -> Result<(), CheckpointError> {
        let found = match self.stored.weight() {
            Some(DType::F32) => first_bad::<4>(self.bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000)
                .map(|(index, b)| (index, f32::from_le_bytes(b))),
            Some(DType::F16) => first_bad::<2>(self.bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00)
                .map(|(index, b)| (index, f16::from_le_bytes(b).to_f32())),
            Some(DType::BF16) => first_bad::<2>(self.bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80)
                .map(|(index, b)| (index, bf16::from_le_bytes(b).to_f32())),
            _ => None,
        };
        match found {
            None => Ok(()),
            Some((index, value)) => Err(self.not_finite(value, index)),
        }
    }

    /// The error that the element of that index is `value`, which is not finite.
    pub(crate) fn not_finite(&self, value: f32, index: u64) -> CheckpointError {
        CheckpointError::NotFinite {
            file: self.file.to_owned(),
            tensor: self.name.to_owned(),
            value,
            index,
            position: position(index, self.shape),
            shape: self.shape.to_owned(),
        }
    }
}

/// Index and bytes of the first element for which `bad` holds.
fn first_bad<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<(u64, [u8; N])> {
    let (elements, _) = bytes.as_chunks::<N>();
    for (b, block) in elements.chunks(BLOCK).enumerate() {
        // No early exit within a block, so that the loop can become vector code.
        if block.iter().fold(false, |any, &element| any | bad(element)) {
            let i = block.iter().position(|&element| bad(element))?;
            return Some(((b * BLOCK + i) as u64, block[i]));
        }
    }
    None
}

/// One index per axis.
fn position(index: u64, shape: &[u64]) -> Vec<u64> {
    let mut rest = index;
    let mut position: Vec<u64> = shape
        .iter()
        .rev()
        .map(|&n| {
            let i = rest % n.max(1);
            rest /= n.max(1);
            i
        })
        .collect();
    position.reverse();
    position
}
