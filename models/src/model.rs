//! A whole checkpoint as the compiler takes it: graph, weights, and what users may ask of the model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use warpweft_compiler::graph::Graph;
use warpweft_compiler::weights::{WeightError, WeightSource};
use warpweft_plan::{DType, Model, OutputKind};

use crate::checkpoint::{Checkpoint, read_optional};
use crate::config::Config;
use crate::error::CheckpointError;
use crate::families::{Parts, family};
use crate::net::Net;
use crate::sentence::{Pooling, Sentence, read_sentence, read_tokenizer};

/// A checkpoint that has been read.
#[derive(Debug)]
pub struct Imported {
    /// What the model computes. Its outputs are `hidden`, `embedding` and, with a head over the vocabulary, `logits`.
    pub graph: Graph,
    /// The values of the graph's weights.
    pub weights: Weights,
    /// What the plan says of the model.
    pub info: Model,
    /// The text of tokenizer.json, if the folder has one. Its truncation and padding are to be ignored:
    /// [`Model::max_text_tokens`] is the limit.
    pub tokenizer: Option<String>,
}

/// A weight's values.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Type of its elements.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: &'a [u64],
    /// Its elements, little-endian, in no particular alignment.
    pub bytes: &'a [u8],
}

/// The values of a graph's weights, by name.
#[derive(Debug)]
pub struct Weights {
    checkpoint: Checkpoint,
    generated: BTreeMap<String, Generated>,
}

#[derive(Debug)]
struct Generated {
    shape: [u64; 1],
    bytes: Vec<u8>,
}

impl Weights {
    /// The weight that the graph calls `name`; all its values are finite.
    ///
    /// # Errors
    /// When there is none, or when a value is NaN or infinite.
    pub fn get(&self, name: &str) -> Result<Weight<'_>, CheckpointError> {
        if let Some(Generated { shape, bytes }) = self.generated.get(name) {
            return Ok(Weight { dtype: DType::F32, shape, bytes });
        }
        let missing = || CheckpointError::MissingTensor {
            file: self.checkpoint.weights_file(),
            tensor: name.to_owned(),
            expected: "a weight of the model".to_owned(),
        };
        let tensor = self.checkpoint.tensor(name).ok_or_else(missing)?;
        let dtype = tensor.stored.weight().ok_or_else(missing)?;
        tensor.check_finite()?;
        Ok(Weight { dtype, shape: tensor.shape, bytes: tensor.bytes })
    }

    /// Bytes of the checkpoint's files.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoint.bytes()
    }
}

impl WeightSource for Weights {
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        match self.get(name) {
            Ok(weight) => Ok(Cow::Borrowed(weight.bytes)),
            Err(error) => Err(WeightError { problem: error.to_string() }),
        }
    }

    fn release(&self, name: &str) {
        self.checkpoint.release(name);
    }
}

/// Reads a checkpoint folder and writes its model as a graph.
///
/// # Errors
/// When the folder is no checkpoint, is damaged, or holds a model that is not supported.
pub fn import(folder: &Path) -> Result<Imported, CheckpointError> {
    let sentence = read_sentence(folder)?;
    let checkpoint = Checkpoint::open(&sentence.transformer)?;
    let text = read_optional(&sentence.transformer, "config.json")?.unwrap_or_default();
    let config = Config::parse(&sentence.transformer.join("config.json"), &text)?;
    let family = family(&config)?;
    let mut net = Net::new(&checkpoint);
    let parts = (family.build)(&config, &mut net)?;
    add_outputs(&mut net.graph, &parts, &sentence)?;
    let (graph, generated) = net.finish(family.unused)?;
    let info = Model {
        name: folder_name(folder),
        family: family.model_type.to_owned(),
        layers: parts.layers,
        vocab_size: parts.vocab_size,
        max_positions: parts.max_positions,
        max_text_tokens: sentence.max_tokens.map_or(parts.max_positions, |n| n.min(parts.max_positions)),
        eos_ids: Vec::new(),
    };
    let generated = generated
        .into_iter()
        .map(|(name, values)| {
            let shape = [values.len() as u64];
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, Generated { shape, bytes })
        })
        .collect();
    let tokenizer = read_tokenizer(&sentence.transformer)?;
    Ok(Imported { graph, weights: Weights { checkpoint, generated }, info, tokenizer })
}

/// Names the results: `hidden`, `embedding`, and `logits` where there is a head.
fn add_outputs(graph: &mut Graph, parts: &Parts, sentence: &Sentence) -> Result<(), CheckpointError> {
    sentence.check_width(parts.width)?;
    graph.add_output(OutputKind::Hidden.name(), parts.hidden);
    let pooled = match sentence.pooling {
        Pooling::Mean => graph.mean_pool(parts.hidden)?,
        Pooling::First => graph.first_row(parts.hidden)?,
        Pooling::Max => graph.max_pool(parts.hidden)?,
    };
    // The epsilon of torch.nn.functional.normalize, which sentence-transformers calls.
    let embedding = if sentence.normalize { graph.l2_norm(pooled, 1e-12)? } else { pooled };
    graph.add_output(OutputKind::Embedding.name(), embedding);
    if let Some(logits) = parts.logits {
        graph.add_output(OutputKind::Logits.name(), logits);
    }
    Ok(())
}

/// The folder's own name, for people.
fn folder_name(folder: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // A path such as `.` has no name until it is resolved.
    name(folder).or_else(|| name(&folder.canonicalize().ok()?)).unwrap_or_else(|| "model".to_owned())
}
