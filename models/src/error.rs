//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

use warpweft_compiler::formats::FormatError;
use warpweft_compiler::graph::FactError;

use crate::checkpoint::HeaderError;

/// What is wrong with a checkpoint folder, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The path does not exist.
    #[error("{}: no such folder; give the folder of a Hugging Face checkpoint, which holds config.json and \
             model.safetensors", .folder.display())]
    NoFolder {
        /// The path that was given.
        folder: PathBuf,
    },
    /// The path is a file.
    #[error("{}: this is a file; give the checkpoint's folder, which holds config.json and model.safetensors", .path.display())]
    NotAFolder {
        /// The path that was given.
        path: PathBuf,
    },
    /// A path inside the folder that should be a file is something else.
    #[error("{}: expected a file, found a folder", .file.display())]
    NotAFile {
        /// The path.
        file: PathBuf,
    },
    /// The folder has no config.json.
    #[error("{}: no config.json in this folder; is it the folder of a Hugging Face checkpoint?", .folder.display())]
    NoConfig {
        /// The folder.
        folder: PathBuf,
    },
    /// modules.json names a pooling module whose folder has no config.json.
    #[error("{}: no config.json in this folder, which modules.json names for the pooling", .folder.display())]
    NoPooling {
        /// The module's folder.
        folder: PathBuf,
    },
    /// The folder has no weights in the safetensors format.
    #[error("{}: neither model.safetensors nor model.safetensors.index.json in this folder{}", .folder.display(), .hint)]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What to do, if other weights are there.
        hint: &'static str,
    },
    /// A file cannot be read.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file is not JSON.
    #[error("{}: not valid JSON: {source}", .file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A safetensors header is damaged or lies.
    #[error("{}: {source}", .file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// The index of a sharded checkpoint is wrong.
    #[error("{}: {problem}", .file.display())]
    Index {
        /// The index.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A field of a JSON file is missing or has a value that cannot be used.
    #[error("{}: {field}: found {found}, expected {expected}", .file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The field, with the objects around it: `rope_parameters.rope_theta`.
        field: String,
        /// What is there.
        found: String,
        /// What can be read.
        expected: String,
    },
    /// `model_type` names no family that is known.
    #[error("{}: model_type: found {found:?}, expected one of {}", .file.display(), .known.join(", "))]
    UnknownFamily {
        /// The config.json.
        file: PathBuf,
        /// The model_type.
        found: String,
        /// All families.
        known: Vec<&'static str>,
    },
    /// The model needs a tensor that no file has.
    #[error("{}: tensor {tensor} is missing, expected {expected}", .file.display())]
    MissingTensor {
        /// The weights.
        file: PathBuf,
        /// Its name, or the names that it may have.
        tensor: String,
        /// Its shape.
        expected: String,
    },
    /// A tensor has another shape than config.json implies.
    #[error("{}: tensor {tensor}: found shape {found:?}, expected {expected:?}", .file.display())]
    Shape {
        /// The file that holds it.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// In the file.
        found: Vec<u64>,
        /// From config.json.
        expected: Vec<u64>,
    },
    /// A tensor has a type that the model cannot use.
    #[error("{}: tensor {tensor}: found type {found}, expected {expected}", .file.display())]
    Type {
        /// The file that holds it.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// In the file.
        found: &'static str,
        /// Types that can be read.
        expected: String,
    },
    /// `quant_method` names no method that is known.
    #[error("{}: {field}: found {found:?}, expected one of {}", .file.display(), .known.join(", "))]
    UnknownQuantization {
        /// The config.json.
        file: PathBuf,
        /// The field, with the objects around it.
        field: String,
        /// The method.
        found: String,
        /// All methods.
        known: Vec<&'static str>,
    },
    /// An element of a quantized weight has a value that it cannot have.
    #[error("{}: tensor {tensor}: found {found} at element {index}, expected {expected}", .file.display())]
    Element {
        /// The file that holds it.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// Index of the element in row-major order.
        index: u64,
        /// What is there.
        found: String,
        /// What can be read.
        expected: String,
    },
    /// A quantized weight that cannot be stored as it is.
    #[error("{}: tensor {tensor}: found {found}, expected {expected}", .file.display())]
    Quantized {
        /// The file that holds it.
        file: PathBuf,
        /// The weight, or the part of it that is wrong.
        tensor: String,
        /// What is there.
        found: String,
        /// What can be read.
        expected: String,
    },
    /// Codes or scales that no format can hold as they are, NaN among them.
    #[error("{}: tensor {tensor}: {problem}", .file.display())]
    Format {
        /// The weights.
        file: PathBuf,
        /// The quantized weight.
        tensor: String,
        /// Where and what.
        problem: FormatError,
    },
    /// Tensors that the family does not know: the model would be another one than the file's.
    #[error("{}: {} of the file's tensors would be unused, expected none; the first is {tensor} with shape {shape:?}", .file.display(), .count)]
    UnusedTensors {
        /// The file that holds the first of them.
        file: PathBuf,
        /// The first.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// How many.
        count: usize,
    },
    /// A weight is not a finite number.
    #[error("{}: tensor {tensor}: found {value} at element {index} (at {position:?} of shape {shape:?}), expected finite numbers", .file.display())]
    NotFinite {
        /// The file that holds it.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The first such value.
        value: f32,
        /// Its index in row-major order.
        index: u64,
        /// The same as one index per axis.
        position: Vec<u64>,
        /// The tensor's shape.
        shape: Vec<u64>,
    },
    /// The sizes of config.json fit the tensors, but not each other.
    #[error("the model that config.json describes cannot be built: {0}")]
    Graph(#[from] FactError),
}

impl CheckpointError {
    /// Wraps an input/output error of `file`.
    pub(crate) fn io(file: &Path, source: std::io::Error) -> CheckpointError {
        CheckpointError::Io { file: file.to_owned(), source }
    }
}

/// `text`, cut to a length that fits into a message.
pub(crate) fn clip(text: &str) -> String {
    const LIMIT: usize = 120;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain(['…']).collect()
}
