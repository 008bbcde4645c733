//! Siblings: contractions that read the same input become one.
//!
//! ```text
//! y_i = x·W_iᵀ + b_i   for all i   ⟹   y_i = columns of  x·[W_0; W_1; …]ᵀ + [b_0; b_1; …]
//! ```
//!
//! Exact: each element is the same dot product. This is one rewrite with any number of parts on its left side (q, k and
//! v; a gate and an up projection), so it is written as a search over e-classes and not as a pattern.

use egg::Id;

use super::EGraph;
use crate::graph::{Fact, Op};

/// Its name in reports and proofs.
pub const MERGE_NAME: &str = "merge-siblings";

/// A part's columns start at a multiple of this, so that kernels can load four at once.
const ALIGNMENT: i64 = 4;

struct Part {
    result: Id,
    weight: Id,
    bias: Option<Id>,
    columns: i64,
}

/// Merges the siblings that are in the e-graph; gives the number of merges.
pub fn merge_siblings(egraph: &mut EGraph) -> usize {
    let inputs: Vec<Id> = egraph.classes().map(|c| c.id).collect();
    let mut merges = 0;
    for x in inputs {
        for with_bias in [false, true] {
            let parts = parts(egraph, x, with_bias);
            if parts.len() >= 2 {
                merge(egraph, x, &parts);
                merges += 1;
            }
        }
    }
    egraph.rebuild();
    merges
}

/// The contractions of `x` with a weight of the checkpoint (not with a part of one), in the order of their weights.
fn parts(egraph: &EGraph, x: Id, with_bias: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    for class in egraph.classes() {
        for node in &class.nodes {
            let Op::Linear([input, weight, term]) = node else { continue };
            if egraph.find(*input) != egraph.find(x) || !is_stored(egraph, *weight) {
                continue;
            }
            let (Some(bias), Some(columns)) = (bias(egraph, *term), rows(egraph, *weight)) else { continue };
            if bias.is_some() == with_bias && columns % ALIGNMENT == 0 {
                parts.push(Part { result: class.id, weight: *weight, bias, columns });
            }
        }
    }
    parts.sort_by_key(|p| p.weight);
    parts.dedup_by_key(|p| p.weight);
    let dtype = |p: &Part| egraph[p.weight].data.as_ref().ok().and_then(Fact::tensor).map(|t| t.dtype);
    if let Some(first) = parts.first().map(dtype) {
        parts.retain(|p| dtype(p) == first);
    }
    parts
}

fn is_stored(egraph: &EGraph, weight: Id) -> bool {
    egraph[weight].nodes.iter().any(|n| match n {
        Op::Weight(_) => true,
        Op::Transpose([w]) => egraph[*w].nodes.iter().any(|n| matches!(n, Op::Weight(_))),
        _ => false,
    })
}

fn rows(egraph: &EGraph, weight: Id) -> Option<i64> {
    egraph[weight].data.as_ref().ok()?.tensor()?.shape.first()?.as_constant()
}

/// `Some(None)` for the term `acc`, `Some(Some(b))` for `acc + b` with a constant vector, `None` for any other.
fn bias(egraph: &EGraph, term: Id) -> Option<Option<Id>> {
    let is_acc = |id: Id| egraph[id].nodes.iter().any(|n| matches!(n, Op::Acc));
    let is_vector = |id: Id| {
        let fact = egraph[id].data.as_ref().ok().and_then(Fact::tensor);
        fact.is_some_and(|t| t.constant && t.shape.len() == 1)
    };
    egraph[term].nodes.iter().find_map(|n| match n {
        Op::Acc => Some(None),
        Op::Add([a, b]) if is_acc(*a) && is_vector(*b) => Some(Some(*b)),
        _ => None,
    })
}

fn merge(egraph: &mut EGraph, x: Id, parts: &[Part]) {
    let axis = egraph.add(Op::Int(0));
    let join = |egraph: &mut EGraph, ids: Vec<Id>| ids.into_iter().reduce(|a, b| egraph.add(Op::Concat([axis, a, b])));
    let weight = join(egraph, parts.iter().map(|p| p.weight).collect());
    let bias = join(egraph, parts.iter().filter_map(|p| p.bias).collect());
    let Some(weight) = weight else { return };
    let acc = egraph.add(Op::Acc);
    let term = match bias {
        Some(b) => egraph.add(Op::Add([acc, b])),
        None => acc,
    };
    let merged = egraph.add(Op::Linear([x, weight, term]));
    let one = egraph.add(Op::Int(1));
    let mut start = 0;
    for part in parts {
        let (from, len) = (egraph.add(Op::Int(start)), egraph.add(Op::Int(part.columns)));
        let window = egraph.add(Op::Slice([merged, one, from, len]));
        egraph.union_trusted(part.result, window, MERGE_NAME);
        start += part.columns;
    }
}
