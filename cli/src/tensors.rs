//! Results as safetensors files.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use warpweft_runtime::Matrix;

use crate::CliError;
use crate::interrupt::{self, Section};

/// Writes one f32 tensor `[rows, width]` with remarks, to a temporary name first, so that the file is complete
/// when it appears.
pub(crate) fn write(
    path: &Path,
    name: &str,
    matrix: &Matrix,
    remarks: HashMap<String, String>,
) -> Result<(), CliError> {
    let action = || format!("write {}", path.display());
    let other = |error: &dyn std::fmt::Display| CliError::io(action())(std::io::Error::other(error.to_string()));
    if path.is_dir() {
        return Err(other(&"it is a directory"));
    }
    let _section = Section::enter();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".weft-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(CliError::io(action()))?;
    let bytes = little_endian(&matrix.values);
    let view = TensorView::new(Dtype::F32, vec![matrix.rows, matrix.width], &bytes).map_err(|e| other(&e))?;
    safetensors::serialize_to_file([(name, view)], Some(remarks), file.path()).map_err(|e| other(&e))?;
    interrupt::check()?;
    file.persist(path).map_err(|error| CliError::io(action())(error.error))?;
    Ok(())
}

/// The values' bytes; a copy only where the machine has another order.
fn little_endian(values: &[f32]) -> std::borrow::Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(values).into()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}
