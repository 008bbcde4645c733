//! Which files of a folder hold the weights.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use serde::Deserialize;

use super::header::{self, Entry};
use crate::error::{CheckpointError, clip};

/// A memory-mapped safetensors file.
#[derive(Debug)]
pub(super) struct Shard {
    /// The file.
    pub(super) path: PathBuf,
    /// Its bytes.
    pub(super) map: Mmap,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Index of the file.
    pub(super) shard: usize,
    /// The tensor in it; its range lies within the file.
    pub(super) entry: Entry,
}

/// All tensors of a checkpoint, by name.
#[derive(Debug)]
pub(super) struct Files {
    /// The files.
    pub(super) shards: Vec<Shard>,
    /// The tensors.
    pub(super) tensors: BTreeMap<String, Place>,
}

/// Opens `model.safetensors`, or else all files of `model.safetensors.index.json`.
pub(super) fn open(folder: &Path) -> Result<Files, CheckpointError> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        let (shard, entries) = open_shard(&single)?;
        let tensors = entries.into_iter().map(|entry| (entry.name.clone(), Place { shard: 0, entry })).collect();
        return Ok(Files { shards: vec![shard], tensors });
    }
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        return open_sharded(folder, &index);
    }
    let hint = if folder.join("pytorch_model.bin").exists() || folder.join("pytorch_model.bin.index.json").exists() {
        "; pytorch_model.bin is not read: open the model with transformers and write it again with \
         save_pretrained(folder, safe_serialization=True)"
    } else {
        "; download the checkpoint's *.safetensors files as well"
    };
    Err(CheckpointError::NoWeights { folder: folder.to_owned(), hint })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_sharded(folder: &Path, index: &Path) -> Result<Files, CheckpointError> {
    let text = read_text(index)?;
    let Index { weight_map } =
        serde_json::from_str(&text).map_err(|source| CheckpointError::Json { file: index.to_owned(), source })?;
    let wrong = |problem: String| CheckpointError::Index { file: index.to_owned(), problem };
    let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    let mut shards = Vec::new();
    let mut contents: HashMap<&str, (usize, HashMap<String, Entry>)> = HashMap::new();
    for name in names {
        if !is_plain_name(name) {
            let name = clip(name);
            return Err(wrong(format!("weight_map: found file {name:?}, expected a name without a folder")));
        }
        let path = folder.join(name);
        if !path.exists() {
            return Err(wrong(format!("weight_map: file {name:?} is missing; download it into the same folder")));
        }
        let (shard, entries) = open_shard(&path)?;
        let entries = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        contents.insert(name, (shards.len(), entries));
        shards.push(shard);
    }
    let mut tensors = BTreeMap::new();
    for (tensor, name) in &weight_map {
        let place = contents
            .get_mut(name.as_str())
            .and_then(|(shard, entries)| Some(Place { shard: *shard, entry: entries.remove(tensor)? }));
        let Some(place) = place else {
            let tensor = clip(tensor);
            return Err(wrong(format!("tensor {tensor:?} is not in {name:?}, where the index expects it")));
        };
        tensors.insert(tensor.clone(), place);
    }
    let unlisted: usize = contents.values().map(|(_, entries)| entries.len()).sum();
    if unlisted > 0 {
        tracing::warn!("{}: {unlisted} tensors of the shards are not in the index and are left out", index.display());
    }
    Ok(Files { shards, tensors })
}

/// Maps a file and reads its header.
fn open_shard(path: &Path) -> Result<(Shard, Vec<Entry>), CheckpointError> {
    if path.is_dir() {
        return Err(CheckpointError::NotAFile { file: path.to_owned() });
    }
    let file = File::open(path).map_err(|e| CheckpointError::io(path, e))?;
    // SAFETY: the map is read-only and private to this process. A process that shortens the file meanwhile
    // ends this one with a bus error; a checkpoint is not written while it is compiled.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| CheckpointError::io(path, e))?;
    let entries =
        header::read_header(&map).map_err(|source| CheckpointError::Header { file: path.to_owned(), source })?;
    Ok((Shard { path: path.to_owned(), map }, entries))
}

/// The text of a small file.
pub(super) fn read_text(path: &Path) -> Result<String, CheckpointError> {
    if path.is_dir() {
        return Err(CheckpointError::NotAFile { file: path.to_owned() });
    }
    fs::read_to_string(path).map_err(|e| CheckpointError::io(path, e))
}

/// Whether `name` is a file name and nothing more: no folder, no `..`, no drive.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains(['/', '\\', ':', '\0'])
}
