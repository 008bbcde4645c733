//! Graphs as algebra that people read.
//!
//! ```text
//! linear(x0, dense.weight){gelu(acc + dense.bias)}
//! ```
//!
//! Matrix products are `·`, products of elements `⊙`, with a scalar `*`. What stands in braces is a kernel's term over the
//! `acc` that it computed. What several places use gets a line of its own.

use egg::{Id, Language};
use rustc_hash::FxHashSet;

use crate::graph::{Fact, Graph, Op};

/// What leaves are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Weights, by index.
    pub weights: Vec<String>,
    /// Arguments, by index.
    pub args: Vec<String>,
    /// Outputs, by index.
    pub outputs: Vec<String>,
}

/// How deep terms nest in one line: what is deeper gets a line of its own.
const MAX_DEPTH: usize = 100;

/// A graph's outputs, a line `name = term` each, after lines for what they share. The nodes in `marked` are put between
/// `«` and `»`.
pub fn algebra(graph: &Graph, names: &Names, marked: &[Id]) -> Vec<String> {
    let live = graph.live();
    let mut uses = vec![0usize; graph.nodes().len()];
    for id in graph.ids().filter(|id| live[usize::from(*id)]) {
        graph.node(id).op.for_each(|c| uses[usize::from(c)] += 1);
    }
    let mut writer = Writer { graph, names, marked: marked.iter().copied().collect(), bound: vec![None; uses.len()] };
    let mut lines = Vec::new();
    let mut depths = vec![0usize; uses.len()];
    for id in graph.ids().filter(|id| live[usize::from(*id)]) {
        let node = graph.node(id);
        let depth = node.op.children().iter().map(|c| depths[usize::from(*c)] + 1).max().unwrap_or(0);
        let is_tensor = matches!(node.fact, Fact::Tensor(_));
        let heavy = is_tensor && node.op.children().iter().any(|c| !is_simple(graph, *c)) && !is_simple(graph, id);
        if (heavy && uses[usize::from(id)] > 1) || (is_tensor && depth > MAX_DEPTH) {
            let name = format!("t{}", lines.len());
            lines.push(format!("{name} = {}", writer.write(id, Binding::Loose)));
            writer.bound[usize::from(id)] = Some(name);
        } else {
            depths[usize::from(id)] = depth;
        }
    }
    for (i, output) in graph.outputs().iter().enumerate() {
        let name = names.outputs.get(i).map_or(output.name.as_str(), String::as_str);
        lines.push(format!("{name} = {}", writer.write(output.id, Binding::Loose)));
    }
    lines
}

/// Leaves, and what reads like one.
fn is_simple(graph: &Graph, id: Id) -> bool {
    let node = graph.node(id);
    node.op.is_leaf()
        || matches!(node.op, Op::Transpose([x]) if graph.node(x).op.is_leaf())
        || matches!(node.op, Op::BandMask(_))
        || matches!(node.op, Op::Slice([x, ..]) if graph.node(x).op.is_leaf())
}

/// Where two terms of the same outputs differ: the smallest subterms that hold all of a change, in the first and in the
/// second. Both are nodes of the graph that is given back, which has the outputs of the first and then of the second.
///
/// # Errors
/// When the second graph does not fit the declarations of the first.
pub fn difference(before: &Graph, after: &Graph) -> Result<Difference, crate::graph::FactError> {
    let mut both = Graph::with_declarations(before.declarations().clone());
    let mut outputs = Vec::new();
    for graph in [before, after] {
        let mut places: Vec<Id> = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            places.push(both.add(node.op.clone().map_children(|c| places[usize::from(c)]))?);
        }
        outputs.push(graph.outputs().iter().map(|o| (o.name.clone(), places[usize::from(o.id)])).collect::<Vec<_>>());
    }
    let mut found = Difference::default();
    for ((_, a), (_, b)) in outputs[0].iter().zip(&outputs[1]) {
        descend(&both, *a, *b, &mut found);
    }
    for (graph, outputs) in [(&mut found.before, &outputs[0]), (&mut found.after, &outputs[1])] {
        *graph = both.clone();
        outputs.iter().for_each(|(name, id)| graph.add_output(name.clone(), *id));
    }
    Ok(found)
}

/// What [`difference`] finds.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// The first graph.
    pub before: Graph,
    /// The second.
    pub after: Graph,
    /// Nodes of the first that the second does not have.
    pub removed: Vec<Id>,
    /// Nodes of the second that the first does not have.
    pub added: Vec<Id>,
}

fn descend(graph: &Graph, mut a: Id, mut b: Id, found: &mut Difference) {
    while a != b {
        let (x, y) = (&graph.node(a).op, &graph.node(b).op);
        let mut differing = x.children().iter().zip(y.children()).filter(|(x, y)| x != y);
        match (x.matches(y), differing.next(), differing.next()) {
            (true, Some((x, y)), None) => (a, b) = (*x, *y),
            _ => {
                found.removed.push(a);
                found.added.push(b);
                return;
            }
        }
    }
}

/// How tightly what stands around a term binds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Loose,
    Sum,
    Product,
    Tight,
}

struct Writer<'g> {
    graph: &'g Graph,
    names: &'g Names,
    marked: FxHashSet<Id>,
    bound: Vec<Option<String>>,
}

impl Writer<'_> {
    fn write(&self, id: Id, around: Binding) -> String {
        if let Some(name) = &self.bound[usize::from(id)] {
            return name.clone();
        }
        if self.marked.contains(&id) {
            return format!("«{}»", self.term(id).0);
        }
        let (text, own) = self.term(id);
        if own < around { format!("({text})") } else { text }
    }

    /// The text and how tightly it holds together.
    fn term(&self, id: Id) -> (String, Binding) {
        let op = &self.graph.node(id).op;
        let infix = |a: Id, sign: &str, b: Id, own: Binding| {
            // Of equal binding, the right side needs parentheses.
            let right = if own == Binding::Sum { Binding::Product } else { Binding::Tight };
            (format!("{} {sign} {}", self.write(a, own), self.write(b, right)), own)
        };
        match *op {
            Op::Add([a, b]) => infix(a, "+", b, Binding::Sum),
            Op::Sub([a, b]) => infix(a, "-", b, Binding::Sum),
            Op::Mul([a, b]) if self.is_scalar(a) || self.is_scalar(b) => infix(a, "*", b, Binding::Product),
            Op::Mul([a, b]) => infix(a, "⊙", b, Binding::Product),
            Op::Div([a, b]) => infix(a, "/", b, Binding::Product),
            Op::MatMul([a, b]) => infix(a, "·", b, Binding::Product),
            Op::Transpose([x]) => (format!("{}ᵀ", self.write(x, Binding::Tight)), Binding::Tight),
            Op::Slice([x, axis, first, count]) => (self.window(x, axis, first, count), Binding::Tight),
            Op::Concat([axis, ..]) => {
                let sign = if self.int(axis) == Some(0) { "; " } else { ", " };
                (format!("[{}]", self.parts(id, axis).join(sign)), Binding::Tight)
            }
            Op::Gather([table, index]) => {
                let index = self.write(index, Binding::Loose);
                (format!("{}[{index}]", self.write(table, Binding::Tight)), Binding::Tight)
            }
            Op::BandMask([before, after, _]) => {
                let bound = |id: Id| self.int(id).filter(|n| *n >= 0).map_or("∞".to_owned(), |n| n.to_string());
                (format!("mask(-{}..{})", bound(before), bound(after)), Binding::Tight)
            }
            Op::Weight(w) => (self.name(&self.names.weights, w.0 as usize, op), Binding::Tight),
            Op::Arg(a) => (self.name(&self.names.args, a.0 as usize, op), Binding::Tight),
            Op::Cache(c) => (format!("cache{}", c.0), Binding::Tight),
            ref op if op.is_leaf() => (op.name(), Binding::Tight),
            ref op => (self.call(op), Binding::Tight),
        }
    }

    fn name(&self, names: &[String], at: usize, op: &Op) -> String {
        names.get(at).cloned().unwrap_or_else(|| op.name())
    }

    /// `name(operands){term}`, the term left out where it is `acc`.
    fn call(&self, op: &Op) -> String {
        let term = op.term_child();
        let operands: Vec<String> = op
            .children()
            .iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != term)
            .map(|(_, c)| self.write(*c, Binding::Loose))
            .collect();
        let term = term.map(|at| op.children()[at]).filter(|t| !matches!(self.graph.node(*t).op, Op::Acc));
        let term = term.map_or(String::new(), |t| format!("{{{}}}", self.write(t, Binding::Loose)));
        format!("{op}({}){term}", operands.join(", "))
    }

    fn window(&self, x: Id, axis: Id, first: Id, count: Id) -> String {
        let rank = self.graph.node(x).fact.tensor().map_or(0, |t| t.shape.len());
        let x = self.write(x, Binding::Tight);
        let (Some(axis), Some(first), Some(count)) = (self.int(axis), self.int(first), self.int(count)) else {
            return x;
        };
        let range = format!("{first}..{}", first.saturating_add(count));
        let axes: Vec<&str> = (0..rank).map(|i| if i as i64 == axis { range.as_str() } else { ":" }).collect();
        format!("{x}[{}]", axes.join(", "))
    }

    /// Parts of a concatenation of concatenations along one axis.
    fn parts(&self, id: Id, axis: Id) -> Vec<String> {
        if let Some(name) = &self.bound[usize::from(id)] {
            return vec![name.clone()];
        }
        match self.graph.node(id).op {
            Op::Concat([own, a, b]) if own == axis && !self.marked.contains(&id) => {
                let mut parts = self.parts(a, axis);
                parts.extend(self.parts(b, axis));
                parts
            }
            // A marked one at the top has its marks around the brackets.
            Op::Concat([own, a, b]) if own == axis => {
                vec![self.write(a, Binding::Loose), self.write(b, Binding::Loose)]
            }
            _ => vec![self.write(id, Binding::Loose)],
        }
    }

    fn is_scalar(&self, id: Id) -> bool {
        matches!(self.graph.node(id).fact, Fact::Real(_))
    }

    fn int(&self, id: Id) -> Option<i64> {
        match self.graph.node(id).fact {
            Fact::Int(n) => Some(n),
            Fact::Tensor(_) | Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..) => None,
            Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEAD: &str = "weight @0 \"w\" f32[8, 8]\nweight @1 \"b\" f32[8]\narg $0 f32[tokens, 8]\n";

    fn graph(text: &str) -> Graph {
        format!("{HEAD}{text}").parse().unwrap()
    }

    fn names() -> Names {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Names { weights: names(&["w", "b"]), args: names(&["x"]), outputs: names(&["y"]) }
    }

    fn shown(text: &str) -> Vec<String> {
        algebra(&graph(text), &names(), &[])
    }

    #[test]
    fn terms_read_as_algebra() {
        assert_eq!(
            shown("%0 = (transpose @0)\n%1 = (matmul $0 %0)\n%2 = (add %1 @1)\n%3 = (gelu %2)\noutput out0 %3\n"),
            ["y = gelu(x · wᵀ + b)"]
        );
        assert_eq!(
            shown("%0 = (linear $0 @0 (gelu (add acc @1)))\noutput out0 %0\n"),
            ["y = linear(x, w){gelu(acc + b)}"]
        );
        assert_eq!(
            shown("%0 = (add $0 @1)\n%1 = (mul %0 2.0)\n%2 = (sub $0 %1)\n%3 = (slice %2 1 4 4)\noutput out0 %3\n"),
            ["y = (x - (x + b) * 2.0)[:, 4..8]"]
        );
        assert_eq!(
            shown("%0 = (concat 0 @0 @0)\n%1 = (concat 0 %0 @0)\n%2 = (linear $0 %1 acc)\noutput out0 %2\n"),
            ["y = linear(x, [w; w; w])"]
        );
    }

    #[test]
    fn shared_terms_have_a_line() {
        let text = "%0 = (add $0 @1)\n%1 = (gelu %0)\n%2 = (mul %1 %1)\noutput out0 %2\n";
        assert_eq!(shown(text), ["t0 = gelu(x + b)", "y = t0 ⊙ t0"]);
    }

    /// A hostile text can nest as deep as it is long.
    #[test]
    fn deep_terms_are_cut() {
        let deep = |op: &str| {
            let line = |i: usize| format!("%{} = ({op})\n", i + 1).replace("?", &format!("%{i}"));
            let lines: String = (0..20_000).map(line).collect();
            shown(&format!("%0 = (gelu $0)\n{lines}output out0 %20000\n")).len()
        };
        assert!(deep("gelu ?") > 100);
        assert!(deep("add ? @1") > 100);
    }

    #[test]
    fn differences_are_marked() {
        let before = graph("%0 = (linear $0 @0 acc)\n%1 = (add %0 @1)\n%2 = (gelu %1)\noutput out0 %2\n");
        let after = graph("%0 = (linear $0 @0 (add acc @1))\n%1 = (gelu %0)\noutput out0 %1\n");
        let found = difference(&before, &after).unwrap();
        assert_eq!(algebra(&found.before, &names(), &found.removed), ["y = gelu(«linear(x, w) + b»)"]);
        assert_eq!(algebra(&found.after, &names(), &found.added), ["y = gelu(«linear(x, w){acc + b}»)"]);
    }
}
