//! A checkpoint folder: JSON files as text, tensors as slices of memory-mapped files.

mod files;
mod finite;
mod header;
mod stored;

use std::path::{Path, PathBuf};

pub use header::{Entry, HeaderError, read_header};
pub use stored::StoredType;

use crate::error::CheckpointError;
use files::{Files, Place};

/// An open checkpoint folder whose headers have been checked.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Files,
}

/// A tensor of a checkpoint; its bytes lie in a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// The file that holds it.
    pub file: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// Type of its elements.
    pub stored: StoredType,
    /// Row-major shape.
    pub shape: &'a [u64],
    /// Its elements, little-endian, in no particular alignment.
    pub bytes: &'a [u8],
}

impl Checkpoint {
    /// Opens a folder that holds `config.json` and `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// When a file is missing or cannot be read, and when a header does not fit its file.
    pub fn open(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        check_folder(folder)?;
        if !folder.join("config.json").exists() {
            return Err(CheckpointError::NoConfig { folder: folder.to_owned() });
        }
        Ok(Checkpoint { folder: folder.to_owned(), files: files::open(folder)? })
    }

    /// The file that a missing tensor should have been in: the only one, or the index of all.
    pub fn weights_file(&self) -> PathBuf {
        match self.files.shards.as_slice() {
            [only] => only.path.clone(),
            _ => self.folder.join("model.safetensors.index.json"),
        }
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.tensors.keys().map(String::as_str)
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.shards.iter().map(|shard| shard.map.len() as u64).sum()
    }

    /// The tensor of that name, its values unchecked.
    pub fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let (name, Place { shard, entry }) = self.files.tensors.get_key_value(name)?;
        let shard = self.files.shards.get(*shard)?;
        let bytes = shard.map.get(entry.begin as usize..entry.end as usize)?;
        Some(StoredTensor { file: &shard.path, name, stored: entry.stored, shape: &entry.shape, bytes })
    }

    /// Tells the operating system that the tensor's bytes are not needed for now, which lowers the memory that this
    /// process holds. They can be read again. Does nothing for a name that is unknown, or where there is no such call.
    pub fn release(&self, name: &str) {
        #[cfg(unix)]
        if let Some(Place { shard, entry }) = self.files.tensors.get(name)
            && let Some(shard) = self.files.shards.get(*shard)
        {
            let (offset, length) = (entry.begin as usize, (entry.end - entry.begin) as usize);
            // SAFETY: the map is read-only and backed by its file, so that dropped pages are read from it again.
            let _ = unsafe { shard.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, length) };
        }
        #[cfg(not(unix))]
        let _ = name;
    }
}

/// Fails unless `folder` is a folder.
pub(crate) fn check_folder(folder: &Path) -> Result<(), CheckpointError> {
    if folder.is_dir() {
        Ok(())
    } else if folder.exists() {
        Err(CheckpointError::NotAFolder { path: folder.to_owned() })
    } else {
        Err(CheckpointError::NoFolder { folder: folder.to_owned() })
    }
}

/// The text of `folder/name`; `None` if there is no such file.
///
/// # Errors
/// When it is there but cannot be read as text.
pub fn read_optional(folder: &Path, name: &str) -> Result<Option<String>, CheckpointError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    files::read_text(&path).map(Some)
}

/// `folder/relative` where `relative`, which a file of the checkpoint gives, stays inside the folder.
pub(crate) fn join_inside(folder: &Path, relative: &str) -> Option<PathBuf> {
    if relative.is_empty() || relative == "." {
        return Some(folder.to_owned());
    }
    relative.split('/').all(files::is_plain_name).then(|| folder.join(relative))
}
