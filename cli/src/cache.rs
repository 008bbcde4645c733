//! Plans of checkpoint folders, kept so that a model is compiled once.
//!
//! They lie in `$XDG_CACHE_HOME/warpweft/plans` (`~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`), named by content:
//! a hash over every JSON and safetensors file of the folder, bytes and all, and a hash over this program and the
//! options. So a changed file, option or compiler makes a new plan, which replaces those of the same model that another
//! build made. Deleting the folder is safe at any time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::CliError;

/// Folders inside a checkpoint are looked into this deep: sentence-transformers has `1_Pooling`.
const DEPTH: usize = 2;

/// Where the plan of a folder is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    folder: PathBuf,
    /// Depends on the model and the options.
    model: String,
    /// Depends on the compiler.
    build: String,
}

impl Slot {
    /// The slot for a checkpoint compiled with the options that `options` spells out; `None` where there is no place
    /// for caches.
    pub(crate) fn of(checkpoint: &Path, options: &str) -> Result<Option<Slot>, CliError> {
        let Some(folder) = plans_folder() else { return Ok(None) };
        let start = Instant::now();
        let mut hasher = blake3::Hasher::new();
        hasher.update(options.as_bytes());
        for file in files(checkpoint, DEPTH)? {
            let action = || format!("read {}", file.display());
            // Names and sizes are hashed too, so that no two folders give the same stream of bytes.
            let name = file.strip_prefix(checkpoint).unwrap_or(&file).to_string_lossy().into_owned();
            let open = File::open(&file).map_err(CliError::io(action()))?;
            let size = open.metadata().map_err(CliError::io(action()))?.len();
            hasher.update(format!("\0{name}\0{size}\0").as_bytes());
            hash_file(&mut hasher, open).map_err(CliError::io(action()))?;
        }
        tracing::debug!(seconds = start.elapsed().as_secs_f64(), "checkpoint hashed");
        Ok(Some(Slot { folder, model: short(&hasher), build: build_hash() }))
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(format!("{}-{}.weft", self.model, self.build))
    }

    /// Makes the folder.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)
    }

    /// Removes the same model's plans of other builds.
    pub(crate) fn remove_others(&self) {
        let own = self.path();
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(&self.model) && path != own {
                // Another process may have been faster.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Feeds a file to all cores, piece by piece.
fn hash_file(hasher: &mut blake3::Hasher, mut file: File) -> io::Result<()> {
    use std::io::Read;
    let mut piece = vec![0; 4 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            n => hasher.update_rayon(&piece[..n]),
        };
    }
}

/// All files that can matter to a compile, in a fixed order.
fn files(folder: &Path, depth: usize) -> Result<Vec<PathBuf>, CliError> {
    let action = || format!("read {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(CliError::io(action()))? {
        let path = entry.map_err(CliError::io(action()))?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        // What a link leads to counts.
        if path.is_dir() && depth > 1 {
            found.extend(files(&path, depth - 1)?);
        } else if matches!(extension, "json" | "safetensors") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// This program, byte for byte: a version number would not tell builds of one version apart.
fn build_hash() -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    let read = std::env::current_exe().and_then(File::open).and_then(|file| hash_file(&mut hasher, file));
    if let Err(error) = read {
        tracing::debug!(%error, "the program cannot read itself; its version stands in");
    }
    short(&hasher)
}

fn short(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex().as_str()[..20].to_owned()
}

/// A folder for large files that go again: that of the plans if it can be made, which lies on a disk more often than the
/// system's.
pub(crate) fn temporary_folder() -> PathBuf {
    let plans = plans_folder().filter(|folder| fs::create_dir_all(folder).is_ok());
    plans.unwrap_or_else(std::env::temp_dir)
}

fn plans_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| match std::env::consts::OS {
        "windows" => absolute("LOCALAPPDATA"),
        "macos" => Some(absolute("HOME")?.join("Library/Caches")),
        _ => Some(absolute("HOME")?.join(".cache")),
    });
    Some(caches?.join("warpweft/plans"))
}
