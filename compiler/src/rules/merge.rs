//! Siblings: contractions that read the same input become one.
//!
//! ```text
//! y_i = x·W_iᵀ + b_i   for all i   ⟹   y_i = columns of  x·[W_0; W_1; …]ᵀ + [b_0; b_1; …]
//! ```
//!
//! Exact: each element is the same dot product. Where some parts have a bias and others none, the others get a bias of
//! -0.0, which changes no number and no sign of a zero. A part's columns start at a multiple of four, so that kernels can
//! load four at once; what fills the gap are rows of the part before it, which nobody reads.
//!
//! This is one rewrite with any number of parts on its left side (q, k and v; a gate and an up projection), so it is written
//! as a search over e-classes and not as a pattern. Weights may be any expression of weights: a stored one, the rows of
//! several heads of a stored one, one with a gain or a scale multiplied into it.

use std::collections::{BTreeMap, BTreeSet};

use egg::Id;

use super::EGraph;
use crate::graph::{Element, Fact, Op, Real};

/// Its name in reports and proofs.
pub const MERGE_NAME: &str = "merge-siblings";

/// A part's columns start at a multiple of this.
const ALIGNMENT: i64 = 4;

/// The contractions of one input with one weight.
#[derive(Clone, Debug)]
struct Sibling {
    weight: Id,
    dtype: Element,
    columns: i64,
    /// The term of `x·Wᵀ`.
    plain: Option<Id>,
    /// A bias and the term of `x·Wᵀ + b`.
    biased: Option<(Id, Id)>,
    /// Some kernel does more with it than to add a bias, which a window of a merged product cannot.
    continued: bool,
}

/// A sibling in a merge: what it is equal to, and its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    weight: Id,
    columns: i64,
    term: Id,
    bias: Option<Id>,
}

/// Merges the siblings that are in the e-graph; gives the number of merges.
pub fn merge_siblings(egraph: &mut EGraph) -> usize {
    let mut merges: Vec<(Id, Vec<Part>)> = Vec::new();
    for (x, siblings) in siblings(egraph) {
        merges.extend(groups(egraph, &siblings).into_iter().map(|parts| (x, parts)));
    }
    for (x, parts) in &merges {
        merge(egraph, *x, parts);
    }
    egraph.rebuild();
    merges.len()
}

/// For each input the contractions that read it, in the order of their weights.
fn siblings(egraph: &EGraph) -> BTreeMap<Id, Vec<Sibling>> {
    let mut found: BTreeMap<Id, BTreeMap<Id, Sibling>> = BTreeMap::new();
    for class in egraph.classes() {
        for node in &class.nodes {
            let Op::Linear([x, weight, term]) = node else { continue };
            let (x, weight) = (egraph.find(*x), egraph.find(*weight));
            let Some((dtype, columns)) = rows(egraph, weight) else { continue };
            let new = Sibling { weight, dtype, columns, plain: None, biased: None, continued: false };
            let sibling = found.entry(x).or_default().entry(weight).or_insert(new);
            let term = egraph.find(*term);
            match bias(egraph, term) {
                Some(None) => sibling.plain = Some(term),
                // One weight with two biases: the first.
                Some(Some(b)) => {
                    let this = (egraph.find(b), term);
                    sibling.biased = Some(sibling.biased.map_or(this, |other| other.min(this)));
                }
                None => sibling.continued = true,
            }
        }
    }
    found.into_iter().map(|(x, all)| (x, windows_left_out(egraph, all))).collect()
}

/// A window of a weight that is a sibling itself would be read twice.
fn windows_left_out(egraph: &EGraph, all: BTreeMap<Id, Sibling>) -> Vec<Sibling> {
    let is_window = |weight: Id| {
        egraph[weight].nodes.iter().any(|n| matches!(n, Op::Slice([of, ..]) if all.contains_key(&egraph.find(*of))))
    };
    all.values().filter(|s| !is_window(s.weight)).cloned().collect()
}

/// Which siblings may be merged: those of one format, with or without what other kernels take up; of a weight and the same
/// weight scaled, one.
fn groups(egraph: &EGraph, siblings: &[Sibling]) -> BTreeSet<Vec<Part>> {
    let weights: BTreeSet<Id> = siblings.iter().map(|s| s.weight).collect();
    let scaled_of = |weight: Id| -> Vec<Id> {
        let factors = egraph[weight].nodes.iter().filter_map(|n| match n {
            Op::Mul([a, b]) => Some([egraph.find(*a), egraph.find(*b)]),
            _ => None,
        });
        factors.flatten().filter(|f| weights.contains(f)).collect()
    };
    let scaled: BTreeSet<Id> = weights.iter().copied().filter(|&w| !scaled_of(w).is_empty()).collect();
    let unscaled: BTreeSet<Id> = weights.iter().flat_map(|&w| scaled_of(w)).collect();
    let mut groups = BTreeSet::new();
    let formats: BTreeSet<Element> = siblings.iter().map(|s| s.dtype).collect();
    for dtype in formats {
        for left_out in [&scaled, &unscaled] {
            for alone in [false, true] {
                let of_group =
                    |s: &&Sibling| s.dtype == dtype && !left_out.contains(&s.weight) && !(alone && s.continued);
                let parts: Vec<Part> = siblings.iter().filter(of_group).filter_map(Sibling::part).collect();
                if parts.len() >= 2 {
                    groups.insert(parts);
                }
            }
        }
    }
    groups
}

impl Sibling {
    fn part(&self) -> Option<Part> {
        let (bias, term) = match self.biased {
            Some((bias, term)) => (Some(bias), term),
            None => (None, self.plain?),
        };
        Some(Part { weight: self.weight, columns: self.columns, term, bias })
    }
}

/// What its elements are, and the number of rows.
fn rows(egraph: &EGraph, weight: Id) -> Option<(Element, i64)> {
    let fact = egraph[weight].data.as_ref().ok()?.tensor()?;
    Some((fact.dtype, fact.shape.first()?.as_constant()?))
}

/// `Some(None)` for the term `acc`, `Some(Some(b))` for the sum of `acc` and a constant vector, `None` for any other.
fn bias(egraph: &EGraph, term: Id) -> Option<Option<Id>> {
    let is_acc = |id: Id| egraph[id].nodes.iter().any(|n| matches!(n, Op::Acc));
    let is_vector = |id: Id| {
        let fact = egraph[id].data.as_ref().ok().and_then(Fact::tensor);
        fact.is_some_and(|t| t.constant && t.shape.len() == 1)
    };
    egraph[term].nodes.iter().find_map(|n| match n {
        Op::Acc => Some(None),
        Op::Add([a, b]) if is_acc(*a) && is_vector(*b) => Some(Some(*b)),
        Op::Add([b, a]) if is_acc(*a) && is_vector(*b) => Some(Some(*b)),
        _ => None,
    })
}

fn merge(egraph: &mut EGraph, x: Id, parts: &[Part]) {
    let has_bias = parts.iter().any(|p| p.bias.is_some());
    let (mut weight, mut bias, mut start) = (None, None, 0);
    let mut windows = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let len = part.columns;
        let padded = if i + 1 == parts.len() { len } else { (len + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT };
        let rows = lengthened(egraph, part.weight, len, padded);
        weight = Some(joined(egraph, weight, rows));
        if has_bias {
            let values = match part.bias {
                Some(b) => lengthened(egraph, b, len, padded),
                None => {
                    let (nothing, n) = (egraph.add(Op::Real(Real::new(-0.0))), egraph.add(Op::Int(padded)));
                    egraph.add(Op::Fill([nothing, n]))
                }
            };
            bias = Some(joined(egraph, bias, values));
        }
        // This very contraction and not another form of it, so that proofs say what was merged.
        let part = egraph.add_uncanonical(Op::Linear([x, part.weight, part.term]));
        windows.push((part, start, len));
        start += padded;
    }
    let Some(weight) = weight else { return };
    let acc = egraph.add(Op::Acc);
    let term = match bias {
        Some(b) => egraph.add(Op::Add([acc, b])),
        None => acc,
    };
    let merged = egraph.add(Op::Linear([x, weight, term]));
    let one = egraph.add(Op::Int(1));
    for (part, start, len) in windows {
        let (from, len) = (egraph.add(Op::Int(start)), egraph.add(Op::Int(len)));
        let window = egraph.add(Op::Slice([merged, one, from, len]));
        egraph.union_trusted(part, window, MERGE_NAME);
    }
}

/// `weight`, `len` rows long, followed by its own first rows up to a length of `padded`.
fn lengthened(egraph: &mut EGraph, weight: Id, len: i64, padded: i64) -> Id {
    let (mut all, mut at) = (weight, len);
    while at < padded {
        let more = len.min(padded - at);
        let rows = if more == len {
            weight
        } else {
            let [axis, n] = [0, more].map(|n| egraph.add(Op::Int(n)));
            egraph.add(Op::Slice([weight, axis, axis, n]))
        };
        all = joined(egraph, Some(all), rows);
        at += more;
    }
    all
}

/// One below the other.
fn joined(egraph: &mut EGraph, above: Option<Id>, below: Id) -> Id {
    let Some(above) = above else { return below };
    let axis = egraph.add(Op::Int(0));
    egraph.add(Op::Concat([axis, above, below]))
}
