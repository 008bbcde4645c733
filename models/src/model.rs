//! A whole checkpoint as the compiler takes it: graph, weights, and what users may ask of the model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use warpweft_compiler::graph::{Element, Graph};
use warpweft_compiler::weights::{WeightError, WeightSource};
use warpweft_plan::{Assets, Model, OutputKind};

use crate::checkpoint::{Checkpoint, read_optional};
use crate::config::Config;
use crate::error::CheckpointError;
use crate::families::{Family, Parts, family};
use crate::generation::{read_assets, read_eos_ids};
use crate::net::{Net, Tensors, Written};
use crate::quantized::{Quantization, Quantized};
use crate::random::{RandomWeights, Type};
use crate::sentence::{Pooling, Sentence, read_sentence};

/// A checkpoint that has been read.
#[derive(Debug)]
pub struct Imported {
    /// What the model computes. The outputs of an encoder are `hidden`, `embedding` and, with a head over the vocabulary,
    /// `logits`; those of a decoder `hidden`, `logits`, `next`, `candidates` and, if the folder is one of
    /// sentence-transformers, `embedding`.
    pub graph: Graph,
    /// The values of the graph's weights.
    pub weights: Weights,
    /// What the plan says of the model.
    pub info: Model,
    /// The texts that go with the model, as far as the folder has them: tokenizer.json (whose truncation and padding
    /// are to be ignored: [`Model::max_text_tokens`] is the limit), tokenizer_config.json, generation_config.json and
    /// the chat template.
    pub assets: Assets,
}

/// A weight's values.
#[derive(Clone, Debug)]
pub struct Weight<'a> {
    /// What its elements are.
    pub dtype: Element,
    /// Row-major shape.
    pub shape: &'a [u64],
    /// Its elements, little-endian, in no particular alignment.
    pub bytes: Cow<'a, [u8]>,
}

/// The values of a graph's weights, by name.
#[derive(Debug)]
pub struct Weights {
    values: Values,
    generated: BTreeMap<String, Generated>,
}

#[derive(Debug)]
enum Values {
    Stored(Checkpoint, BTreeMap<String, Quantized>),
    Random(RandomWeights),
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
            return Ok(Weight { dtype: Element::F32, shape, bytes: Cow::Borrowed(bytes) });
        }
        let missing = |file: PathBuf| CheckpointError::MissingTensor {
            file,
            tensor: name.to_owned(),
            expected: "a weight of the model".to_owned(),
        };
        match &self.values {
            Values::Stored(checkpoint, quantized) => {
                if let Some(weight) = quantized.get(name) {
                    let bytes = Cow::Owned(weight.read(checkpoint)?);
                    return Ok(Weight { dtype: weight.format().into(), shape: weight.shape(), bytes });
                }
                let missing = || missing(checkpoint.weights_file());
                let tensor = checkpoint.tensor(name).ok_or_else(missing)?;
                let dtype = tensor.stored.weight().ok_or_else(missing)?;
                tensor.check_finite()?;
                Ok(Weight { dtype: dtype.into(), shape: tensor.shape, bytes: Cow::Borrowed(tensor.bytes) })
            }
            Values::Random(random) => {
                let (dtype, shape, bytes) = random.get(name).ok_or_else(|| missing("config.json".into()))?;
                Ok(Weight { dtype: dtype.into(), shape, bytes: Cow::Owned(bytes) })
            }
        }
    }

    /// Bytes of the checkpoint's files, or of the values that stand in for them.
    pub fn checkpoint_bytes(&self) -> u64 {
        match &self.values {
            Values::Stored(checkpoint, _) => checkpoint.bytes(),
            Values::Random(random) => random.total(),
        }
    }
}

impl WeightSource for Weights {
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        self.get(name).map(|weight| weight.bytes).map_err(|error| WeightError { problem: error.to_string() })
    }

    fn release(&self, name: &str) {
        match &self.values {
            Values::Stored(checkpoint, quantized) => match quantized.get(name) {
                Some(weight) => weight.parts().iter().for_each(|part| checkpoint.release(part)),
                None => checkpoint.release(name),
            },
            Values::Random(_) => {}
        }
    }
}

/// Reads a checkpoint folder and writes its model as a graph.
///
/// # Errors
/// When the folder is no checkpoint, is damaged, or holds a model that is not supported.
pub fn import(folder: &Path) -> Result<Imported, CheckpointError> {
    let sentence = read_sentence(folder)?;
    let checkpoint = Checkpoint::open(&sentence.transformer)?;
    let config = read_config(&sentence.transformer)?;
    let quantization = Quantization::read(&config)?;
    let model = build(&config, Tensors::Stored(&checkpoint, quantization.as_ref()), &sentence)?;
    finish(folder, &sentence, &config, model, |_, quantized| Values::Stored(checkpoint, quantized))
}

/// Reads config.json and what else is there, but no weights: random ones take their place. For measurements, which don't
/// need the numbers to mean anything. The model has no parts that only some checkpoints have, such as an MLM head.
///
/// # Errors
/// When the folder has no config.json, or that of a model that is quantized or not supported.
pub fn import_config(folder: &Path) -> Result<Imported, CheckpointError> {
    let sentence = read_sentence(folder)?;
    let config = read_config(&sentence.transformer)?;
    if let Some(quantization) = Quantization::read(&config)? {
        return Err(CheckpointError::Field {
            file: config.file().to_owned(),
            field: "quantization_config".to_owned(),
            found: quantization.name().to_owned(),
            expected: "none, where random weights take the place of those of the checkpoint: take it out, and let \
                       weights be quantized when they are packed"
                .to_owned(),
        });
    }
    let kind = Type::read(&config)?;
    let model = build(&config, Tensors::Declared(kind.dtype()), &sentence)?;
    finish(folder, &sentence, &config, model, |shapes, _| Values::Random(RandomWeights::new(kind, shapes)))
}

/// Whether a folder has weights that [`import`] reads.
///
/// # Errors
/// When it is no folder, or its modules.json is damaged.
pub fn has_weights(folder: &Path) -> Result<bool, CheckpointError> {
    let sentence = read_sentence(folder)?;
    Ok(["model.safetensors", "model.safetensors.index.json"]
        .iter()
        .any(|name| sentence.transformer.join(name).exists()))
}

fn read_config(folder: &Path) -> Result<Config, CheckpointError> {
    let text = read_optional(folder, "config.json")?;
    let text = text.ok_or_else(|| CheckpointError::NoConfig { folder: folder.to_owned() })?;
    Config::parse(&folder.join("config.json"), &text)
}

/// A model whose weights have no values yet.
struct Built {
    family: &'static Family,
    parts: Parts,
    written: Written,
}

fn build(config: &Config, tensors: Tensors<'_>, sentence: &Sentence) -> Result<Built, CheckpointError> {
    let family = family(config)?;
    let mut net = Net::new(tensors);
    let parts = (family.build)(config, &mut net)?;
    add_outputs(&mut net.graph, &parts, sentence)?;
    Ok(Built { family, parts, written: net.finish(family.unused)? })
}

/// Adds all that is not the graph. `values` gets the shapes of the weights by name, and those that are quantized.
fn finish(
    folder: &Path,
    sentence: &Sentence,
    config: &Config,
    model: Built,
    values: impl FnOnce(BTreeMap<String, Vec<u64>>, BTreeMap<String, Quantized>) -> Values,
) -> Result<Imported, CheckpointError> {
    let Built { family, parts, written: Written { graph, generated, quantized, used } } = model;
    let eos_ids =
        if parts.next.is_some() { read_eos_ids(&sentence.transformer, config, parts.vocab_size)? } else { Vec::new() };
    let info = Model {
        name: folder_name(folder),
        family: family.model_type.to_owned(),
        layers: parts.layers,
        vocab_size: parts.vocab_size,
        max_positions: parts.max_positions,
        max_text_tokens: sentence.max_tokens.map_or(parts.max_positions, |n| n.min(parts.max_positions)),
        eos_ids,
    };
    let generated = generated
        .into_iter()
        .map(|(name, values)| {
            let shape = [values.len() as u64];
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, Generated { shape, bytes })
        })
        .collect();
    let assets = read_assets(&sentence.transformer)?;
    Ok(Imported { graph, weights: Weights { values: values(used, quantized), generated }, info, assets })
}

/// How many candidates for the next token a decoder's `candidates` has, if its vocabulary has as many.
const CANDIDATES: u32 = 256;

/// Names the results.
fn add_outputs(graph: &mut Graph, parts: &Parts, sentence: &Sentence) -> Result<(), CheckpointError> {
    graph.add_output(OutputKind::Hidden.name(), parts.hidden);
    // A folder without modules.json gets a mean from sentence-transformers, which says little of a decoder.
    if parts.next.is_none() || sentence.declared {
        add_embedding(graph, parts, sentence)?;
    }
    if let Some(logits) = parts.logits {
        graph.add_output(OutputKind::Logits.name(), logits);
    }
    if let Some(next) = parts.next {
        graph.add_output(OutputKind::Next.name(), next);
        let candidates = graph.candidates(next, CANDIDATES.min(parts.vocab_size))?;
        graph.add_output(OutputKind::Candidates.name(), candidates);
    }
    Ok(())
}

fn add_embedding(graph: &mut Graph, parts: &Parts, sentence: &Sentence) -> Result<(), CheckpointError> {
    sentence.check_width(parts.width)?;
    let pooled = match sentence.pooling {
        Pooling::Mean => graph.mean_pool(parts.hidden)?,
        Pooling::First => graph.first_row(parts.hidden)?,
        Pooling::Max => graph.max_pool(parts.hidden)?,
    };
    // The epsilon of torch.nn.functional.normalize, which sentence-transformers calls.
    let embedding = if sentence.normalize { graph.l2_norm(pooled, 1e-12)? } else { pooled };
    graph.add_output(OutputKind::Embedding.name(), embedding);
    Ok(())
}

/// The folder's own name, for people.
fn folder_name(folder: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // A path such as `.` has no name until it is resolved.
    name(folder).or_else(|| name(&folder.canonicalize().ok()?)).unwrap_or_else(|| "model".to_owned())
}
