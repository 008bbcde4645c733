//! A graph as the page draws it: what is computed when the model runs, weights and attributes folded into labels.

use egg::{Id, Language};
use serde::Serialize;
use warpweft_compiler::graph::{Fact, Graph, Op};
use warpweft_plan::Dim;

use super::labels::{Formulas, Names};

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Something from outside.
    Input,
    /// An operator.
    Op,
    /// A result.
    Output,
}

/// A node of the picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Its line in the graph's text form; those of its results are drawn with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u32>,
    pub(super) op: String,
    /// Weights, attributes, and what is done to each element.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) shape: String,
    /// Places of its operands in the list of nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) inputs: Vec<usize>,
    /// Lines that name its results.
    #[serde(skip)]
    results: Vec<u32>,
}

impl Node {
    /// Whether the node is drawn for a line of the text form.
    pub(super) fn stands_for(&self, line: u32) -> bool {
        self.line == Some(line) || self.results.contains(&line)
    }
}

/// The picture of `graph`: operands stand before their users, outputs last.
pub(super) fn view(graph: &Graph, names: &Names) -> Vec<Node> {
    let formulas = Formulas::by_line(graph, names);
    let mut places: Vec<Option<usize>> = vec![None; graph.nodes().len()];
    let mut nodes: Vec<Node> = Vec::new();
    let live = graph.live();
    for id in graph.ids().filter(|&id| live[usize::from(id)]) {
        let node = graph.node(id);
        // A result of a node is drawn as the node.
        if let Op::First([pair]) | Op::Second([pair]) = node.op {
            places[usize::from(id)] = places[usize::from(pair)];
            if let Some(node) = places[usize::from(pair)].and_then(|place| nodes.get_mut(place)) {
                node.results.extend(formulas.line(id));
            }
            continue;
        }
        let kind = match node.op {
            Op::Arg(_) | Op::Ids => Kind::Input,
            _ if formulas.line(id).is_some() && !node.fact.is_constant() => Kind::Op,
            _ => continue,
        };
        let mut inputs = Vec::new();
        operands(graph, &node.op, &places, &mut inputs);
        places[usize::from(id)] = Some(nodes.len());
        let (op, detail) = match kind {
            Kind::Input => (formulas.get(id).to_owned(), String::new()),
            Kind::Op | Kind::Output => (node.op.name(), detail(&node.op, &places, &formulas)),
        };
        let (line, shape) = (formulas.line(id), shape(&node.fact));
        nodes.push(Node { kind, line, op, detail, shape, inputs, results: Vec::new() });
    }
    for output in graph.outputs() {
        let inputs = places[usize::from(output.id)].into_iter().collect();
        let shape = shape(&graph.node(output.id).fact);
        nodes.push(Node {
            kind: Kind::Output,
            line: None,
            op: output.name.clone(),
            detail: String::new(),
            shape,
            inputs,
            results: Vec::new(),
        });
    }
    nodes
}

/// The nodes that an operator reads, those that its term reads among them.
fn operands(graph: &Graph, op: &Op, places: &[Option<usize>], found: &mut Vec<usize>) {
    let mut todo: Vec<Id> = op.children().iter().rev().copied().collect();
    let mut seen = Vec::new();
    while let Some(id) = todo.pop() {
        if let Some(place) = places[usize::from(id)] {
            if !found.contains(&place) {
                found.push(place);
            }
        } else if matches!(graph.node(id).fact, Fact::Term(_) | Fact::Prologue(_)) && !seen.contains(&id) {
            seen.push(id);
            todo.extend(graph.node(id).op.children().iter().rev());
        }
    }
}

fn detail(op: &Op, places: &[Option<usize>], formulas: &Formulas) -> String {
    let get = |id: Id| formulas.get(id);
    let heads = |id: Id| format!("{} heads", get(id));
    match op {
        Op::SplitHeads([_, n]) => return heads(*n),
        Op::HeadNorm([_, n, _, gain]) => return format!("{}, {}", heads(*n), get(*gain)),
        Op::RepeatHeads([_, n]) => return format!("× {}", get(*n)),
        Op::Rope([_, _, _, n, _, _]) => return heads(*n),
        Op::Append([cache, _]) => return get(*cache).to_owned(),
        Op::Slice([_, axis, first, len]) => return formulas.window(*axis, *first, *len).replace(":, ", "columns "),
        Op::BandMask([before, after, _]) => {
            return match (get(*before), get(*after)) {
                ("-1", "0") => "causal".into(),
                ("-1", "-1") => "none".into(),
                (before, "0") => format!("{before} rows before"),
                (before, after) => format!("{before} before, {after} after"),
            };
        }
        Op::Attention([_, _, _, n, kv, _]) => {
            let heads = if get(*n) == get(*kv) { heads(*n) } else { format!("{} on {}", heads(*n), get(*kv)) };
            return format!("{heads} {}", formulas.braced(op)).trim_end().to_owned();
        }
        _ => {}
    }
    let is_edge = |id: &Id| places[usize::from(*id)].is_some();
    // A norm's small number says nothing in a picture.
    let is_norm = matches!(op, Op::LayerNorm(_) | Op::RmsNorm(_) | Op::L2Norm(_));
    let hidden = |at: usize| Some(at) == op.term_child() || (is_norm && at == 1);
    let operands = op.children().iter().enumerate().filter(|(i, id)| !hidden(*i) && !is_edge(id));
    let operands: Vec<&str> = operands.map(|(_, id)| get(*id)).collect();
    let parts = [operands.join(", "), formulas.braced(op)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn shape(fact: &Fact) -> String {
    let tensor = match fact {
        Fact::Pair(first, _) => Some(first),
        other => other.tensor(),
    };
    tensor.map_or(String::new(), |t| t.shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(" × "))
}

/// Short names of weights: without what all names begin with, and of the rest the last parts, as many as distinguish them.
pub(super) fn short_names(names: &[String]) -> Vec<String> {
    let parts: Vec<Vec<&str>> = names.iter().map(|n| n.trim_end_matches(".weight").split('.').collect()).collect();
    let shared = |n: usize| parts.iter().all(|p| p.len() > n + 1 && p.get(n) == parts[0].get(n));
    let common = if names.len() > 1 { (0..).take_while(|&n| shared(n)).count() } else { 0 };
    let tail = |parts: &[&str], n: usize| parts[parts.len().saturating_sub(n).max(common)..].join(".");
    let clashes = |at: usize, n: usize| {
        let own = tail(&parts[at], n);
        (0..parts.len()).any(|other| names[other] != names[at] && tail(&parts[other], n) == own)
    };
    (0..parts.len())
        .map(|at| {
            let least = if parts[at].last() == Some(&"bias") { 2 } else { 1 };
            let most = parts[at].len();
            let n = (least..most).find(|&n| !clashes(at, n)).unwrap_or(most);
            tail(&parts[at], n)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn weights_fold_into_their_users() {
        let text = "weight @0 \"w0\" f32[8, 4]\narg $0 f32[tokens, 4]\n\
                    %0 = (transpose @0)\n%1 = (matmul $0 %0)\n%2 = (silu %1)\n%3 = (mul %1 %2)\noutput out0 %3\n";
        let names = Names { weights: vec!["up".into()], args: vec!["x".into()] };
        let nodes = view(&text.parse().unwrap(), &names);
        let shown: Vec<_> = nodes.iter().map(|n| format!("{} {} {:?}", n.op, n.detail, n.inputs)).collect();
        assert_eq!(shown, ["x  []", "matmul upᵀ [0]", "silu  [1]", "mul  [1, 2]", "out0  [3]"]);
        assert_eq!(nodes[1].line, Some(1));
        assert_eq!(nodes[1].shape, "tokens × 8");
    }

    #[test]
    fn a_term_draws_edges_to_what_it_reads() {
        let text = "weight @0 \"w0\" f32[4, 4]\narg $0 f32[tokens, 4]\n%0 = (rms-norm $0 1e-6 acc)\n\
                    %1 = (linear %0 @0 (add acc $0))\noutput out0 %1\n";
        let names = Names { weights: vec!["up".into()], args: vec!["x".into()] };
        let nodes = view(&text.parse().unwrap(), &names);
        assert_eq!((nodes[2].detail.as_str(), &nodes[2].inputs), ("up {acc + x}", &vec![1, 0]));
    }

    #[test]
    fn names_are_as_short_as_they_differ() {
        let names = ["l.0.attn.output.dense.weight", "l.0.output.dense.weight", "l.0.attn.q.bias", "l.0.attn.q.weight"];
        let names = names.map(String::from);
        assert_eq!(short_names(&names), ["attn.output.dense", "output.dense", "q.bias", "q"]);
    }
}
