//! Files that are to be written.

use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::CliError;
use crate::interrupt::{self, Section};

/// The folder of a file that is to be written; an error if the file or the folder cannot be one.
pub(crate) fn folder_of(path: &Path) -> Result<&Path, CliError> {
    let refused = |why: String| Err(CliError::io(format!("write {}", path.display()))(io::Error::other(why)));
    if path.is_dir() {
        return refused("it is a directory".into());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return refused(format!("there is no folder {}", folder.display()));
    }
    Ok(folder)
}

/// Refuses an output that cannot be written before the work is done.
pub(crate) fn check_writable(path: &Path) -> Result<(), CliError> {
    let folder = folder_of(path)?;
    let tried = tempfile::Builder::new().prefix(".weft-").tempfile_in(folder);
    // The error of the system, without the name of the file that was tried.
    let plain = |error: io::Error| error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
    tried.map(drop).map_err(|error| CliError::io(format!("write {}", path.display()))(plain(error)))
}

/// Writes a file that appears when it is complete: under a temporary name first.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    write_with(path, |file| file.as_file_mut().write_all(bytes))
}

/// The same with a content that `fill` writes.
pub(crate) fn write_with(path: &Path, fill: impl FnOnce(&mut NamedTempFile) -> io::Result<()>) -> Result<(), CliError> {
    let action = || format!("write {}", path.display());
    let folder = folder_of(path)?;
    let _section = Section::enter();
    let mut builder = tempfile::Builder::new();
    builder.prefix(".weft-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(CliError::io(action()))?;
    fill(&mut file).map_err(CliError::io(action()))?;
    interrupt::check()?;
    file.persist(path).map_err(|error| CliError::io(action())(error.error))?;
    Ok(())
}
