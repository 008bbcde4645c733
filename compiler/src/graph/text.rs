//! The text form of a graph; it prints and parses.
//!
//! ```text
//! weight @0 "encoder.up.weight" f16[1536, 384]
//! weight @1 "encoder.up.bias" f32[1536]
//! weight @2 "encoder.down.weight" int4-g32[384, 1536]
//! arg $0 f32[tokens, 384]
//! layer 0
//! %0 = (layer-norm $0 1e-12 acc)
//! %1 = (linear %0 @0 (gelu (add acc @1)))
//! output up %1
//! ```
//!
//! Leaves, terms and prologues are written where they are used; every other node has a line of its own. `layer n` and `layer none`
//! say to which layer the lines below belong. `#` starts a comment.

use std::fmt::{self, Write};

use egg::{FromOp, Id, Language};
use warpweft_plan::Dim;

use super::{ArgDecl, CacheDecl, Element, Fact, FactError, Graph, Op, WeightDecl, show};

/// A text that is no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TextError {
    /// Counted from 1.
    pub line: usize,
    /// What was found and what was expected.
    pub problem: String,
}

impl Graph {
    /// For each node: its number n where the text form has a line `%n` for it.
    pub fn lines(&self) -> Vec<Option<u32>> {
        let mut next = 0;
        let line = |node: &super::Node| {
            let line = has_line(node).then_some(next);
            next += u32::from(line.is_some());
            line
        };
        self.nodes().iter().map(line).collect()
    }
}

/// Leaves, terms and prologues stand where they are used.
fn has_line(node: &super::Node) -> bool {
    !node.op.is_leaf() && !matches!(node.fact, Fact::Term(_) | Fact::Prologue(_))
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.declarations();
        for (i, w) in d.weights.iter().enumerate() {
            let shape: Vec<_> = w.shape.iter().map(u64::to_string).collect();
            writeln!(f, "weight @{i} {} {}[{}]", quote(&w.name), w.dtype, shape.join(", "))?;
        }
        for (i, a) in d.args.iter().enumerate() {
            writeln!(f, "arg ${i} {}{}", a.dtype, show(&a.shape))?;
        }
        for (i, c) in d.caches.iter().enumerate() {
            writeln!(f, "cache &{i} {}", c.width)?;
        }
        let mut names = Vec::with_capacity(self.nodes().len());
        let (mut lines, mut layer) = (0, None);
        for node in self.nodes() {
            let mut text = String::new();
            write_op(&mut text, &node.op, &names)?;
            if !has_line(node) {
                names.push(text);
                continue;
            }
            if node.layer != layer {
                layer = node.layer;
                match layer {
                    Some(n) => writeln!(f, "layer {n}")?,
                    None => writeln!(f, "layer none")?,
                }
            }
            writeln!(f, "%{lines} = {text}")?;
            names.push(format!("%{lines}"));
            lines += 1;
        }
        for output in self.outputs() {
            writeln!(f, "output {} {}", output.name, names[usize::from(output.id)])?;
        }
        Ok(())
    }
}

fn write_op(out: &mut String, op: &Op, names: &[String]) -> fmt::Result {
    if op.is_leaf() {
        return write!(out, "{op}");
    }
    write!(out, "({op}")?;
    for child in op.children() {
        write!(out, " {}", names[usize::from(*child)])?;
    }
    out.write_str(")")
}

impl std::str::FromStr for Graph {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Graph, TextError> {
        let mut parser = Parser { graph: Graph::default(), lines: Vec::new() };
        for (i, line) in text.lines().enumerate() {
            let line = without_comment(line).trim();
            if !line.is_empty() {
                parser.line(line).map_err(|problem| TextError { line: i + 1, problem })?;
            }
        }
        Ok(parser.graph)
    }
}

/// How deep expressions may nest, so that a hostile text cannot exhaust the stack.
const MAX_DEPTH: usize = 200;

struct Parser {
    graph: Graph,
    lines: Vec<Id>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with('%') {
            let (name, text) = line.split_once('=').ok_or("expected %n = (op …)")?;
            if name.trim() != format!("%{}", self.lines.len()) {
                return Err(format!("expected %{} here, found {}", self.lines.len(), name.trim()));
            }
            let id = self.whole_expression(text)?;
            self.lines.push(id);
            return Ok(());
        }
        let (word, rest) = line.split_once(' ').ok_or_else(|| format!("expected a statement, found {line:?}"))?;
        let rest = rest.trim();
        match word {
            "weight" => self.weight(rest),
            "arg" => self.arg(rest),
            "cache" => self.cache(rest),
            "layer" => {
                let layer = match rest {
                    "none" => None,
                    n => Some(n.parse().map_err(|_| format!("expected a layer number or none, found {n:?}"))?),
                };
                self.graph.set_layer(layer);
                Ok(())
            }
            "output" => {
                let (name, value) = rest.split_once(' ').ok_or("expected output name value")?;
                let id = self.whole_expression(value)?;
                self.graph.add_output(name, id);
                Ok(())
            }
            other => Err(format!("expected weight, arg, cache, layer, output or %n, found {other:?}")),
        }
    }

    fn weight(&mut self, rest: &str) -> Result<(), String> {
        let (sigil, rest) = rest.split_once(' ').ok_or("expected weight @n \"name\" dtype[shape]")?;
        let (name, kind) = quoted(rest.trim()).ok_or("expected a quoted name")?;
        let (dtype, shape) = parse_kind(kind.trim())?;
        let size = |d: &Dim| d.as_constant().and_then(|n| u64::try_from(n).ok());
        let shape = shape.iter().map(size).collect::<Option<Vec<_>>>().ok_or("a weight's shape is constant")?;
        let at = self.graph.declarations().weights.len();
        let id = self.graph.declare_weight(WeightDecl { name, dtype, shape });
        if sigil != format!("@{at}") || id.0 as usize != at {
            return Err(format!("expected a new weight @{at}, found {sigil}"));
        }
        Ok(())
    }

    fn arg(&mut self, rest: &str) -> Result<(), String> {
        let (sigil, kind) = rest.split_once(' ').ok_or("expected arg $n dtype[shape]")?;
        let (dtype, shape) = parse_kind(kind.trim())?;
        if dtype.is_quantized() && !dtype.is_activations() {
            return Err(format!("an argument holds numbers or int8, not {dtype}"));
        }
        let id = self.graph.declare_arg(ArgDecl { shape, dtype });
        if sigil != id.to_string() {
            return Err(format!("expected {id}, found {sigil}"));
        }
        Ok(())
    }

    fn cache(&mut self, rest: &str) -> Result<(), String> {
        let (sigil, width) = rest.split_once(' ').ok_or("expected cache &n width")?;
        let width = width.trim().parse().map_err(|_| format!("expected a width, found {width:?}"))?;
        let id = self.graph.declare_cache(CacheDecl { width });
        if sigil != id.to_string() {
            return Err(format!("expected {id}, found {sigil}"));
        }
        Ok(())
    }

    fn whole_expression(&mut self, text: &str) -> Result<Id, String> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        let id = self.expression(&mut rest, 0)?;
        match rest.first() {
            Some(extra) => Err(format!("expected the end of the line, found {extra:?}")),
            None => Ok(id),
        }
    }

    fn expression(&mut self, rest: &mut &[&str], depth: usize) -> Result<Id, String> {
        if depth > MAX_DEPTH {
            return Err(format!("expressions nest deeper than {MAX_DEPTH}"));
        }
        let word = take(rest).ok_or("expected an expression")?;
        if word != "(" {
            return self.leaf(word);
        }
        let name = take(rest).ok_or("expected an operator")?;
        let mut children = Vec::new();
        while *rest.first().ok_or("expected )")? != ")" {
            children.push(self.expression(rest, depth + 1)?);
        }
        take(rest);
        let op = Op::from_op(name, children).map_err(|e| e.to_string())?;
        self.graph.add(op).map_err(|e: FactError| e.to_string())
    }

    fn leaf(&mut self, word: &str) -> Result<Id, String> {
        if let Some(number) = word.strip_prefix('%') {
            let at = number.parse::<usize>().ok().and_then(|n| self.lines.get(n));
            return at.copied().ok_or_else(|| format!("{word} is not defined above"));
        }
        let op = Op::from_op(word, vec![]).map_err(|_| format!("{word:?} is no leaf"))?;
        self.graph.add(op).map_err(|e| e.to_string())
    }
}

/// A name between quotes, in one line: quotes, backslashes and line breaks are escaped.
fn quote(name: &str) -> String {
    let mut out = String::from('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The name that `text` starts with, as [`quote`] writes it, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some((name, chars.as_str())),
            '\\' => name.push(match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                c => c,
            }),
            c => name.push(c),
        }
    }
}

/// The line up to the first `#` that stands in no quoted name.
fn without_comment(line: &str) -> &str {
    let (mut in_name, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            '#' if !in_name => return &line[..at],
            '"' if !escaped => in_name = !in_name,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    line
}

fn take<'t>(rest: &mut &[&'t str]) -> Option<&'t str> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(first)
}

fn parse_kind(text: &str) -> Result<(Element, Vec<Dim>), String> {
    let error = || format!("expected dtype[sizes], found {text:?}");
    let (dtype, shape) = text.strip_suffix(']').and_then(|t| t.split_once('[')).ok_or_else(error)?;
    let dtype = dtype.parse::<Element>().map_err(|e| e.to_string())?;
    let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape = sizes.map(|s| s.parse::<Dim>().map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
    Ok((dtype, shape))
}
