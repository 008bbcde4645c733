//! A model under construction: the graph, and the tensors that it has taken from the checkpoint.

use std::collections::BTreeMap;

use warpweft_compiler::graph::{FactError, Graph, Id};
use warpweft_plan::DType;

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::quantized::{self, Quantization, Quantized};

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
    /// A checkpoint has them, some of them quantized.
    Stored(&'a Checkpoint, Option<&'a Quantization>),
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
    quantized: BTreeMap<String, Quantized>,
    generated: BTreeMap<String, Vec<f32>>,
    /// The order of columns that was asked for last, and its vector.
    order: Option<(Vec<u32>, Id)>,
}

/// A model that has been written.
pub(crate) struct Written {
    /// The model.
    pub(crate) graph: Graph,
    /// The vectors that are in no file.
    pub(crate) generated: BTreeMap<String, Vec<f32>>,
    /// The weights that are stored quantized, by name.
    pub(crate) quantized: BTreeMap<String, Quantized>,
    /// Shapes of the tensors that it takes, by name.
    pub(crate) used: BTreeMap<String, Vec<u64>>,
}

/// A weight that rows are multiplied with.
pub(crate) struct Projection {
    /// `[outputs, inputs]`
    pub(crate) weight: Id,
    /// The tensor.
    name: String,
    /// The order of its columns, where that is not their own.
    order: Option<Vec<u32>>,
}

impl<'a> Net<'a> {
    /// An empty model over `tensors`.
    pub(crate) fn new(tensors: Tensors<'a>) -> Net<'a> {
        let (used, quantized, generated) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Net { graph: Graph::default(), tensors, base: "", used, quantized, generated, order: None }
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
            Tensors::Stored(checkpoint, quantization) => {
                checkpoint.tensor(name).is_some() || quantization.is_some_and(|q| q.has(checkpoint, name))
            }
            Tensors::Declared(_) => false,
        }
    }

    /// The tensor that has one of `names`, of that shape; of one that is stored quantized, the values.
    ///
    /// # Errors
    /// When there is none, when shape or type is another, and when its columns are stored in another order than their own.
    pub(crate) fn weight(&mut self, names: &[&str], shape: &[u32]) -> Result<Id, CheckpointError> {
        let Projection { weight, name, order } = self.projection(names, shape)?;
        match (order, self.tensors) {
            (Some(_), Tensors::Stored(checkpoint, _)) => Err(CheckpointError::Quantized {
                file: checkpoint.weights_file(),
                tensor: name,
                found: "columns in activation order".to_owned(),
                expected: "columns in their own order, where more is done than to multiply with the weight".to_owned(),
            }),
            _ => Ok(weight),
        }
    }

    /// The same for a weight that rows are only multiplied with: its columns may be stored in any order, and rows have to
    /// be brought into that order by [`Net::facing`].
    ///
    /// # Errors
    /// When there is none, and when shape or type is another.
    pub(crate) fn projection(&mut self, names: &[&str], shape: &[u32]) -> Result<Projection, CheckpointError> {
        let shape: Vec<u64> = shape.iter().copied().map(u64::from).collect();
        let (checkpoint, quantization) = match self.tensors {
            Tensors::Stored(checkpoint, quantization) => (checkpoint, quantization),
            Tensors::Declared(dtype) => {
                let name = names.first().copied().unwrap_or_default();
                let weight = self.graph.weight(name, dtype, &shape)?;
                self.used.insert(name.to_owned(), shape);
                return Ok(Projection { weight, name: name.to_owned(), order: None });
            }
        };
        if let Some(quantization) = quantization {
            for name in names {
                if let Some(found) = quantization.find(checkpoint, name, &shape)? {
                    return self.quantized(checkpoint, name, &shape, found);
                }
                if checkpoint.tensor(name).is_some() {
                    break;
                }
            }
        }
        let Some(tensor) = names.iter().find_map(|name| checkpoint.tensor(name)) else {
            let other = names.iter().find_map(|name| quantized::other(checkpoint, name));
            let hint =
                other.map(|other| format!("; {other} is there, which needs a quantization_config in config.json"));
            return Err(CheckpointError::MissingTensor {
                file: checkpoint.weights_file(),
                tensor: names.join(" or "),
                expected: format!("shape {shape:?}{}", hint.unwrap_or_default()),
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
                expected: "F32, F16 or BF16".to_owned(),
            });
        };
        let weight = self.graph.weight(tensor.name, dtype, &shape)?;
        self.used.insert(tensor.name.to_owned(), shape);
        Ok(Projection { weight, name: tensor.name.to_owned(), order: None })
    }

    /// Takes a weight that is stored quantized.
    fn quantized(
        &mut self,
        checkpoint: &Checkpoint,
        name: &str,
        shape: &[u64],
        found: Quantized,
    ) -> Result<Projection, CheckpointError> {
        let stored = self.graph.weight(name, found.format(), shape)?;
        let weight = self.graph.dequantize(stored)?;
        for part in found.parts() {
            let shape = checkpoint.tensor(part).map_or_else(Vec::new, |tensor| tensor.shape.to_owned());
            self.used.insert(part.clone(), shape);
        }
        let order = found.order().map(<[u32]>::to_vec);
        self.quantized.insert(name.to_owned(), found);
        Ok(Projection { weight, name: name.to_owned(), order })
    }

    /// `x` with its columns in the order in which those of the projection are stored.
    ///
    /// # Errors
    /// As the graph's.
    pub(crate) fn facing(&mut self, x: Id, projection: &Projection) -> Result<Id, CheckpointError> {
        let Some(order) = &projection.order else { return Ok(x) };
        let index = match &self.order {
            // Weights that share their input were quantized in one order.
            Some((known, index)) if known == order => *index,
            _ => {
                // Sizes are bounded, so that f32 has each number.
                let values = order.iter().map(|&column| column as f32).collect();
                let index = self.generated(&format!("order of {}", projection.name), values)?;
                self.order = Some((order.clone(), index));
                index
            }
        };
        Ok(self.graph.gather_columns(x, index)?)
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
        let weight = format!("{name}.weight");
        let projection = self.projection(&[&weight], &[outputs, inputs])?;
        let x = self.facing(x, &projection)?;
        let bias_name = format!("{name}.bias");
        let bias = match bias {
            Bias::Yes => Some(self.weight(&[&bias_name], &[outputs])?),
            Bias::No => {
                self.pass_over_zeros(&weight, &bias_name);
                None
            }
        };
        Ok(self.graph.linear(x, projection.weight, bias)?)
    }

    /// [`Net::linear`] with a bias, for families whose checkpoints have the weight as `[inputs, outputs]`. Quantizers
    /// replace such a layer by one whose weight is `[outputs, inputs]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(crate) fn linear_by_inputs(
        &mut self,
        x: Id,
        name: &str,
        inputs: u32,
        outputs: u32,
    ) -> Result<Id, CheckpointError> {
        let weight = format!("{name}.weight");
        let is_quantized = match self.tensors {
            Tensors::Stored(checkpoint, quantization) => quantization.is_some_and(|q| q.has(checkpoint, &weight)),
            Tensors::Declared(_) => false,
        };
        if is_quantized {
            return self.linear(x, name, inputs, outputs, Bias::Yes);
        }
        let weight = self.weight(&[&weight], &[inputs, outputs])?;
        let bias = self.weight(&[&format!("{name}.bias")], &[outputs])?;
        let y = self.graph.matmul(x, weight)?;
        Ok(self.graph.plus(y, bias)?)
    }

    /// Takes note of a bias that the model does not have, where it is nothing but zeros: some quantizers give one to every
    /// layer that they replace.
    fn pass_over_zeros(&mut self, weight: &str, bias: &str) {
        if let Tensors::Stored(checkpoint, _) = self.tensors
            && self.quantized.contains_key(weight)
            && let Some(tensor) = checkpoint.tensor(bias)
            && tensor.bytes.iter().all(|&byte| byte == 0)
        {
            self.used.insert(bias.to_owned(), tensor.shape.to_owned());
        }
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
            Tensors::Stored(checkpoint, quantization) => {
                let unused: Vec<&str> = [unused, quantization.map_or(&[], Quantization::unused)].concat();
                self.strangers(checkpoint, &unused)
            }
            Tensors::Declared(_) => None,
        };
        let Net { graph, generated, quantized, used, .. } = self;
        strangers.map_or(Ok(Written { graph, generated, quantized, used }), Err)
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
