//! Results that are written over what they add to.
//!
//! A residual is read where the sum goes: by the same invocation, element by element. Where nobody reads the residual again, both
//! can be one buffer, which saves memory that would hold a sum and its summand side by side.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Call, Input, LoweredBody, Place, Source};
use crate::graph::{Graph, Id};
use crate::kernels::Slot;
use crate::kernels::spec::{Operand, Operation, View};
use crate::roll::Rolled;

/// Writes results over what they add to, in all bodies; `graphs` are the bodies' programs.
pub fn write_over(model: &Graph, rolled: &Rolled, graphs: &[&Graph], bodies: &mut [LoweredBody]) {
    let kept: FxHashSet<Id> = model.outputs().iter().map(|output| output.id).collect();
    let mut readers: FxHashMap<Id, usize> = FxHashMap::default();
    for node in rolled.regions.iter().flat_map(|region| region.args.iter().collect::<FxHashSet<_>>()) {
        *readers.entry(*node).or_default() += 1;
    }
    for (at, (graph, body)) in graphs.iter().zip(bodies).enumerate() {
        let regions: Vec<_> = rolled.regions.iter().filter(|region| region.body == at).collect();
        // The region is the only one that reads it, wherever the body stands, and it is no result.
        let is_own = |arg: usize| {
            regions.iter().all(|region| {
                region.args.get(arg).is_some_and(|node| readers.get(node) == Some(&1) && !kept.contains(node))
            })
        };
        let is_result = |value: usize| {
            let outputs = body.outputs.iter().enumerate().filter(|(_, output)| **output == value);
            outputs.into_iter().any(|(i, _)| regions.iter().any(|r| r.outputs.get(i).is_none_or(|n| kept.contains(n))))
        };
        let ancestors = ancestors(&body.calls);
        let mut changes = Vec::new();
        for (call, found) in body.calls.iter().enumerate() {
            let Operation::Linear { operands, out, .. } = found.operation.inner() else { continue };
            let Some(&value) = found.values.first().filter(|value| !is_result(**value)) else { continue };
            if *out != View::whole(out.width) {
                continue;
            }
            let over = operands.iter().position(|operand| *operand == Operand::Matrix(*out));
            let Some(operand) = over else { continue };
            let source = found.inputs.iter().find_map(|(slot, input)| match input {
                Input::Activation(source) if *slot == Slot::Operand(operand) => Some(*source),
                Input::Activation(_) | Input::Weight(_) | Input::Vectors(_) => None,
            });
            let Some(source) = source else { continue };
            let fits = match source {
                Source::Value(v) => {
                    let (old, new) = (body.values[v], body.values[value]);
                    old == new && old.place == Place::Step && !body.outputs.contains(&v)
                }
                Source::Arg(arg) => {
                    let shape = graph.declarations().args.get(arg).map(|decl| decl.shape.as_slice());
                    let new = body.values[value];
                    is_own(arg)
                        && new.place == Place::Step
                        && shape == Some(&[new.rows.dim(), i64::from(new.width).into()])
                }
            };
            let reads = |call: &Call| {
                call.inputs.iter().filter(|(_, input)| matches!(input, Input::Activation(s) if *s == source)).count()
            };
            // Whoever else reads it has done so when this call runs.
            let last = (body.calls.iter().enumerate())
                .all(|(other, it)| other == call || reads(it) == 0 || ancestors[call].contains(&other));
            if fits && last && reads(found) == 1 {
                changes.push((call, operand));
            }
        }
        for (call, operand) in changes {
            if let Operation::Linear { operands, .. } = body.calls[call].operation.inner_mut() {
                operands[operand] = Operand::Result;
            }
        }
    }
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
