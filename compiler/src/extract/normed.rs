//! What a contraction reads beside its input and its weights, and what a norm in front of it costs.

use std::collections::BTreeSet;

use egg::{Id, Language};

use crate::graph::{Fact, Op};
use crate::kernels::NormCost;
use crate::kernels::spec::Norm;
use crate::rules::EGraph;

/// Storage buffers of a contraction: what it reads, its result, and of two results both.
pub(super) fn storage_buffers(egraph: &EGraph, node: &Op) -> usize {
    let of_child = |id: Id| match egraph[id].data.as_ref() {
        Ok(Fact::Tensor(_)) => 1,
        Ok(Fact::Term(_) | Fact::Prologue(_)) => operands(egraph, id).len(),
        Ok(Fact::Pair(..) | Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_))
        | Err(_) => 0,
    };
    let two = matches!(node, Op::NormedLinear(_) | Op::NormedLinearPair(_) | Op::NormedRows(_) | Op::GainedLinear(_));
    let results = if two { 2 } else { 1 };
    node.children().iter().map(|&c| of_child(c)).sum::<usize>() + results
}

/// The tensors that a term or prologue reads.
fn operands(egraph: &EGraph, id: Id) -> BTreeSet<Id> {
    let (mut found, mut seen, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![egraph.find(id)]);
    while let Some(class) = open.pop() {
        if !seen.insert(class) {
            continue;
        }
        match egraph[class].data.as_ref() {
            Ok(Fact::Tensor(_)) => drop(found.insert(class)),
            // Equal terms read the same.
            Ok(Fact::Term(_) | Fact::Prologue(_)) => {
                open.extend(egraph[class].nodes.iter().take(1).flat_map(|n| n.children()).map(|c| egraph.find(*c)));
            }
            Ok(Fact::Pair(..) | Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_))
            | Err(_) => {}
        }
    }
    found
}

/// What a lane does for four values of a row that a workgroup normalises, and whether the scale of one row can follow its
/// contraction.
pub(super) fn cost(egraph: &EGraph, prologue: Id) -> Option<(NormCost, bool)> {
    let mut norms = Vec::new();
    let term = norms_of(egraph, prologue, &mut norms)?;
    let afterwards = matches!(norms[..], [(Norm::Rms, _)]) && is_gain(egraph, term);
    Some((NormCost::of(&norms), afterwards))
}

/// The norms of a prologue with the number of tensors that each reads; gives the last one's term.
fn norms_of(egraph: &EGraph, prologue: Id, norms: &mut Vec<(Norm, usize)>) -> Option<Id> {
    let (norm, term) = match *egraph[prologue].nodes.first()? {
        Op::Rms([_, term]) => (Norm::Rms, term),
        Op::Layer([_, term]) => (Norm::Layer, term),
        Op::Then([first, second]) => {
            norms_of(egraph, first, norms)?;
            return norms_of(egraph, second, norms);
        }
        _ => return None,
    };
    norms.push((norm, operands(egraph, term).len()));
    Some(term)
}

/// Whether a term is `acc` or a multiple of it.
fn is_gain(egraph: &EGraph, term: Id) -> bool {
    let is_acc = |id: Id| egraph[id].nodes.contains(&Op::Acc);
    egraph[term].nodes.iter().any(|n| match n {
        Op::Acc => true,
        Op::Mul([a, b]) => is_acc(*a) || is_acc(*b),
        _ => false,
    })
}
