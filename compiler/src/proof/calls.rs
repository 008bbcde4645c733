//! Which nodes of an extracted graph each kernel call computes, and which it reads.

use egg::{Id, Language};
use rustc_hash::FxHashMap;

use crate::graph::{Fact, Graph, Op};
use crate::kernels::Slot;
use crate::lower::{Call, Input, LoweredBody, Source};

/// Calls that compute one result together: windows of a weight, chunks of a context.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Indices of the calls, in order.
    pub(super) calls: Vec<usize>,
    /// The nodes that they compute as whole values, in the order of the calls' values.
    pub(super) results: Vec<Id>,
    /// All nodes that they compute, results and what they take up; in order, constants and terms left out.
    pub(super) nodes: Vec<Id>,
}

impl Group {
    /// The columns of the result that one of the calls computes, where it is not all of them.
    pub(super) fn columns(&self, lowered: &LoweredBody, call: usize) -> Option<(u64, u64)> {
        let window = |(slot, input): &(Slot, Input)| match (slot, input) {
            (Slot::W, Input::Weight(weight)) => Some((weight.first, weight.rows)),
            _ => None,
        };
        lowered.calls[call].inputs.iter().find_map(window).filter(|_| self.calls.len() > 1)
    }

    /// Whether it reads what another one computes.
    pub(super) fn reads(&self, lowered: &LoweredBody, other: &Group) -> bool {
        let written = |value: &usize| other.calls.iter().any(|&at| lowered.calls[at].values.contains(value));
        self.calls
            .iter()
            .flat_map(|&at| &lowered.calls[at].inputs)
            .any(|(_, input)| matches!(input, Input::Activation(Source::Value(value)) if written(value)))
    }
}

/// The calls of a body in groups, each call in one.
pub(super) fn groups(body: &Graph, lowered: &LoweredBody) -> Vec<Group> {
    let of_value: FxHashMap<usize, Id> = lowered.results.iter().map(|(&node, &value)| (value, node)).collect();
    let mut groups: Vec<Group> = Vec::new();
    let mut known: FxHashMap<usize, usize> = FxHashMap::default();
    for at in 0..lowered.calls.len() {
        let values = finished(&lowered.calls, at, &of_value);
        // Of several windows, one alone may write what they have beside the result.
        let group = values.iter().find_map(|value| known.get(value).copied()).unwrap_or_else(|| {
            groups.push(Group { calls: Vec::new(), results: Vec::new(), nodes: Vec::new() });
            groups.len() - 1
        });
        groups[group].calls.push(at);
        for value in values {
            if known.insert(value, group).is_none() {
                groups[group].results.extend(of_value.get(&value));
            }
        }
    }
    for group in &mut groups {
        group.nodes = computed(body, lowered, &group.results);
    }
    groups
}

/// The values that a call writes; for an intermediate one, those that are made of it.
fn finished(calls: &[Call], at: usize, of_value: &FxHashMap<usize, Id>) -> Vec<usize> {
    let reads = |call: &Call, value: usize| {
        call.inputs.iter().any(|(_, input)| matches!(input, Input::Activation(Source::Value(v)) if *v == value))
    };
    let made = |value: usize| match (at + 1..calls.len()).find(|&user| reads(&calls[user], value)) {
        Some(user) if !of_value.contains_key(&value) => finished(calls, user, of_value),
        Some(_) | None => vec![value],
    };
    calls[at].values.iter().flat_map(|&value| made(value)).collect()
}

fn computed(body: &Graph, lowered: &LoweredBody, results: &[Id]) -> Vec<Id> {
    let mut nodes: Vec<Id> = Vec::new();
    let mut seen = vec![false; body.nodes().len()];
    let mut open: Vec<Id> = results.to_vec();
    while let Some(id) = open.pop() {
        if std::mem::replace(&mut seen[usize::from(id)], true) {
            continue;
        }
        let node = body.node(id);
        let computed = matches!(node.fact, Fact::Pair(..)) || node.fact.tensor().is_some_and(|t| !t.constant);
        if computed && !node.op.is_leaf() {
            nodes.push(id);
        }
        // A copy of what lies in memory already computes nothing else.
        if matches!(node.op, Op::Slice(_)) {
            continue;
        }
        open.extend(node.op.children().iter().filter(|&&c| !is_read(body, lowered, c)));
    }
    nodes.sort_unstable();
    nodes
}

/// Whether a call that uses a node reads it from memory.
pub(super) fn is_read(body: &Graph, lowered: &LoweredBody, id: Id) -> bool {
    match body.node(id).op {
        Op::Arg(_) => true,
        // A column window of a matrix; those of weights are made when the plan is packed.
        Op::Slice(_) => !body.node(id).fact.is_constant(),
        _ => lowered.results.contains_key(&id),
    }
}
