//! Results as safetensors files.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use warpweft_runtime::Matrix;

use crate::CliError;
use crate::files::write_with;

/// Writes one f32 tensor `[rows, width]` with remarks, to a temporary name first, so that the file is complete
/// when it appears.
pub(crate) fn write(
    path: &Path,
    name: &str,
    matrix: &Matrix,
    remarks: HashMap<String, String>,
) -> Result<(), CliError> {
    write_with(path, |file| {
        let bytes = little_endian(&matrix.values);
        let view = TensorView::new(Dtype::F32, vec![matrix.rows, matrix.width], &bytes);
        let written = view.and_then(|view| safetensors::serialize_to_file([(name, view)], Some(remarks), file.path()));
        written.map_err(io::Error::other)
    })
}

/// The values' bytes; a copy only where the machine has another order.
fn little_endian(values: &[f32]) -> std::borrow::Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(values).into()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}
