//! What Hugging Face transformers computes for a fixture.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::fixture;

/// `reference.safetensors` of a fixture.
pub struct Reference(Vec<u8>);

/// A text of the batch.
pub struct Text {
    /// Its token ids, without padding.
    pub ids: Vec<u32>,
    /// Its last hidden state, a row per token.
    pub hidden: Vec<f32>,
    /// Its vector.
    pub pooled: Vec<f32>,
    /// The first [`Reference::BATCH_LOGITS`] logits of each token, where the class has a head.
    pub logits: Option<Vec<f32>>,
}

impl Reference {
    /// Columns of a [`Text`]'s logits.
    pub const BATCH_LOGITS: usize = 32;

    /// That of a fixture.
    pub fn of(name: &str) -> Reference {
        Reference::of_file(&fixture(name).join("reference.safetensors"))
    }

    /// That in a file.
    pub fn of_file(file: &Path) -> Reference {
        Reference(fs::read(file).unwrap())
    }

    /// Whether it has a tensor.
    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    /// Shape and bytes of a tensor.
    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    /// The elements of an f32 tensor.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.tensor(name).1.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// The elements of an f64 tensor.
    pub fn doubles(&self, name: &str) -> Vec<f64> {
        self.tensor(name).1.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    }

    /// The tensors' names.
    pub fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.0).unwrap().names().into_iter().map(str::to_owned).collect()
    }

    /// The elements of an i64 tensor of ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.tensor(name).1.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    }

    /// The texts of the padded batch, each without its padding.
    pub fn texts(&self) -> Vec<Text> {
        let longest = self.tensor("batch_input_ids").0[1];
        let (ids, mask) = (self.ids("batch_input_ids"), self.ids("batch_attention_mask"));
        let (hidden, pooled) = (self.floats("batch_last_hidden_state"), self.floats("batch_pooled"));
        let logits = self.has("batch_logits").then(|| self.floats("batch_logits"));
        let width = self.tensor("batch_pooled").0[1];
        let rows = |all: &[f32], columns: usize, text: usize, count: usize| {
            all[text * longest * columns..][..count * columns].to_vec()
        };
        let text = |i: usize, ids: &[u32], mask: &[u32]| {
            let count = mask.iter().sum::<u32>() as usize;
            Text {
                ids: ids[..count].to_vec(),
                hidden: rows(&hidden, width, i, count),
                pooled: pooled[i * width..][..width].to_vec(),
                logits: logits.as_ref().map(|logits| rows(logits, Self::BATCH_LOGITS, i, count)),
            }
        };
        ids.chunks(longest).zip(mask.chunks(longest)).enumerate().map(|(i, (ids, mask))| text(i, ids, mask)).collect()
    }
}
