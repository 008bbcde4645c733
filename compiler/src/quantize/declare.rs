//! Weights that come quantized: by calibration instead of by the checkpoint.

use std::collections::BTreeMap;

use egg::{Id, Language};

use super::Candidate;
use crate::formats::Format;
use crate::graph::{FactError, Graph, Op, WeightDecl};

/// The graph over weights that are rounded already: those of `candidates` that `formats` names are declared as their
/// format stores them, row by row, and read through `dequantize`.
///
/// # Errors
/// None in practice: a rounded weight has the shape of the weight.
pub fn declare_rounded(
    graph: &Graph,
    candidates: &[Candidate],
    formats: &BTreeMap<String, Format>,
) -> Result<Graph, FactError> {
    let mut declarations = graph.declarations().clone();
    let mut turned = BTreeMap::new();
    for candidate in candidates {
        if let Some(&format) = formats.get(&candidate.name) {
            declarations.weights[candidate.weight.0 as usize] = WeightDecl {
                name: candidate.name.clone(),
                dtype: format.into(),
                shape: vec![candidate.rows, candidate.columns],
            };
            turned.insert(candidate.weight, candidate.turned);
        }
    }
    let mut rounded = Graph::with_declarations(declarations);
    let mut copies: Vec<Id> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        rounded.set_layer(node.layer);
        let op = node.op.clone().map_children(|c| copies[usize::from(c)]);
        let weight = match node.op {
            Op::Weight(weight) => turned.get(&weight),
            _ => None,
        };
        let mut copy = rounded.add(op)?;
        if let Some(&turned) = weight {
            copy = rounded.dequantize(copy)?;
            copy = if turned { rounded.transpose(copy)? } else { copy };
        }
        copies.push(copy);
    }
    for output in graph.outputs() {
        rounded.add_output(output.name.clone(), copies[usize::from(output.id)]);
    }
    Ok(rounded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use warpweft_plan::DType;

    use super::super::candidates;
    use super::*;
    use crate::formats::Group;

    #[test]
    fn weights_are_read_through_dequantize_however_they_lie() {
        let mut graph = Graph::default();
        let ids = graph.token_ids().unwrap();
        let table = graph.weight("table", DType::BF16, &[100, 64]).unwrap();
        let up = graph.weight("h.0.up", DType::F32, &[64, 96]).unwrap();
        let small = graph.weight("small", DType::F32, &[8, 96]).unwrap();
        let mut x = graph.gather(table, ids).unwrap();
        graph.set_layer(Some(0));
        x = graph.matmul(x, up).unwrap();
        x = graph.linear(x, small, None).unwrap();
        graph.add_output("hidden", x);
        let found = candidates(&graph);
        let names: Vec<(&str, bool, bool, u64)> =
            found.iter().map(|c| (c.name.as_str(), c.turned, c.is_table(), c.columns)).collect();
        assert_eq!(names, [("table", false, true, 64), ("h.0.up", true, false, 64)]);
        assert_eq!((found[0].input, found[1].input.is_some(), found[1].role.as_str()), (None, true, "h.*.up"));

        let int4 = Format::Int4 { group: Group::Of(32), zeros: true };
        let formats = found.iter().map(|c| (c.name.clone(), int4)).collect();
        let rounded = declare_rounded(&graph, &found, &formats).unwrap();
        let text = rounded.to_string();
        assert_eq!(text.matches("dequantize").count(), 2, "{text}");
        assert_eq!(rounded.declarations().weights[1].shape, [96, 64]);
        assert!(candidates(&rounded).is_empty(), "what is quantized is no candidate any more");
        let none = declare_rounded(&graph, &found, &BTreeMap::new()).unwrap();
        assert_eq!(none, graph);
    }
}
