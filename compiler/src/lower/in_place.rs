//! Results that are written over what they add to.
//!
//! A residual is read where the sum goes: by the same invocation, element by element. So are the rows that a norm goes over,
//! before that. Where nobody reads them again, both can be one buffer, which saves memory that would hold a sum and its summand
//! side by side.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Call, Input, LoweredBody, Place, Source};
use crate::graph::{Graph, Id};
use crate::kernels::spec::{Operand, Operation, View};
use crate::roll::{Region, Rolled};

/// Writes results over what they add to, in all bodies; `graphs` are the bodies' programs.
pub fn write_over(model: &Graph, rolled: &Rolled, graphs: &[&Graph], bodies: &mut [LoweredBody]) {
    let kept: FxHashSet<Id> = model.outputs().iter().map(|output| output.id).collect();
    let mut readers: FxHashMap<Id, usize> = FxHashMap::default();
    for node in rolled.regions.iter().flat_map(|region| &region.args) {
        *readers.entry(*node).or_default() += 1;
    }
    for (at, (graph, body)) in graphs.iter().zip(bodies).enumerate() {
        let regions: Vec<&Region> = rolled.regions.iter().filter(|region| region.body == at).collect();
        let turns = turns(&body.calls);
        let found = Found { kept: &kept, readers: &readers, regions, graph, body, turns };
        let ancestors = ancestors(&body.calls);
        let over = |(call, before)| found.over(call, before).into_iter().map(move |(at, over)| (call, at, over));
        let changes: Vec<(usize, usize, Operand)> = ancestors.iter().enumerate().flat_map(over).collect();
        for (call, at, over) in changes {
            if let Operation::Linear { operands, .. }
            | Operation::Normalize { operands, .. }
            | Operation::Map { operands, .. } = body.calls[call].operation.inner_mut()
            {
                operands[at] = over;
            }
        }
    }
}

/// A body, and what is known of the model around it.
struct Found<'m> {
    /// Results of the model.
    kept: &'m FxHashSet<Id>,
    /// How many regions read a node from outside.
    readers: &'m FxHashMap<Id, usize>,
    /// Where the body stands.
    regions: Vec<&'m Region>,
    graph: &'m Graph,
    body: &'m LoweredBody,
    turns: FxHashMap<usize, usize>,
}

impl Found<'_> {
    /// Operands over which a call can write its results, and as what it then has them; `before` are the calls that have run by
    /// then.
    fn over(&self, call: usize, before: &FxHashSet<usize>) -> Vec<(usize, Operand)> {
        let body = self.body;
        let found = &body.calls[call];
        let Some((operands, out)) = found.operation.pointwise() else { return Vec::new() };
        // The second result of any other has rows of its own.
        let twice = matches!(found.operation, Operation::Normalize { then: Some(_), .. });
        let results: &[Operand] = if twice { &[Operand::Result, Operand::Next] } else { &[Operand::Result] };
        let mut taken: Vec<(usize, Operand)> = Vec::new();
        for (&value, &over) in found.values.iter().zip(results) {
            let is_whole = out == View::whole(out.width) && body.values[value].place == Place::Step;
            let fits = |&at: &usize| {
                let Some(source) = found.operand(at) else { return false };
                let others =
                    body.calls.iter().enumerate().filter(|(other, it)| *other != call && reads(it, source) > 0);
                operands[at] == Operand::Matrix(out)
                    && taken.iter().all(|(other, _)| *other != at)
                    && (over != Operand::Next || is_beside(source, &self.turns))
                    && self.is_free(source, value)
                    && reads(found, source) == 1
                    && others.into_iter().all(|(other, _)| before.contains(&other))
            };
            if is_whole && !self.is_result(value) {
                // Of several the last: a residual stands behind what was just made, and its buffer is the older one.
                let last = (0..operands.len()).rev().find(fits);
                taken.extend(last.map(|at| (at, over)));
            }
        }
        taken
    }

    /// Whether what stands there is like the value, and nobody needs it behind the body or beside it.
    fn is_free(&self, source: Source, value: usize) -> bool {
        let new = self.body.values[value];
        match source {
            Source::Value(old) => self.body.values[old] == new && !self.body.outputs.contains(&old),
            Source::Arg(arg) => {
                let declared = self.graph.declarations().args.get(arg);
                let is_own = |region: &&Region| {
                    let node = region.args.get(arg);
                    node.is_some_and(|node| self.readers.get(node) == Some(&1) && !self.kept.contains(node))
                };
                declared.is_some_and(|decl| decl.shape == [new.rows.dim(), i64::from(new.width).into()])
                    && self.regions.iter().all(is_own)
            }
        }
    }

    /// Whether a value is a result of the model wherever the body stands.
    fn is_result(&self, value: usize) -> bool {
        let outputs = self.body.outputs.iter().enumerate().filter(|(_, output)| **output == value);
        let kept = |i: usize| self.regions.iter().any(|r| r.outputs.get(i).is_none_or(|node| self.kept.contains(node)));
        outputs.into_iter().any(|(i, _)| kept(i))
    }
}

/// How many values lie between the rows that a norm left and each value, by its index. Calls write two buffers in turn, the products and
/// what is made of them, for none can write what it reads.
fn turns(calls: &[Call]) -> FxHashMap<usize, usize> {
    let mut turns = FxHashMap::default();
    for call in calls {
        let known = call.inputs.iter().filter_map(|(_, input)| match input {
            Input::Activation(Source::Value(value)) => turns.get(value).copied(),
            Input::Activation(Source::Arg(_)) | Input::Weight(_) | Input::Vectors(_) => None,
        });
        let is_norm = matches!(call.operation, Operation::Normalize { .. });
        let next = if is_norm { 0 } else { known.max().unwrap_or(0) + 1 };
        turns.extend(call.values.iter().map(|value| (*value, next)));
    }
    turns
}

/// Whether a value is where products are not, so that rows of which a product is made next may stay there.
fn is_beside(source: Source, turns: &FxHashMap<usize, usize>) -> bool {
    match source {
        Source::Value(value) => turns.get(&value).is_none_or(|turns| turns % 2 == 0),
        Source::Arg(_) => true,
    }
}

/// How often a call reads an activation.
fn reads(call: &Call, source: Source) -> usize {
    call.inputs.iter().filter(|(_, input)| matches!(input, Input::Activation(read) if *read == source)).count()
}

/// For each call, those whose results it needs, directly or not.
fn ancestors(calls: &[Call]) -> Vec<FxHashSet<usize>> {
    let mut all: Vec<FxHashSet<usize>> = Vec::with_capacity(calls.len());
    for call in calls {
        let mut own = FxHashSet::default();
        for (_, input) in &call.inputs {
            let Input::Activation(Source::Value(value)) = input else { continue };
            for (writer, known) in all.iter().enumerate().filter(|(w, _)| calls[*w].values.contains(value)) {
                own.insert(writer);
                own.extend(known);
            }
        }
        all.push(own);
    }
    all
}
