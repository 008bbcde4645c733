//! Whole models, compiled and run, against what Hugging Face transformers and sentence-transformers compute.
#![allow(clippy::unwrap_used, clippy::panic)]

mod decoders;
mod encoders;
#[cfg(target_os = "linux")]
mod mapped;
mod minilm;
mod rustdoc_lm;
