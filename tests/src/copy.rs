//! Copies of fixtures that can be changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;
use warpweft_models::{Imported, import};

use crate::fixture;

/// Type, shape and bytes by name.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of a checkpoint in a temporary folder, which goes when this does.
pub struct Copy(TempDir);

impl Copy {
    /// A copy of a fixture.
    pub fn of(name: &str) -> Copy {
        Copy::of_folder(&fixture(name))
    }

    /// A copy of any folder.
    pub fn of_folder(folder: &Path) -> Copy {
        let copy = Copy(tempfile::tempdir().unwrap());
        copy_folder(folder, copy.path());
        copy
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Changes a JSON file.
    pub fn json(self, file: &str, change: impl FnOnce(&mut Value)) -> Copy {
        let path = self.path().join(file);
        let mut value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
        self
    }

    /// Sets a field of config.json.
    pub fn set(self, field: &str, value: Value) -> Copy {
        self.json("config.json", |config| config[field] = value)
    }

    /// Changes the tensors of model.safetensors.
    pub fn tensors(self, change: impl FnOnce(&mut Tensors)) -> Copy {
        let path = self.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .tensors()
            .into_iter()
            .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
            .collect();
        change(&mut tensors);
        let views = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
        self
    }

    /// A model of `layers` layers, which are copies of those that are there, in turn. For the families whose
    /// layers all have the same tensors.
    pub fn with_layers(self, layers: usize) -> Copy {
        let config: Value =
            serde_json::from_str(&fs::read_to_string(self.path().join("config.json")).unwrap()).unwrap();
        let field = ["num_hidden_layers", "n_layers"].into_iter().find(|field| config[field].is_u64()).unwrap();
        let before = config[field].as_u64().unwrap() as usize;
        self.set(field, layers.into()).tensors(|tensors| {
            let old = std::mem::take(tensors);
            for (name, tensor) in old {
                let Some((head, layer, tail)) = split_layer(&name) else {
                    tensors.insert(name, tensor);
                    continue;
                };
                for i in (0..layers).filter(|i| i % before == layer) {
                    tensors.insert(format!("{head}{i}{tail}"), tensor.clone());
                }
            }
        })
    }

    /// The model, which has to be importable.
    pub fn import(&self) -> Imported {
        import(self.path()).unwrap()
    }

    /// The message with which the folder is refused.
    pub fn refusal(&self) -> String {
        import(self.path()).map(|_| ()).unwrap_err().to_string()
    }
}

/// `encoder.layer.7.output.dense.bias` as `encoder.layer.`, 7, `.output.dense.bias`.
fn split_layer(name: &str) -> Option<(&str, usize, &str)> {
    let begin = ["layer.", "layers."].into_iter().find_map(|word| Some(name.find(word)? + word.len()))?;
    let length = name[begin..].find('.')?;
    let (head, rest) = name.split_at(begin);
    Some((head, rest[..length].parse().ok()?, &rest[length..]))
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
