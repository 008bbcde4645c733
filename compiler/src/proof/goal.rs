//! What is to be proved of a group of calls: the formula's own term, and the term that the calls compute, both over what
//! the calls read.

use egg::{Id, Language};
use rustc_hash::FxHashMap;
use warpweft_plan::DType;
use warpweft_plan::provenance::FormulaValue;

use super::calls::{Group, is_read};
use super::formula::{Formula, Known};
use crate::extract::Extracted;
use crate::graph::{ArgDecl, CacheId, FactError, Graph, Op, TensorFact};
use crate::lower::{Call, Input, LoweredBody, Source};

/// Two lists of terms in one graph, to be shown equal one by one.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// Holds all terms. Its arguments are what the calls read.
    pub(super) graph: Graph,
    /// The formula's terms.
    pub(super) start: Vec<Id>,
    /// What the calls compute.
    pub(super) end: Vec<Id>,
    /// For each argument, the values of the formula that it holds side by side.
    pub(super) arguments: Vec<Vec<FormulaValue>>,
    /// Which values of the formula the terms are.
    pub(super) results: Vec<FormulaValue>,
    /// Nodes of the formula that the terms have.
    pub(super) covered: Vec<Id>,
    /// For each call, what its meaning is applied to; none where it has none.
    pub(super) operands: Vec<Option<Vec<Id>>>,
}

/// An activation as an argument.
fn argument(fact: &TensorFact) -> Result<ArgDecl, FactError> {
    match fact.dtype.is_quantized() && fact.constant {
        true => Err(FactError { op: "arg".into(), problem: format!("{} is a weight's", fact.dtype) }),
        false => Ok(ArgDecl { shape: fact.shape.clone(), dtype: fact.dtype }),
    }
}

/// A body as a program has it.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'a> {
    pub(super) formula: &'a Formula<'a>,
    pub(super) extracted: &'a Extracted,
    pub(super) lowered: &'a LoweredBody,
}

/// What is to be proved of a group; `None` if the formula has none of its results. Where `whole` is set, the terms reach
/// down to the body's own arguments, else to what the formula has of what the calls read.
pub(super) fn goal<'a>(chosen: Chosen<'a>, group: &'a Group, whole: bool) -> Result<Option<Goal>, FactError> {
    let mut builder = Builder {
        chosen,
        own: &group.results,
        whole,
        values: chosen.lowered.results.iter().map(|(&node, &value)| (value, node)).collect(),
        graph: Graph::default(),
        arguments: Vec::new(),
        args: FxHashMap::default(),
        cuts: FxHashMap::default(),
        computed: FxHashMap::default(),
        caches: FxHashMap::default(),
    };
    // Arguments in the order of the bindings.
    for call in group.calls.iter().map(|&at| &chosen.lowered.calls[at]) {
        for base in builder.bases(call) {
            builder.read(base)?;
        }
    }
    let (mut end, mut roots) = (Vec::new(), Vec::new());
    for &result in &group.results {
        let class = chosen.extracted.classes[usize::from(result)];
        let Some(known) = chosen.formula.known(class) else { continue };
        let term = builder.compute(result)?;
        match known {
            Known::Value(node) => {
                end.push(term);
                roots.push(node);
            }
            Known::Columns(columns) => {
                for window in columns {
                    end.push(builder.graph.slice(term, 1, window.first, window.columns)?);
                    roots.push(window.node);
                }
            }
        }
    }
    if end.is_empty() {
        return Ok(None);
    }
    let mut operands = Vec::new();
    for &at in &group.calls {
        operands.push(builder.operands(&chosen.lowered.calls[at])?);
    }
    let (start, covered) = builder.formula(&roots)?;
    let results = roots.iter().filter_map(|&root| chosen.formula.value(root)).collect();
    let Builder { graph, arguments, .. } = builder;
    Ok(Some(Goal { graph, start, end, arguments, results, covered, operands }))
}

struct Builder<'a> {
    chosen: Chosen<'a>,
    /// What the group computes: never read, even if it lies in memory.
    own: &'a [Id],
    whole: bool,
    /// The node of each value.
    values: FxHashMap<usize, Id>,
    graph: Graph,
    arguments: Vec<Vec<FormulaValue>>,
    /// By class, the argument that holds it.
    args: FxHashMap<Id, Id>,
    /// By class, what stands for it in the formula: an argument or columns of one.
    cuts: FxHashMap<Id, Id>,
    /// By node of the extracted graph.
    computed: FxHashMap<Id, Id>,
    caches: FxHashMap<CacheId, Id>,
}

impl Builder<'_> {
    /// The matrices that a call reads, in the order of its bindings.
    fn bases(&self, call: &Call) -> Vec<Id> {
        let body = &self.chosen.extracted.graph;
        let source = |source: &Source| match source {
            Source::Value(value) => self.values.get(value).copied(),
            Source::Arg(arg) => body.ids().find(|&id| matches!(body.node(id).op, Op::Arg(a) if a.0 as usize == *arg)),
        };
        let base = |(_, input): &(_, Input)| match input {
            Input::Activation(from) => source(from),
            Input::Weight(_) | Input::Vectors(_) => None,
        };
        call.inputs.iter().filter_map(base).collect()
    }

    /// What a node of the extracted graph that lies in memory is: an argument where the formula has it, else its own term.
    fn read(&mut self, id: Id) -> Result<Id, FactError> {
        let class = self.chosen.extracted.classes[usize::from(id)];
        if let Some(&arg) = self.args.get(&class) {
            return Ok(arg);
        }
        let node = self.chosen.extracted.graph.node(id);
        let is_arg = matches!(node.op, Op::Arg(_));
        let known = if self.whole && !is_arg { None } else { self.chosen.formula.known(class) };
        let (Some(known), Some(fact)) = (known, node.fact.tensor()) else { return self.compute(id) };
        let declared = self.graph.declare_arg(argument(fact)?);
        let arg = self.graph.add(Op::Arg(declared))?;
        let value = |node| self.chosen.formula.value(node);
        match known {
            Known::Value(node) => {
                self.arguments.push(value(node).into_iter().collect());
                self.cuts.insert(class, arg);
            }
            Known::Columns(columns) => {
                self.arguments.push(columns.iter().filter_map(|w| value(w.node)).collect());
                for window in columns {
                    let part = self.graph.slice(arg, 1, window.first, window.columns)?;
                    self.cuts.insert(window.class, part);
                }
            }
        }
        self.args.insert(class, arg);
        Ok(arg)
    }

    /// The term of a node of the extracted graph.
    fn compute(&mut self, id: Id) -> Result<Id, FactError> {
        if let Some(&done) = self.computed.get(&id) {
            return Ok(done);
        }
        let (body, lowered) = (&self.chosen.extracted.graph, self.chosen.lowered);
        let mut op = body.node(id).op.clone();
        for child in op.children_mut() {
            let at = *child;
            let in_memory = is_read(body, lowered, at) && !matches!(body.node(at).op, Op::Slice(_));
            let in_memory = in_memory && !self.own.contains(&at);
            *child = if in_memory { self.read(at)? } else { self.compute(at)? };
        }
        let done = match op {
            Op::Arg(_) => self.read(id)?,
            other => self.add(other, body)?,
        };
        self.computed.insert(id, done);
        Ok(done)
    }

    /// Adds a node of `from`, which declares what leaves refer to, its children being there.
    fn add(&mut self, op: Op, from: &Graph) -> Result<Id, FactError> {
        match op {
            Op::Weight(w) => {
                let weight = self.graph.declare_weight(from.declarations().weights[w.0 as usize].clone());
                self.graph.add(Op::Weight(weight))
            }
            Op::Cache(c) => {
                if let Some(&known) = self.caches.get(&c) {
                    return Ok(known);
                }
                let cache = self.graph.declare_cache(from.declarations().caches[c.0 as usize].clone());
                let cache = self.graph.add(Op::Cache(cache))?;
                self.caches.insert(c, cache);
                Ok(cache)
            }
            other => self.graph.add(other),
        }
    }

    /// What a call's meaning is applied to: activations, then weights.
    fn operands(&mut self, call: &Call) -> Result<Option<Vec<Id>>, FactError> {
        let body = &self.chosen.extracted.graph;
        if call.meaning.outputs().is_empty() {
            return Ok(None);
        }
        let gathers = call.meaning.nodes().iter().any(|n| matches!(n.op, Op::Gather(_)));
        let mut operands = Vec::new();
        for base in self.bases(call) {
            operands.push(self.read(base)?);
        }
        for (_, input) in &call.inputs {
            match input {
                Input::Activation(_) => {}
                Input::Weight(weight) => {
                    let whole = self.compute(weight.node)?;
                    let shape = &body.tensor(weight.node)?.shape;
                    let rows = shape.first().and_then(|d| d.as_constant()).and_then(|n| u64::try_from(n).ok());
                    operands.push(match rows {
                        _ if weight.first == 0 && rows == Some(weight.rows) => whole,
                        // A vector of one row.
                        Some(1) if shape.len() == 2 => whole,
                        // What a kernel leaves alone, a graph cannot say.
                        _ if gathers => return Ok(None),
                        _ => self.graph.slice(whole, 0, weight.first, weight.rows)?,
                    });
                }
                Input::Vectors(nodes) => {
                    let mut whole: Option<Id> = None;
                    for &node in nodes {
                        let mut part = self.compute(node)?;
                        // Vectors are f32 in memory, whatever they are in the checkpoint.
                        if body.tensor(node)?.dtype != DType::F32 {
                            let one = self.graph.real(1.0)?;
                            part = self.graph.times(part, one)?;
                        }
                        whole = Some(match whole {
                            Some(before) => {
                                let axis = self.graph.int(0)?;
                                self.graph.add(Op::Concat([axis, before, part]))?
                            }
                            None => part,
                        });
                    }
                    operands.extend(whole);
                }
            }
        }
        Ok(Some(operands))
    }

    /// The formula's terms of these nodes, and the nodes that they have.
    fn formula(&mut self, roots: &[Id]) -> Result<(Vec<Id>, Vec<Id>), FactError> {
        let formula = self.chosen.formula;
        let body = formula.body;
        let mut needed = vec![false; body.nodes().len()];
        for &root in roots {
            needed[usize::from(root)] = true;
        }
        for at in (0..needed.len()).rev() {
            let id = Id::from(at);
            if needed[at] && !self.cuts.contains_key(&formula.class(id)) {
                body.node(id).op.for_each(|c| needed[usize::from(c)] = true);
            }
        }
        // In the formula's order, so that what depends on order turns out as it does for the whole body.
        let mut copies: FxHashMap<Id, Id> = FxHashMap::default();
        let mut covered = Vec::new();
        for id in body.ids().filter(|id| needed[usize::from(*id)]) {
            let node = body.node(id);
            if let Some(&cut) = self.cuts.get(&formula.class(id)) {
                copies.insert(id, cut);
                continue;
            }
            let copy = match node.op {
                Op::Arg(_) => self.argument(id)?,
                ref op => self.add(op.clone().map_children(|c| copies[&c]), body)?,
            };
            copies.insert(id, copy);
            if node.fact.tensor().is_some_and(|t| !t.constant) && !node.op.is_leaf() {
                covered.push(id);
            }
        }
        Ok((roots.iter().map(|root| copies[root]).collect(), covered))
    }

    /// An argument of the body that no call of the group reads.
    fn argument(&mut self, id: Id) -> Result<Id, FactError> {
        let formula = self.chosen.formula;
        let fact = formula.body.tensor(id)?;
        let declared = self.graph.declare_arg(argument(fact)?);
        let arg = self.graph.add(Op::Arg(declared))?;
        self.arguments.push(formula.value(id).into_iter().collect());
        self.cuts.insert(formula.class(id), arg);
        Ok(arg)
    }
}
