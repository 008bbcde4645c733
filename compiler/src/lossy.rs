//! The lossy stage: large weights are rounded to quantized formats, where that was asked for.
//!
//! Rounding is not an equality, so it is no rule: this stage puts `(dequantize (quantize FORMAT w))` in the place of `w` in
//! the model's own graph, before it is rolled, and exact rules let kernels read what was rounded as it is stored.
//!
//! What is rounded is what a contraction reads, one row for each of its columns, so a weight that a checkpoint keeps
//! transposed is transposed first; and the tables from which rows are gathered. Weights that come quantized stay as they are.
//!
//! Then, where that was asked for too, the activations that meet int8 weights are rounded by row, in the same way and for the
//! same reason: what is computed is then the same however many rows there are and whatever kernel is chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use egg::Id;
use warpweft_plan::DType;

use crate::formats::{Format, Group, UnknownFormat};
use crate::graph::{FactError, Graph, Op};

/// Fewer elements are kept as they are: they save nothing.
const FEWEST_ELEMENTS: i64 = 4096;
/// Narrower rows are kept: a row's scale would weigh as much as its codes.
const NARROWEST: i64 = 32;

/// Which weights are rounded, and to what.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Quantization {
    /// None.
    #[default]
    None,
    /// All large ones.
    All(Scheme),
    /// Those of these names, in the checkpoint, each to a format of its own. Of a product of several weights, such as one
    /// with a gain, the first matrix gives the name.
    Chosen(BTreeMap<String, Format>),
}

/// Formats for all large weights of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Of the matrices of the layers.
    pub matrices: Format,
    /// Of what stands before and after the layers, the embedding and the head: they meet every token and are more
    /// sensitive. `None` keeps them.
    pub ends: Option<Format>,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ends {
            Some(ends) if ends == self.matrices => write!(f, "{}", self.matrices),
            Some(ends) => write!(f, "{} with embedding and head {ends}", self.matrices),
            None => write!(f, "{} with embedding and head kept", self.matrices),
        }
    }
}

impl FromStr for Scheme {
    type Err = UnknownFormat;

    /// The name of a quantized format, or `int8` for `int8-g128`, `int8-row` for one scale a row, `int4` for `int4-g32` and `fp8`
    /// for `fp8-g128`. Embedding and head are bytes with a scale for each row; with `fp8`, whose three bits of mantissa lose
    /// more than they save there, they are kept.
    fn from_str(text: &str) -> Result<Scheme, UnknownFormat> {
        let matrices = match text {
            // One scale a row loses more than a thousandth of the cosine on encoders: some columns are far out.
            "int8" => Format::Int8(Group::Of(128)),
            "int8-row" => Format::Int8(Group::Row),
            "int4" => Format::Int4 { group: Group::Of(32), zeros: true },
            "fp8" => Format::Fp8(Group::Of(128)),
            other => other.parse()?,
        };
        let ends = match matrices {
            Format::F32 | Format::F16 | Format::Bf16 => return Err(UnknownFormat { found: text.to_owned() }),
            Format::Fp8(_) => None,
            Format::Int8(_) | Format::Int4 { .. } | Format::Mxfp4 | Format::Nf4(_) => Some(Format::Int8(Group::Row)),
        };
        Ok(Scheme { matrices, ends })
    }
}

/// What becomes of the activations that contractions read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// They stay 32-bit floats.
    #[default]
    Floats,
    /// Where int8 weights are contracted with them, each row is rounded to signed bytes and a scale of its own, so that
    /// kernels may compute with integers.
    Int8,
}

impl Activations {
    /// What they are stored as; `None` for floats.
    pub fn format(self) -> Option<Format> {
        match self {
            Activations::Floats => None,
            Activations::Int8 => Some(Format::Int8(Group::Row)),
        }
    }
}

/// A weight that was rounded.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounding {
    /// Its name in the checkpoint.
    pub weight: String,
    /// What it was rounded to.
    pub format: Format,
    /// Its rows as they are rounded, over the checkpoint's weights: one output.
    pub rows: Graph,
}

impl Rounding {
    /// Rows and columns.
    pub fn shape(&self) -> [u64; 2] {
        let fact = self.rows.outputs().first().and_then(|output| self.rows.node(output.id).fact.tensor());
        let size = |axis: usize| fact.and_then(|t| t.shape.get(axis)?.as_constant()).map_or(0, i64::unsigned_abs);
        [size(0), size(1)]
    }
}

/// The graph with its large weights rounded, and which these are.
///
/// # Errors
/// None in practice: a rounded matrix has the shape of the matrix.
pub fn round_weights(graph: &Graph, choice: &Quantization) -> Result<(Graph, Vec<Rounding>), FactError> {
    let mut stage =
        Stage { graph, choice, rounded: Graph::with_declarations(graph.declarations().clone()), roundings: Vec::new() };
    let mut copies: Vec<Id> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        stage.rounded.set_layer(node.layer);
        let mut op = egg::Language::map_children(node.op.clone(), |c| copies[usize::from(c)]);
        match (&node.op, &mut op) {
            (Op::MatMul([_, weight]), Op::MatMul([_, copy])) => {
                // A kernel reads a row of the weight for each column of the product.
                *copy = match graph.node(*weight).op {
                    Op::Transpose([stored]) => match stage.round(stored, copies[usize::from(stored)], node.layer)? {
                        Some(rounded) => stage.rounded.transpose(rounded)?,
                        None => *copy,
                    },
                    _ if stage.format(*weight, node.layer).is_some() => {
                        let rows = stage.rounded.transpose(*copy)?;
                        let rounded = stage.round(*weight, rows, node.layer)?.unwrap_or(rows);
                        stage.rounded.transpose(rounded)?
                    }
                    _ => *copy,
                };
            }
            (Op::Gather([table, _]), Op::Gather([copy, _])) => {
                *copy = stage.round(*table, *copy, node.layer)?.unwrap_or(*copy);
            }
            _ => {}
        }
        copies.push(stage.rounded.add(op)?);
    }
    for output in graph.outputs() {
        stage.rounded.add_output(output.name.clone(), copies[usize::from(output.id)]);
    }
    Ok((stage.rounded, stage.roundings))
}

/// The graph with the activations that meet int8 weights rounded, and how many matrices of them there are: in the place of x
/// stands `(dequantize (quantize int8 x))`, which contractions of the same x share.
///
/// # Errors
/// None in practice: a rounded matrix has the shape of the matrix.
pub fn round_activations(graph: &Graph, format: Format) -> Result<(Graph, usize), FactError> {
    let mut rounded = Graph::with_declarations(graph.declarations().clone());
    let mut copies: Vec<Id> = Vec::with_capacity(graph.nodes().len());
    let mut inputs: BTreeSet<Id> = BTreeSet::new();
    for node in graph.nodes() {
        rounded.set_layer(node.layer);
        let mut op = egg::Language::map_children(node.op.clone(), |c| copies[usize::from(c)]);
        if let (Op::MatMul([x, weight]), Op::MatMul([copy, _])) = (&node.op, &mut op)
            && meets_integers(graph, *x, *weight)
        {
            let quantized = rounded.quantize(*copy, format)?;
            *copy = rounded.dequantize(quantized)?;
            inputs.insert(*x);
        }
        copies.push(rounded.add(op)?);
    }
    for output in graph.outputs() {
        rounded.add_output(output.name.clone(), copies[usize::from(output.id)]);
    }
    Ok((rounded, inputs.len()))
}

/// A matrix of activations and the columns of an int8 weight, one after the other as kernels read them.
fn meets_integers(graph: &Graph, x: Id, weight: Id) -> bool {
    let is_activation = |id: Id| graph.node(id).fact.tensor().is_some_and(|t| !t.constant && t.shape.len() == 2);
    let Op::Transpose([rows]) = graph.node(weight).op else { return false };
    let integers = match graph.node(rows).op {
        Op::Dequantize([stored]) => {
            graph.node(stored).fact.tensor().is_some_and(|t| t.constant && t.dtype.is_integers())
        }
        _ => false,
    };
    integers && is_activation(x)
}

struct Stage<'g> {
    graph: &'g Graph,
    choice: &'g Quantization,
    rounded: Graph,
    roundings: Vec<Rounding>,
}

impl Stage<'_> {
    /// `rows`, which has the values of `weight` row by row, rounded; `None` where it is kept.
    fn round(&mut self, weight: Id, rows: Id, layer: Option<u32>) -> Result<Option<Id>, FactError> {
        let Some((name, format)) = self.format(weight, layer) else { return Ok(None) };
        // An embedding that is the head too is one weight.
        if !self.roundings.iter().any(|known| known.weight == name && known.format == format) {
            let mut expression = Graph::default();
            let value = copy(&self.rounded, rows, &mut expression)?;
            expression.add_output("value", value);
            self.roundings.push(Rounding { weight: name, format, rows: expression });
        }
        let quantized = self.rounded.quantize(rows, format)?;
        Ok(Some(self.rounded.dequantize(quantized)?))
    }

    /// The name and the format of a weight that is to be rounded.
    fn format(&self, weight: Id, layer: Option<u32>) -> Option<(String, Format)> {
        let t = self.graph.node(weight).fact.tensor().filter(|t| t.constant && t.dtype.plain().is_some())?;
        let [rows, width] = t.shape[..] else { return None };
        let (rows, width) = (rows.as_constant()?, width.as_constant()?);
        if t.dtype == DType::U32 || width < NARROWEST || rows.saturating_mul(width) < FEWEST_ELEMENTS {
            return None;
        }
        let name = self.name(weight)?;
        let format = match self.choice {
            Quantization::None => None,
            Quantization::All(scheme) if layer.is_some() => Some(scheme.matrices),
            Quantization::All(scheme) => scheme.ends,
            Quantization::Chosen(formats) => formats.get(&name).copied().filter(|format| format.is_quantized()),
        };
        Some((name, format?))
    }

    /// The first matrix that an expression of weights is made of; `None` where one of them is quantized already.
    fn name(&self, weight: Id) -> Option<String> {
        let node = self.graph.node(weight);
        if let Op::Weight(w) = node.op {
            let decl = &self.graph.declarations().weights[w.0 as usize];
            return (decl.shape.len() == 2).then(|| decl.name.clone());
        }
        if matches!(node.op, Op::Dequantize(_) | Op::Quantize(_)) {
            return None;
        }
        egg::Language::children(&node.op).iter().find_map(|&c| self.name(c))
    }
}

/// Copies an expression of weights, with the declarations that it needs.
fn copy(graph: &Graph, id: Id, into: &mut Graph) -> Result<Id, FactError> {
    let mut op = graph.node(id).op.clone();
    if let Op::Weight(w) = op {
        let weight = into.declare_weight(graph.declarations().weights[w.0 as usize].clone());
        return into.add(Op::Weight(weight));
    }
    for child in egg::Language::children_mut(&mut op) {
        *child = copy(graph, *child, into)?;
    }
    into.add(op)
}
