//! Which of the formula's operators each kernel call stands for.
//!
//! A plan says which values of the formula a call's results are. What leads to them belongs to the call as far as no other
//! call has a better claim: results of its own, or the only use of a weight.

use std::collections::BTreeSet;

use egg::{Id, Language};
use warpweft_compiler::graph::{Fact, Graph, Op};
use warpweft_plan::provenance::Call;

/// A graph's nodes by the numbers of their lines in its text form.
fn lines(graph: &Graph) -> Vec<Id> {
    graph.ids().zip(graph.lines()).filter_map(|(id, line)| line.map(|_| id)).collect()
}

/// For each line of the formula, the call that it belongs to; `None` for what no call needs.
pub(super) fn owners(formula: &Graph, extracted: &Graph, calls: &[Call]) -> Vec<Option<usize>> {
    let own = lines(formula);
    let extracted_lines = lines(extracted);
    let mut claims: Vec<Option<usize>> = vec![None; formula.nodes().len()];
    for (at, call) in calls.iter().enumerate() {
        for &id in call.formula.iter().filter_map(|&line| own.get(line as usize)) {
            claims[usize::from(id)].get_or_insert(at);
        }
    }
    let weights: Vec<BTreeSet<u32>> = calls
        .iter()
        .map(|call| {
            let nodes = call.nodes.iter().filter_map(|&line| extracted_lines.get(line as usize));
            nodes.flat_map(|&id| weights(extracted, id)).collect()
        })
        .collect();
    for &id in own.iter().filter(|&&id| !formula.node(id).fact.is_constant()) {
        let read = weights_of(formula, id);
        if claims[usize::from(id)].is_none() && !read.is_empty() {
            claims[usize::from(id)] = weights.iter().position(|bound| read.is_subset(bound));
        }
    }
    // Users come after operands.
    for id in formula.ids().collect::<Vec<_>>().into_iter().rev() {
        let Some(owner) = claims[usize::from(id)] else { continue };
        for child in formula.node(id).op.children() {
            claims[usize::from(*child)].get_or_insert(owner);
        }
    }
    own.iter().map(|id| claims[usize::from(*id)]).collect()
}

fn weights_of(graph: &Graph, id: Id) -> BTreeSet<u32> {
    weights(graph, id).into_iter().collect()
}

/// The weights that a node reads, directly or through what is made of weights alone or through a term or a prologue.
fn weights(graph: &Graph, id: Id) -> Vec<u32> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let mut todo: Vec<Id> = graph.node(id).op.children().to_vec();
    while let Some(id) = todo.pop() {
        let node = graph.node(id);
        if let Op::Weight(weight) = node.op {
            found.push(weight.0);
        } else if (node.fact.is_constant() || matches!(node.fact, Fact::Term(_) | Fact::Prologue(_))) && seen.insert(id)
        {
            todo.extend(node.op.children());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn call(nodes: &[u32], formula: &[u32]) -> Call {
        Call {
            kernel: None,
            nodes: nodes.to_vec(),
            formula: formula.to_vec(),
            seconds: 0.0,
            proof: None,
            within: Vec::new(),
            operands: None,
            columns: None,
        }
    }

    #[test]
    fn a_merged_product_owns_the_products_of_its_weights() {
        let head =
            "weight @0 \"w0\" f32[4]\nweight @1 \"w1\" f32[4, 4]\nweight @2 \"w2\" f32[4, 4]\narg $0 f32[tokens, 4]\n";
        let formula = "%0 = (rms-norm $0 1e-6 acc)\n%1 = (mul %0 @0)\n%2 = (transpose @1)\n%3 = (matmul %1 %2)\n\
                       %4 = (transpose @2)\n%5 = (matmul %1 %4)\n%6 = (silu %3)\n%7 = (mul %6 %5)\noutput out0 %7\n";
        let extracted = "%0 = (rms-norm $0 1e-6 (mul acc @0))\n%1 = (concat 0 @1 @2)\n%2 = (linear %0 %1 acc)\n\
                         %3 = (slice %2 1 0 4)\n%4 = (slice %2 1 4 4)\n%5 = (silu %3)\n%6 = (mul %5 %4)\noutput out0 %6\n";
        let (formula, extracted) = (format!("{head}{formula}"), format!("{head}{extracted}"));
        let calls = [call(&[0], &[1]), call(&[1, 2], &[]), call(&[3, 4, 5, 6], &[7])];
        let found = owners(&formula.parse().unwrap(), &extracted.parse().unwrap(), &calls);
        let expected = [Some(0), Some(0), Some(1), Some(1), Some(1), Some(1), Some(2), Some(2)];
        assert_eq!(found, expected);
    }
}
