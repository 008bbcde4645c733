//! The labels of nodes: what is not drawn as a node, as algebra: `silu(acc) ⊙ acc2`, `[q_proj; k_proj]ᵀ`.
//!
//! The signs are those of `compile-model explain`: products of matrices `·`, of elements `⊙`, with a scalar `*`.

use egg::{Id, Language};
use warpweft_compiler::graph::{Graph, Op};

/// Longest text of one value; what is longer is cut, so that a graph that shares much does not grow without bound.
const LONGEST: usize = 1500;

/// How tightly a text holds together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Sum,
    Product,
    Atom,
}

/// A value's text.
#[derive(Clone, Debug)]
struct Text {
    text: String,
    level: Level,
    /// It is a concatenation along this axis.
    joined: Option<i64>,
}

impl Text {
    fn atom(text: impl Into<String>) -> Text {
        Text { text: text.into(), level: Level::Atom, joined: None }
    }

    /// In parentheses where it holds together less than `least`.
    fn at(&self, least: Level) -> String {
        if self.level < least { format!("({})", self.text) } else { self.text.clone() }
    }
}

/// What the leaves of a graph are called.
pub(super) struct Names {
    /// By [`warpweft_compiler::graph::WeightId`].
    pub(super) weights: Vec<String>,
    /// By [`warpweft_compiler::graph::ArgId`].
    pub(super) args: Vec<String>,
}

/// The texts of a graph's values.
pub(super) struct Formulas {
    texts: Vec<Text>,
    /// The number of each node's line in the graph's text form; none for leaves and terms.
    lines: Vec<Option<u32>>,
}

impl Formulas {
    /// Values that are computed when the model runs are called by the number of their line: `%3`.
    pub(super) fn by_line(graph: &Graph, names: &Names) -> Formulas {
        Formulas::of(graph, names, true)
    }

    /// The same, or with every value written out to its leaves.
    fn of(graph: &Graph, names: &Names, cut: bool) -> Formulas {
        let mut formulas = Formulas { texts: Vec::new(), lines: graph.lines() };
        for (at, node) in graph.nodes().iter().enumerate() {
            let text = match (&node.op, formulas.lines[at]) {
                // A result of a node is called after the node.
                (Op::First([pair]) | Op::Second([pair]), _) => Text::atom(formulas.get(*pair)),
                (_, Some(n)) if cut && !node.fact.is_constant() => Text::atom(format!("%{n}")),
                (_, Some(_) | None) => formulas.text(&node.op, names),
            };
            formulas.texts.push(clipped(text));
        }
        formulas
    }

    /// A value's text.
    pub(super) fn get(&self, id: Id) -> &str {
        self.child(id).map_or("", |t| t.text.as_str())
    }

    /// The number of its line in the text form.
    pub(super) fn line(&self, id: Id) -> Option<u32> {
        self.lines.get(usize::from(id)).copied().flatten()
    }

    fn child(&self, id: Id) -> Option<&Text> {
        self.texts.get(usize::from(id))
    }

    fn at(&self, id: Id, least: Level) -> String {
        self.child(id).map_or(String::new(), |t| t.at(least))
    }

    fn infix(&self, [a, b]: [Id; 2], sign: &str, level: Level) -> Text {
        // a - (b + c) and a / (b · c) keep their parentheses.
        let right = if level == Level::Sum { Level::Product } else { Level::Atom };
        Text { text: format!("{} {sign} {}", self.at(a, level), self.at(b, right)), level, joined: None }
    }

    fn text(&self, op: &Op, names: &Names) -> Text {
        let named = |list: &[String], i: u32| list.get(i as usize).cloned();
        match op {
            Op::Weight(w) => return Text::atom(named(&names.weights, w.0).unwrap_or_else(|| w.to_string())),
            Op::Arg(a) => return Text::atom(named(&names.args, a.0).unwrap_or_else(|| a.to_string())),
            Op::Cache(c) => return Text::atom(format!("cache{}", c.0)),
            Op::Add(children) => return self.infix(*children, "+", Level::Sum),
            Op::Sub(children) => return self.infix(*children, "-", Level::Sum),
            Op::Mul(children) => {
                let scalar = children.iter().any(|&c| self.is_scalar(c));
                return self.infix(*children, if scalar { "*" } else { "⊙" }, Level::Product);
            }
            Op::Div(children) => return self.infix(*children, "/", Level::Product),
            Op::MatMul(children) => return self.infix(*children, "·", Level::Product),
            Op::Transpose([x]) => return Text::atom(format!("{}ᵀ", self.at(*x, Level::Atom))),
            Op::Gather([table, index]) => {
                return Text::atom(format!("{}[{}]", self.at(*table, Level::Atom), self.get(*index)));
            }
            Op::Concat([axis, a, b]) => return self.concat(self.number(*axis), *a, *b),
            Op::Slice([x, axis, first, len]) => {
                let window = self.window(*axis, *first, *len);
                return Text::atom(format!("{}[{window}]", self.at(*x, Level::Atom)));
            }
            _ if op.is_leaf() => return Text::atom(op.name()),
            _ => {}
        }
        self.call(op)
    }

    /// `name(operands){term}`
    fn call(&self, op: &Op) -> Text {
        let term = op.term_child();
        let operands = op.children().iter().enumerate().filter(|(i, _)| Some(*i) != term);
        let operands: Vec<&str> = operands.map(|(_, &c)| self.get(c)).collect();
        Text::atom(format!("{}({}){}", op.name(), operands.join(", "), self.braced(op)))
    }

    /// What a kernel does to each element, in braces; nothing if it does nothing.
    pub(super) fn braced(&self, op: &Op) -> String {
        match self.term(op) {
            Some(term) => format!("{{{term}}}"),
            None => String::new(),
        }
    }

    /// What a kernel does to each element that its algorithm has computed; `None` if it leaves it as it is.
    pub(super) fn term(&self, op: &Op) -> Option<&str> {
        let term = self.get(*op.children().get(op.term_child()?)?);
        (term != "acc").then_some(term)
    }

    fn concat(&self, axis: Option<i64>, a: Id, b: Id) -> Text {
        let sign = if axis == Some(0) { ";" } else { "," };
        let inner = |id: Id| {
            let joined = |t: &Text| t.joined.is_some() && t.joined == axis;
            let open = |t: &Text| t.text.get(1..t.text.len() - 1).unwrap_or_default().to_owned();
            self.child(id).map_or(String::new(), |t| if joined(t) { open(t) } else { t.text.clone() })
        };
        Text { text: format!("[{}{sign} {}]", inner(a), inner(b)), level: Level::Atom, joined: axis }
    }

    /// The columns (or rows) of a slice.
    pub(super) fn window(&self, axis: Id, first: Id, len: Id) -> String {
        let end = self.number(first).zip(self.number(len)).and_then(|(first, len)| first.checked_add(len));
        let end = end.map_or_else(|| format!("{} + {}", self.get(first), self.get(len)), |end| end.to_string());
        let before = if self.number(axis) == Some(0) { "" } else { ":, " };
        format!("{before}{}…{end}", self.get(first))
    }

    fn is_scalar(&self, id: Id) -> bool {
        self.get(id).parse::<f64>().is_ok()
    }

    fn number(&self, id: Id) -> Option<i64> {
        self.get(id).parse().ok()
    }
}

fn clipped(text: Text) -> Text {
    if text.text.len() <= LONGEST {
        return text;
    }
    let end = (0..=LONGEST).rev().find(|&i| text.text.is_char_boundary(i)).unwrap_or(0);
    Text::atom(format!("{}…", &text.text[..end]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names() -> Names {
        Names { weights: vec!["q".into(), "k".into(), "v".into()], args: vec!["x".into()] }
    }

    fn shown(lines: &str) -> String {
        let head =
            "weight @0 \"q\" f32[4, 4]\nweight @1 \"k\" f32[4, 4]\nweight @2 \"v\" f32[4, 4]\narg $0 f32[tokens, 4]\n";
        let graph: Graph = format!("{head}{lines}").parse().unwrap();
        Formulas::of(&graph, &names(), false).get(graph.outputs()[0].id).to_owned()
    }

    #[test]
    fn operators_read_as_on_paper() {
        assert_eq!(shown("output o (matmul $0 (transpose @0))"), "x · qᵀ");
        assert_eq!(shown("output o (mul (add $0 1.0) 2.0)"), "(x + 1.0) * 2.0");
        assert_eq!(shown("output o (sub $0 (sub $0 1.0))"), "x - (x - 1.0)");
        assert_eq!(shown("output o (add (mul $0 2.0) $0)"), "x * 2.0 + x");
        assert_eq!(shown("output o (linear $0 (concat 0 (concat 0 @0 @1) @2) acc)"), "linear(x, [q; k; v])");
        assert_eq!(
            shown("output o (linear-pair $0 @0 @1 (mul (silu acc) acc2))"),
            "linear-pair(x, q, k){silu(acc) ⊙ acc2}"
        );
        assert_eq!(shown("output o (slice $0 1 1 2)"), "x[:, 1…3]");
    }

    #[test]
    fn a_graph_that_shares_much_stays_short() {
        let mut lines = String::from("%0 = (add $0 $0)\n");
        for n in 1..60 {
            lines += &format!("%{n} = (mul %{0} %{0})\n", n - 1);
        }
        let text = shown(&format!("{lines}output o %59"));
        assert!(text.len() < 3 * LONGEST, "{}", text.len());
    }
}
