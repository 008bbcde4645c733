//! Token ids in a file.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::CliError;

/// The ids in the one i64 tensor of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u32>, CliError> {
    let failed = |what: String| CliError::Failed(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(CliError::io(format!("read {}", path.display())))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(error.to_string()))?;
    let tensors = file.tensors();
    let mut fitting = tensors.iter().filter(|(_, tensor)| tensor.dtype() == Dtype::I64);
    let (Some((_, tensor)), None) = (fitting.next(), fitting.next()) else {
        return Err(failed("found none or several i64 tensors, expected one".into()));
    };
    let (words, _) = tensor.data().as_chunks();
    let id = |word: &[u8; 8]| {
        let id = i64::from_le_bytes(*word);
        u32::try_from(id).map_err(|_| failed(format!("{id} is no token id")))
    };
    words.iter().map(id).collect()
}
