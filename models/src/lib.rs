//! Hugging Face checkpoint folders: config, tensors, and one file per model family.
//!
//! [`Checkpoint`] maps the files and checks what they claim; a family reads its configuration, takes the tensors
//! that it needs and writes the model as a graph.

pub mod checkpoint;
pub mod config;
mod error;
mod families;
mod generation;
mod model;
mod net;
pub mod quantized;
mod random;
pub mod sentence;

pub use checkpoint::Checkpoint;
pub use error::CheckpointError;
pub use model::{Imported, Weight, Weights, has_weights, import, import_config};

/// Every `model_type` that can be imported.
pub fn families() -> impl Iterator<Item = &'static str> {
    families::FAMILIES.iter().map(|family| family.model_type)
}
