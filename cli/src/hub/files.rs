//! Which files of a repository a model needs.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

/// The weights in one file, and the list of the files if there are many.
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Files that say what a model is and how it reads and writes text.
const SMALL: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "config_sentence_transformers.json",
    "LICENSE",
    "LICENSE.md",
];

/// The files of a repository that are needed, the weights last: so a snapshot that has its weights has everything.
pub(super) fn needed<'f>(files: &[&'f str]) -> Vec<&'f str> {
    let has_single = |folder: &str| files.contains(&format!("{folder}{SINGLE}").as_str());
    let mut needed: Vec<&str> = files.iter().copied().filter(|file| is_needed(file, has_single)).collect();
    needed.sort_by_key(|file| (is_weights(file), *file));
    needed
}

fn is_needed(file: &str, has_single: impl Fn(&str) -> bool) -> bool {
    let (folder, name) = match file.rsplit_once('/') {
        Some((folder, name)) => (format!("{folder}/"), name),
        None => (String::new(), file),
    };
    if !folder.is_empty() && !is_module(&folder) {
        return false;
    }
    let settings = name.starts_with("sentence_") && name.ends_with("_config.json");
    let shard = name == INDEX || name.starts_with("model-") && is_weights(name);
    SMALL.contains(&name) || settings || name == SINGLE || shard && !has_single(&folder)
}

/// Whether a folder is one of sentence-transformers' modules: `1_Pooling/`.
fn is_module(folder: &str) -> bool {
    let number = folder.split('_').next().unwrap_or_default();
    folder.matches('/').count() == 1 && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors")
}

/// Whether a snapshot has a configuration and all files of its weights.
pub(super) fn is_complete(folder: &Path) -> bool {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let transformer = folder.join("0_Transformer");
    let folder = if transformer.is_dir() { &transformer } else { folder };
    if !folder.join("config.json").exists() {
        return false;
    }
    if folder.join(SINGLE).exists() {
        return true;
    }
    let index = std::fs::read(folder.join(INDEX)).ok().and_then(|bytes| serde_json::from_slice::<Index>(&bytes).ok());
    index.is_some_and(|index| {
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        !files.is_empty() && files.into_iter().all(|file| folder.join(file).exists())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_needed_is_taken() {
        let files = [
            "model.safetensors",
            ".gitattributes",
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "modules.json",
            "onnx/model.safetensors",
            "onnx/config.json",
            "pytorch_model.bin",
            "sentence_bert_config.json",
            "tokenizer.json",
            "tokenizer.model",
        ];
        let expected = [
            "1_Pooling/config.json",
            "config.json",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
            "model.safetensors",
        ];
        assert_eq!(needed(&files), expected);
        let shards = ["model-2.safetensors", "config.json", "model-1.safetensors", "model.safetensors.index.json"];
        let expected = ["config.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"];
        assert_eq!(needed(&shards), expected);
    }

    #[test]
    fn a_snapshot_is_complete_with_all_shards() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("config.json", "{}");
        assert!(!is_complete(folder.path()));
        write(INDEX, r#"{"weight_map": {"a": "one", "b": "two"}}"#);
        write("one", "");
        assert!(!is_complete(folder.path()));
        write("two", "");
        assert!(is_complete(folder.path()));
        write(INDEX, "nonsense");
        assert!(!is_complete(folder.path()));
        write(SINGLE, "");
        assert!(is_complete(folder.path()));
    }
}
