//! A chain of rules from one term to another, by saturating the first alone and asking the e-graph why they are equal.

use egg::{FlatTerm, Id, Language, RecExpr};

use super::goal::Goal;
use crate::graph::{FactError, Graph, Op};
use crate::rules::{Limits, MERGE_NAME, RewriteError, RuleSet, saturate, saturate_explained};

/// A step of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) rule: String,
    /// The rule leads from the terms after it to those before it.
    pub(super) backward: bool,
    /// The terms after it.
    pub(super) after: Vec<Id>,
}

/// Why there is no chain.
#[derive(Debug)]
pub(super) enum NoChain {
    /// The rules do not lead from one to the other.
    NotFound,
    Fact(FactError),
    Rewrite(RewriteError),
}

impl From<FactError> for NoChain {
    fn from(error: FactError) -> NoChain {
        NoChain::Fact(error)
    }
}

impl From<RewriteError> for NoChain {
    fn from(error: RewriteError) -> NoChain {
        NoChain::Rewrite(error)
    }
}

/// The chain from a goal's start to its end. Its terms are added to the goal's graph.
pub(super) fn chain(goal: &mut Goal, rules: &RuleSet) -> Result<Vec<Link>, NoChain> {
    if goal.start == goal.end {
        return Ok(Vec::new());
    }
    let mut saturated = saturate_explained(&part(&goal.graph, &goal.start)?, rules, Limits::default())?;
    let egraph = &mut saturated.egraph;
    let mut chains = Vec::new();
    for (&start, &end) in goal.start.iter().zip(&goal.end) {
        let (left, right) = (expression(&goal.graph, start), expression(&goal.graph, end));
        match (egraph.lookup_expr(&left), egraph.lookup_expr(&right)) {
            (Some(a), Some(b)) if egraph.find(a) == egraph.find(b) => {}
            _ => return Err(NoChain::NotFound),
        }
        let mut explanation = egraph.explain_equivalence(&left, &right);
        let mut steps = Vec::new();
        for flat in explanation.make_flat_explanation().iter().skip(1) {
            let (rule, backward) = applied(flat).ok_or(NoChain::NotFound)?;
            steps.push((rule, backward, add(&mut goal.graph, flat)?));
        }
        chains.push(steps);
    }
    Ok(together(&goal.start, &chains))
}

/// One term's steps: rule, direction, the term after.
type Steps = Vec<(String, bool, Id)>;

/// Chains of several terms as one. Siblings become one in all terms at once, so the terms that this happens to go in step
/// from there on, as long as they can; before that, everything else is done.
fn together(start: &[Id], chains: &[Steps]) -> Vec<Link> {
    let merge = |steps: &Steps| steps.iter().position(|(rule, ..)| rule == MERGE_NAME);
    let merging: Vec<usize> = (0..chains.len()).filter(|&at| merge(&chains[at]).is_some()).collect();
    let mut done: Vec<usize> = chains.iter().map(|steps| merge(steps).unwrap_or(steps.len())).collect();
    let mut state = start.to_vec();
    let mut links = Vec::new();
    let mut link = |state: &[Id], (rule, backward, _): &(String, bool, Id)| {
        links.push(Link { rule: rule.clone(), backward: *backward, after: state.to_vec() });
    };
    for (at, steps) in chains.iter().enumerate() {
        for step in &steps[..done[at]] {
            state[at] = step.2;
            link(&state, step);
        }
    }
    loop {
        let mut next = merging.iter().map(|&at| chains[at].get(done[at]));
        let Some(Some(first)) = next.next() else { break };
        if !next.all(|step| step.is_some_and(|step| (&step.0, step.1) == (&first.0, first.1))) {
            break;
        }
        for &at in &merging {
            state[at] = chains[at][done[at]].2;
            done[at] += 1;
        }
        link(&state, first);
    }
    for (at, steps) in chains.iter().enumerate() {
        for step in &steps[done[at]..] {
            state[at] = step.2;
            link(&state, step);
        }
    }
    links
}

/// The rule by which a term differs from the one before it, and whether it leads back.
fn applied(term: &FlatTerm<Op>) -> Option<(String, bool)> {
    let own = term.forward_rule.map(|rule| (rule.to_string(), false));
    let own = own.or_else(|| term.backward_rule.map(|rule| (rule.to_string(), true)));
    own.or_else(|| term.children.iter().find_map(applied))
}

fn add(graph: &mut Graph, term: &FlatTerm<Op>) -> Result<Id, FactError> {
    let mut op = term.node.clone();
    for (child, part) in op.children_mut().iter_mut().zip(&term.children) {
        *child = add(graph, part)?;
    }
    graph.add(op)
}

/// The term of a node as egg has it.
fn expression(graph: &Graph, root: Id) -> RecExpr<Op> {
    let mut places = vec![None; usize::from(root) + 1];
    let mut expression = RecExpr::default();
    for id in cone(graph, &[root]) {
        let op = graph.node(id).op.clone();
        // Operands stand before users.
        let op = op.map_children(|c| places[usize::from(c)].unwrap_or(Id::from(0)));
        places[usize::from(id)] = Some(expression.add(op));
    }
    expression
}

/// The part of a graph that some nodes depend on, with them as outputs, over the same declarations.
pub(super) fn part(graph: &Graph, outputs: &[Id]) -> Result<Graph, FactError> {
    let mut part = Graph::with_declarations(graph.declarations().clone());
    let mut places: Vec<Id> = vec![Id::from(0); graph.nodes().len()];
    for id in cone(graph, outputs) {
        let op = graph.node(id).op.clone();
        places[usize::from(id)] = part.add(op.map_children(|c| places[usize::from(c)]))?;
    }
    for (i, output) in outputs.iter().enumerate() {
        part.add_output(format!("out{i}"), places[usize::from(*output)]);
    }
    Ok(part)
}

/// The nodes that some nodes depend on and these, in order.
fn cone(graph: &Graph, roots: &[Id]) -> Vec<Id> {
    let mut needed = vec![false; graph.nodes().len()];
    for &root in roots {
        needed[usize::from(root)] = true;
    }
    for at in (0..needed.len()).rev() {
        if needed[at] {
            graph.nodes()[at].op.for_each(|c| needed[usize::from(c)] = true);
        }
    }
    graph.ids().filter(|id| needed[usize::from(*id)]).collect()
}

/// Whether these rules, applied once wherever they fit, make the outputs of one graph those of another over the same
/// declarations.
pub(super) fn equal(before: &Graph, after: &Graph, rules: &RuleSet) -> Result<bool, FactError> {
    let limits = Limits { iterations: 1, ..Limits::default() };
    let Ok(saturated) = saturate(before, rules, limits) else { return Ok(false) };
    let egraph = &saturated.egraph;
    let same = |(root, output): (&Id, &crate::graph::Output)| {
        egraph.lookup_expr(&expression(after, output.id)).is_some_and(|id| egraph.find(id) == egraph.find(*root))
    };
    Ok(before.outputs().len() == after.outputs().len() && saturated.roots.iter().zip(after.outputs()).all(same))
}
