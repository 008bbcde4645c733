//! Random inputs of a term, and what evaluating it takes.

use half::{bf16, f16};
use warpweft_plan::{DType, Dim, Sizes};

use super::chain::ProofFault;
use crate::formats::Format;
use crate::graph::eval::{Tensor, Values};
use crate::graph::{Element, Fact, Graph, Id, Op};

/// New rows of the sequence.
pub(super) const TOKENS: u64 = 3;
/// Rows that its caches held before.
pub(super) const CACHED: u64 = 2;

/// The most numbers that all values of a term may have.
const MAX_ELEMENTS: u64 = 1 << 30;
/// The most multiply-adds that a term may take.
const MAX_WORK: u64 = 1 << 38;

const SIZES: Sizes = Sizes { tokens: TOKENS, context: TOKENS + CACHED, sequences: 1 };

/// Refuses terms that would take too much memory or time, or have empty values.
pub(super) fn cost(graph: &Graph) -> Result<(), ProofFault> {
    let (mut elements, mut work) = (0u64, 0u64);
    for node in graph.nodes() {
        let Some(own) = elements_of(&node.fact)? else { continue };
        elements = elements.saturating_add(own);
        let mut widest = 1;
        for child in egg::Language::children(&node.op) {
            if let Fact::Tensor(t) = &graph.node(*child).fact {
                let width = t.shape.last().and_then(|d| d.eval(SIZES)).unwrap_or(1);
                widest = widest.max(width);
            }
        }
        work = work.saturating_add(own.saturating_mul(widest));
    }
    let large = |what: &str, found: u64, limit: u64| {
        Err(ProofFault::Large { what: what.into(), found: found.to_string(), limit: limit.to_string() })
    };
    match (elements > MAX_ELEMENTS, work > MAX_WORK) {
        (true, _) => large("the values of a term", elements, MAX_ELEMENTS),
        (_, true) => large("the multiply-adds of a term", work, MAX_WORK),
        (false, false) => Ok(()),
    }
}

/// Elements of a tensor; `None` for what is none.
fn elements_of(fact: &Fact) -> Result<Option<u64>, ProofFault> {
    match fact {
        Fact::Tensor(t) => size(&t.shape).map(Some),
        Fact::Cache(width) => size(&[Dim::CONTEXT, Dim::from(i64::from(*width))]).map(Some),
        Fact::Size(dim) => size(&[*dim]).map(|_| None),
        Fact::Pair(a, b) => Ok(Some(size(&a.shape)?.saturating_add(size(&b.shape)?))),
        Fact::Term(_) | Fact::Prologue(_) | Fact::Int(_) | Fact::Real(_) | Fact::Format(_) => Ok(None),
    }
}

fn size(shape: &[Dim]) -> Result<u64, ProofFault> {
    let mut sizes = shape.iter().map(|d| d.eval(SIZES).filter(|&n| n > 0));
    let elements = sizes.try_fold(1u64, |all, n| all.checked_mul(n?)).filter(|&n| n <= MAX_ELEMENTS);
    elements.ok_or_else(|| ProofFault::Large {
        what: "a value".into(),
        found: format!("the shape {}", crate::graph::show(shape)),
        limit: format!("1 to {MAX_ELEMENTS} elements"),
    })
}

/// Random values for what a graph declares: the same for graphs with the same declarations.
pub(super) fn values(graph: &Graph) -> Result<Values, ProofFault> {
    random_values(graph, &|format, numbers, width| {
        let stored = format.pack(&numbers, width).map_err(|e| ProofFault::Evaluation(e.to_string()))?;
        Ok(format.unpack(&stored, width))
    })
}

/// The same, but that weights in quantized formats have the values from which those of [`values`] were rounded.
pub(super) fn unrounded_values(graph: &Graph) -> Result<Values, ProofFault> {
    random_values(graph, &|_, numbers, _| Ok(numbers))
}

/// Rounds numbers of so many columns to a format.
type Round = dyn Fn(Format, Vec<f32>, usize) -> Result<Vec<f32>, ProofFault>;

fn random_values(graph: &Graph, round: &Round) -> Result<Values, ProofFault> {
    let declared = graph.declarations();
    let mut seed = 0;
    let mut tensor = |shape: &[Dim], dtype: Element| -> Result<Tensor, ProofFault> {
        let elements = size(shape)?;
        seed += 1;
        let mut random = Random(seed);
        let numbers: Vec<f32> = (0..elements).map(|_| random.next()).collect();
        let shape: Vec<usize> = shape.iter().filter_map(|d| d.eval(SIZES)).map(|n| n as usize).collect();
        let data = match dtype {
            Element::Plain(dtype) => numbers.into_iter().map(|x| rounded(x, dtype)).collect(),
            Element::Quantized(format) => round(format, numbers, shape.last().copied().unwrap_or(1))?,
        };
        Ok(Tensor { shape, data })
    };
    let mut weights = Vec::new();
    for weight in &declared.weights {
        let shape: Vec<Dim> = weight.shape.iter().map(|&n| Dim::constant(i64::try_from(n).unwrap_or(-1))).collect();
        weights.push(tensor(&shape, weight.dtype)?);
    }
    let mut args = Vec::new();
    for arg in &declared.args {
        args.push(tensor(&arg.shape, arg.dtype)?);
    }
    // A graph without a cache may still read one as an argument, and then counts positions from its rows.
    let widths = declared.caches.iter().map(|c| c.width).chain(declared.caches.is_empty().then_some(1));
    let mut caches = Vec::new();
    for width in widths {
        caches.push(tensor(&[Dim::constant(CACHED as i64), i64::from(width).into()], Element::F32)?);
    }
    let least = graph.nodes().iter().filter_map(|node| rows_of_ids(graph, &node.op)).min().unwrap_or(1);
    let ids = (0..TOKENS).map(|i| (i * 7 % least.min(1 << 20)) as u32).collect();
    Ok(Values { weights, args, ids, caches })
}

/// Rows of a table of which rows are taken by ids.
fn rows_of_ids(graph: &Graph, op: &Op) -> Option<u64> {
    let by_ids = |id: Id| matches!(graph.node(id).op, Op::Ids);
    match *op {
        Op::Gather([table, index]) if by_ids(index) => {
            graph.node(table).fact.tensor()?.shape.first()?.eval(SIZES).filter(|&n| n > 0)
        }
        _ => None,
    }
}

/// The nearest number that the type has; a small whole one for ids.
fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => x,
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
        DType::U32 => (x.abs() * 2.0).floor(),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// In (-1, 1).
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
