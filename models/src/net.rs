//! A model under construction: the graph, and the tensors that it has taken from the checkpoint.

use std::collections::BTreeMap;

use warpweft_compiler::graph::{FactError, Graph, Id};
use warpweft_plan::DType;

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;

/// A pointwise function that config.json names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// GELU with the error function.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// x·σ(x)
    Silu,
    /// max(x, 0)
    Relu,
}

impl Activation {
    /// The function of `x`.
    pub(crate) fn apply(self, graph: &mut Graph, x: Id) -> Result<Id, FactError> {
        match self {
            Activation::Gelu => graph.gelu(x),
            Activation::GeluTanh => graph.gelu_tanh(x),
            Activation::Silu => graph.silu(x),
            Activation::Relu => graph.relu(x),
        }
    }
}

/// Whether a layer or a norm has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    /// It has one.
    Yes,
    /// It has none.
    No,
}

impl From<bool> for Bias {
    fn from(yes: bool) -> Bias {
        if yes { Bias::Yes } else { Bias::No }
    }
}

/// What a root-mean-square norm multiplies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gain {
    /// The weight.
    Weight,
    /// One more than the weight, as Gemma has it.
    OnePlusWeight,
}

/// Where a model's tensors come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tensors<'a> {
    /// A checkpoint has them.
    Stored(&'a Checkpoint),
    /// Nobody has them: the model gets what it asks for, in this type. Parts that are not in every checkpoint are left
    /// out.
    Declared(DType),
}

/// A model under construction.
pub(crate) struct Net<'a> {
    /// What has been written so far.
    pub(crate) graph: Graph,
    tensors: Tensors<'a>,
    base: &'static str,
    used: BTreeMap<String, Vec<u64>>,
    generated: BTreeMap<String, Vec<f32>>,
}

/// A model that has been written.
pub(crate) struct Written {
    /// The model.
    pub(crate) graph: Graph,
    /// The vectors that are in no file.
    pub(crate) generated: BTreeMap<String, Vec<f32>>,
    /// Shapes of the tensors that it takes, by name.
    pub(crate) used: BTreeMap<String, Vec<u64>>,
}

impl<'a> Net<'a> {
    /// An empty model over `tensors`.
    pub(crate) fn new(tensors: Tensors<'a>) -> Net<'a> {
        let (graph, used, generated) = (Graph::default(), BTreeMap::new(), BTreeMap::new());
        Net { graph, tensors, base: "", used, generated }
    }

    /// Finds out which of `bases` precedes the names of the base model, by looking for `tensor`. Without it, the
    /// first is taken, and the tensor will be reported as missing.
    pub(crate) fn find_base(&mut self, bases: &[&'static str], tensor: &str) {
        let found = bases.iter().find(|base| self.has(&format!("{base}{tensor}")));
        self.base = found.or(bases.first()).copied().unwrap_or_default();
    }

    /// `name` as the base model has it in this file.
    pub(crate) fn base(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// Whether the file has a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self.tensors {
            Tensors::Stored(checkpoint) => checkpoint.tensor(name).is_some(),
            Tensors::Declared(_) => false,
        }
    }

    /// The tensor that has one of `names`, of that shape.
    ///
    /// # Errors
    /// When there is none, or when shape or type is another.
    pub(crate) fn weight(&mut self, names: &[&str], shape: &[u32]) -> Result<Id, CheckpointError> {
        let shape: Vec<u64> = shape.iter().copied().map(u64::from).collect();
        let checkpoint = match self.tensors {
            Tensors::Stored(checkpoint) => checkpoint,
            Tensors::Declared(dtype) => {
                let name = names.first().copied().unwrap_or_default();
                let node = self.graph.weight(name, dtype, &shape)?;
                self.used.insert(name.to_owned(), shape);
                return Ok(node);
            }
        };
        let Some(tensor) = names.iter().find_map(|name| checkpoint.tensor(name)) else {
            return Err(CheckpointError::MissingTensor {
                file: checkpoint.weights_file(),
                tensor: names.join(" or "),
                expected: format!("shape {shape:?}"),
            });
        };
        if tensor.shape != shape {
            return Err(CheckpointError::Shape {
                file: tensor.file.to_owned(),
                tensor: tensor.name.to_owned(),
                found: tensor.shape.to_owned(),
                expected: shape,
            });
        }
        let Some(dtype) = tensor.stored.weight() else {
            return Err(CheckpointError::Type {
                file: tensor.file.to_owned(),
                tensor: tensor.name.to_owned(),
                found: tensor.stored.name(),
            });
        };
        let node = self.graph.weight(tensor.name, dtype, &shape)?;
        self.used.insert(tensor.name.to_owned(), shape);
        Ok(node)
    }

    /// A vector that is in no file.
    ///
    /// # Errors
    /// As the graph's.
    pub(crate) fn generated(&mut self, name: &str, values: Vec<f32>) -> Result<Id, CheckpointError> {
        let node = self.graph.weight(name, DType::F32, &[values.len() as u64])?;
        self.generated.insert(name.to_owned(), values);
        Ok(node)
    }

    /// `x · weightᵀ + bias`, from `inputs` to `outputs` columns, with the tensors `name.weight` and `name.bias`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(crate) fn linear(
        &mut self,
        x: Id,
        name: &str,
        inputs: u32,
        outputs: u32,
        bias: Bias,
    ) -> Result<Id, CheckpointError> {
        let weight = self.weight(&[&format!("{name}.weight")], &[outputs, inputs])?;
        let bias = match bias {
            Bias::Yes => Some(self.weight(&[&format!("{name}.bias")], &[outputs])?),
            Bias::No => None,
        };
        Ok(self.graph.linear(x, weight, bias)?)
    }

    /// Layer norm over `width` columns with the tensors `name.weight` and `name.bias`, which old checkpoints call
    /// `name.gamma` and `name.beta`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(crate) fn layer_norm(
        &mut self,
        x: Id,
        name: &str,
        width: u32,
        eps: f64,
        bias: Bias,
    ) -> Result<Id, CheckpointError> {
        let gain = self.weight(&[&format!("{name}.weight"), &format!("{name}.gamma")], &[width])?;
        let bias = match bias {
            Bias::Yes => Some(self.weight(&[&format!("{name}.bias"), &format!("{name}.beta")], &[width])?),
            Bias::No => None,
        };
        Ok(self.graph.layer_norm(x, eps as f32, gain, bias)?)
    }

    /// `x / sqrt(mean(x²) + eps) · gain` over `width` columns with the tensor `name.weight`.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub(crate) fn rms_norm(
        &mut self,
        x: Id,
        name: &str,
        width: u32,
        eps: f64,
        gain: Gain,
    ) -> Result<Id, CheckpointError> {
        let weight = self.weight(&[&format!("{name}.weight")], &[width])?;
        let normed = self.graph.rms_norm(x, eps as f32)?;
        let gain = match gain {
            Gain::Weight => weight,
            Gain::OnePlusWeight => {
                let one = self.graph.real(1.0)?;
                self.graph.plus(weight, one)?
            }
        };
        Ok(self.graph.times(normed, gain)?)
    }

    /// The rows of `table` that the token ids select.
    ///
    /// # Errors
    /// As the graph's.
    pub(crate) fn embed(&mut self, table: Id) -> Result<Id, CheckpointError> {
        let ids = self.graph.token_ids()?;
        Ok(self.graph.gather(table, ids)?)
    }

    /// The rows of `table` that the positions select.
    ///
    /// # Errors
    /// As the graph's.
    pub(crate) fn embed_positions(&mut self, table: Id) -> Result<Id, CheckpointError> {
        let positions = self.graph.positions()?;
        Ok(self.graph.gather(table, positions)?)
    }

    /// The whole model.
    ///
    /// # Errors
    /// When the checkpoint has tensors that were not asked for and that do not match `unused`.
    pub(crate) fn finish(self, unused: &[&str]) -> Result<Written, CheckpointError> {
        let strangers = match self.tensors {
            Tensors::Stored(checkpoint) => self.strangers(checkpoint, unused),
            Tensors::Declared(_) => None,
        };
        let Net { graph, generated, used, .. } = self;
        strangers.map_or(Ok(Written { graph, generated, used }), Err)
    }

    /// The error that the checkpoint has tensors which were not asked for and which do not match `unused`.
    fn strangers(&self, checkpoint: &Checkpoint, unused: &[&str]) -> Option<CheckpointError> {
        let known = |name: &str| {
            let bare = name.strip_prefix(self.base).unwrap_or(name);
            unused.iter().any(|pattern| {
                if let Some(end) = pattern.strip_prefix('*') {
                    name.ends_with(end)
                } else if pattern.ends_with('.') {
                    name.starts_with(pattern) || bare.starts_with(pattern)
                } else {
                    name == *pattern || bare == *pattern
                }
            })
        };
        let mut strangers = checkpoint.names().filter(|name| !self.used.contains_key(*name) && !known(name));
        let tensor = strangers.next().and_then(|first| checkpoint.tensor(first))?;
        Some(CheckpointError::UnusedTensors {
            file: tensor.file.to_owned(),
            tensor: tensor.name.to_owned(),
            shape: tensor.shape.to_owned(),
            count: 1 + strangers.count(),
        })
    }
}
