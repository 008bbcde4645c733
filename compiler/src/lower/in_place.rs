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
        let found = Found { kept: &kept, readers: &readers, regions, graph, body };
        let ancestors = ancestors(&body.calls);
        let over = |(call, before)| Some((call, found.over(call, before)?));
        let changes: Vec<(usize, usize)> = ancestors.iter().enumerate().filter_map(over).collect();
        for (call, operand) in changes {
            if let Operation::Linear { operands, .. }
            | Operation::Normalize { operands, .. }
            | Operation::Map { operands, .. } = body.calls[call].operation.inner_mut()
            {
                operands[operand] = Operand::Result;
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
}

impl Found<'_> {
    /// The operand over which a call can write its result; `before` are the calls that have run by then.
    fn over(&self, call: usize, before: &FxHashSet<usize>) -> Option<usize> {
        let body = self.body;
        let found = &body.calls[call];
        let (operands, out) = found.operation.pointwise()?;
        let value = *found.values.first()?;
        let fits = |&operand: &usize| {
            let Some(source) = found.operand(operand) else { return false };
            let others = body.calls.iter().enumerate().filter(|(other, it)| *other != call && reads(it, source) > 0);
            operands[operand] == Operand::Matrix(out)
                && self.is_free(source, value)
                && reads(found, source) == 1
                && others.into_iter().all(|(other, _)| before.contains(&other))
        };
        // Of several the last: a residual stands behind what was just made, and its buffer is the older one.
        let is_whole = out == View::whole(out.width) && body.values[value].place == Place::Step;
        if is_whole && !self.is_result(value) { (0..operands.len()).rev().find(fits) } else { None }
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
