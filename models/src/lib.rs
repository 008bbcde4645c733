//! Hugging Face checkpoint folders: config, tensors, and one file per model family.
//!
//! [`Checkpoint`] maps the files and checks what they claim; a family reads its configuration, takes the tensors
//! that it needs and writes the model as a graph.

pub mod checkpoint;
pub mod config;
mod error;
pub mod sentence;

pub use checkpoint::Checkpoint;
pub use error::CheckpointError;
