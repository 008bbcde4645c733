//! Random weights for a model of which only config.json is there: enough to measure how fast it runs.
//!
//! Matrices are spread about as they are before training, gains are one, biases are zero. A weight depends on its name
//! alone, so that the same folder always gives the same model.

use std::collections::BTreeMap;

use warpweft_plan::DType;

use crate::config::Config;
use crate::error::CheckpointError;

/// A type of elements, and words of eight bytes that are full of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Type {
    dtype: DType,
    one: u64,
    /// Which bits of a random word stay, and which are set in it, so that its elements have either sign and a size between
    /// 1/64 and 1/32: their standard deviation is 0.024.
    random: u64,
    set: u64,
}

const fn twice(bits: u32) -> u64 {
    ((bits as u64) << 32) | bits as u64
}

const fn four(bits: u16) -> u64 {
    twice(((bits as u32) << 16) | bits as u32)
}

const F32: Type =
    Type { dtype: DType::F32, one: twice(0x3f80_0000), random: twice(0x807f_ffff), set: twice(0x3c80_0000) };
const F16: Type = Type { dtype: DType::F16, one: four(0x3c00), random: four(0x83ff), set: four(0x2400) };
const BF16: Type = Type { dtype: DType::BF16, one: four(0x3f80), random: four(0x807f), set: four(0x3c80) };

/// By their names in config.json.
const TYPES: [(&str, Type); 3] = [("float32", F32), ("float16", F16), ("bfloat16", BF16)];

impl Type {
    /// The type in which `config` says that weights are stored: `dtype` in transformers 5, `torch_dtype` in 4; f32 if it
    /// says nothing.
    pub(crate) fn read(config: &Config) -> Result<Type, CheckpointError> {
        let field = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        config.word_or(field, &TYPES, F32)
    }

    /// The type of one element.
    pub(crate) fn dtype(self) -> DType {
        self.dtype
    }
}

/// Weights of which names and shapes are known.
#[derive(Debug)]
pub(crate) struct RandomWeights {
    kind: Type,
    shapes: BTreeMap<String, Vec<u64>>,
}

impl RandomWeights {
    /// Weights of a type, by name.
    pub(crate) fn new(kind: Type, shapes: BTreeMap<String, Vec<u64>>) -> RandomWeights {
        RandomWeights { kind, shapes }
    }

    /// Type, shape and elements of a weight; `None` for an unknown name.
    pub(crate) fn get(&self, name: &str) -> Option<(DType, &[u64], Vec<u8>)> {
        let shape = self.shapes.get(name)?;
        let length = usize::try_from(self.size(shape)).ok()?;
        let gain = [".weight", ".gamma"].iter().any(|end| name.ends_with(end));
        let bytes = match (shape.len(), gain) {
            (0 | 1, true) => repeat(self.kind.one, length),
            (0 | 1, false) => vec![0; length],
            _ => noise(name, self.kind, length),
        };
        Some((self.kind.dtype, shape, bytes))
    }

    /// Bytes of all of them together.
    pub(crate) fn total(&self) -> u64 {
        self.shapes.values().map(|shape| self.size(shape)).sum()
    }

    fn size(&self, shape: &[u64]) -> u64 {
        shape.iter().product::<u64>() * self.kind.dtype.bytes()
    }
}

fn repeat(word: u64, length: usize) -> Vec<u8> {
    word.to_le_bytes().into_iter().cycle().take(length).collect()
}

/// Four streams of xorshift side by side, so that they become vector code.
fn noise(name: &str, kind: Type, length: usize) -> Vec<u8> {
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut states = [1u64, 2, 3, 4].map(|i| hash.wrapping_mul(2 * i + 1) | 1);
    let mut bytes = vec![0; length.next_multiple_of(32)];
    for block in bytes.as_chunks_mut::<32>().0 {
        for (state, word) in states.iter_mut().zip(block.as_chunks_mut::<8>().0) {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *word = ((*state & kind.random) | kind.set).to_le_bytes();
        }
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use half::{bf16, f16};

    use super::*;
    use crate::{Imported, import, import_config};

    fn floats(dtype: DType, bytes: &[u8]) -> Vec<f64> {
        match dtype {
            DType::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            DType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect(),
            DType::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
            DType::U32 => Vec::new(),
        }
    }

    /// A model asks for the same tensors whether it finds them or not.
    #[test]
    fn families_ask_for_what_checkpoints_have() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        for name in ["distilbert", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
            let [stored, random] = [import, import_config].map(|import| import(&fixtures.join(name)).unwrap());
            let weights = |model: &Imported| {
                let all = &model.graph.declarations().weights;
                let mut all: Vec<_> = all.iter().map(|w| (w.name.clone(), w.shape.clone())).collect();
                all.sort();
                all
            };
            if name != "distilbert" {
                // An MLM head is not in every checkpoint.
                assert_eq!(weights(&stored), weights(&random), "{name}");
                assert_eq!(stored.info, random.info);
            }
            for (weight, shape) in weights(&random) {
                assert_eq!(random.weights.get(&weight).unwrap().shape, shape, "{name}: {weight}");
            }
            assert!(random.weights.get("absent").is_err() && random.weights.checkpoint_bytes() > 0);
        }
    }

    #[test]
    fn weights_are_spread_as_before_training() {
        for (_, kind) in TYPES {
            let dtype = kind.dtype;
            let shapes = [("a.weight", vec![300, 101]), ("b.weight", vec![300, 101]), ("norm.weight", vec![7])];
            let shapes = shapes.into_iter().chain([("norm.bias", vec![7])]);
            let weights = RandomWeights::new(kind, shapes.map(|(name, shape)| (name.to_owned(), shape)).collect());
            let values = |name: &str| {
                let (found, shape, bytes) = weights.get(name).unwrap();
                assert_eq!((found, bytes.len() as u64), (dtype, shape.iter().product::<u64>() * dtype.bytes()));
                floats(dtype, &bytes)
            };
            let matrix = values("a.weight");
            let count = matrix.len() as f64;
            let mean = matrix.iter().sum::<f64>() / count;
            let deviation = (matrix.iter().map(|x| x * x).sum::<f64>() / count).sqrt();
            assert!(mean.abs() < 1e-3 && (deviation - 0.024).abs() < 1e-3, "{dtype:?}: {mean} {deviation}");
            assert_eq!(matrix, values("a.weight"));
            assert_ne!(matrix, values("b.weight"));
            assert_eq!((values("norm.weight"), values("norm.bias")), (vec![1.0; 7], vec![0.0; 7]));
            assert!(weights.get("absent").is_none());
            assert_eq!(weights.total(), (2 * 300 * 101 + 14) * dtype.bytes());
        }
    }
}
