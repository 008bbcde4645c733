//! Checkpoints that come quantized: each layout is read exactly, and what is wrong with one is said.

mod layouts;
mod models;
mod refusals;
mod write;

use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;
use warpweft_models::config::Config;
use warpweft_models::quantized::{Quantization, Quantized};
use warpweft_models::{Checkpoint, CheckpointError};
use warpweft_tests::{Random, Tensors};

use write::Kind;

/// Every layout, with sizes and settings that are ordinary and odd.
const KINDS: [Kind; 19] = [
    gptq(4, Some(32), false, false),
    gptq(4, Some(32), false, true),
    gptq(4, Some(32), true, true),
    gptq(4, Some(128), true, false),
    gptq(4, None, false, false),
    gptq(8, Some(32), true, false),
    gptq(8, Some(64), true, true),
    Kind::Gptq { bits: 4, size: Some(64), symmetric: false, ordered: false, second: true },
    Kind::Awq { size: Some(32) },
    Kind::Awq { size: None },
    Kind::Fp8Blocks,
    Kind::Fp8Tensor,
    Kind::Float { channel: false },
    Kind::Float { channel: true },
    Kind::Bytes,
    Kind::Packed { bits: 4, size: Some(32), symmetric: false, ordered: true },
    Kind::Packed { bits: 4, size: None, symmetric: true, ordered: false },
    Kind::Packed { bits: 8, size: Some(32), symmetric: true, ordered: false },
    Kind::Mxfp4,
];

/// These cut rows where the others cannot.
const NF4: [Kind; 2] = [Kind::Nf4 { nested: false }, Kind::Nf4 { nested: true }];

const fn gptq(bits: u32, size: Option<usize>, symmetric: bool, ordered: bool) -> Kind {
    Kind::Gptq { bits, size, symmetric, ordered, second: false }
}

/// A folder with these tensors and that `quantization_config`.
pub(crate) fn folder(settings: &Value, tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "quantization_config": settings }).to_string();
    fs::write(folder.path().join("config.json"), config).unwrap();
    let views = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

/// What config.json says.
pub(crate) fn quantization(folder: &Path) -> Result<Option<Quantization>, CheckpointError> {
    let file = folder.join("config.json");
    Quantization::read(&Config::parse(&file, &fs::read_to_string(&file).unwrap())?)
}

/// The values of a weight, its columns in their own order.
pub(crate) fn values(checkpoint: &Checkpoint, found: &Quantized) -> Result<Vec<f32>, CheckpointError> {
    let columns = *found.shape().last().unwrap() as usize;
    let stored = found.format().unpack(&found.read(checkpoint)?, columns);
    let Some(order) = found.order() else { return Ok(stored) };
    let mut values = vec![0.0; stored.len()];
    for (row, stored) in values.chunks_mut(columns).zip(stored.chunks(columns)) {
        for (&column, &value) in order.iter().zip(stored) {
            row[column as usize] = value;
        }
    }
    Ok(values)
}

/// An order of columns.
pub(crate) fn shuffled(columns: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..columns).collect();
    (1..columns).for_each(|i| order.swap(i, random.below(i + 1)));
    order
}
