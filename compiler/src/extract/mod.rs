//! Extraction: the cheapest program in an e-graph, for one target and one range of rows.
//!
//! A node that several others use is paid once, so this is a choice over DAGs: a greedy pass (each class takes the node
//! whose set of needed classes is cheapest) and then a descent by two moves: one class takes another node, or *all* the
//! classes that could use some class take it up together. The second is what makes merged contractions win: a column
//! window of a big product is dearer than a small product until all its siblings are windows too. The descent starts twice,
//! from the greedy choice and from the one where all windows are taken: a program that no single move away from the first
//! improves may be dearer than one that needs several windows first.
//!
//! Predictions are not exact, so a program with fewer dispatches is taken instead where it is predicted to take hardly longer.

mod cost;
mod normed;

use egg::{Id, Language};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::{Fact, FactError, Graph, Op};
use crate::rules::{EGraph, Saturated};

pub use cost::CostModel;

/// How much longer a program may be predicted to take if it has fewer dispatches. Predictions of kernels err by more, and a
/// dispatch is also a buffer, a barrier and a pipeline.
pub(crate) const TIE: f64 = 1.003;

/// A body for which there is no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// Some output needs an operator that no kernel computes.
    #[error("no kernel computes {op} here: no rule turned it into something that has one")]
    NoKernel {
        /// An operator in its class.
        op: String,
    },
    /// A program that does not type-check; a bug.
    #[error(transparent)]
    Fact(#[from] FactError),
}

/// The chosen program of a body.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The program, outputs in the body's order.
    pub graph: Graph,
    /// Its predicted time in seconds.
    pub cost: f64,
    /// The classes of weights that its kernels read.
    pub weights: FxHashSet<Id>,
    /// The class of each node.
    pub classes: Vec<Id>,
    /// Predicted seconds of each node alone.
    pub seconds: Vec<f64>,
}

/// The cheapest program of a saturated body.
///
/// # Errors
/// When an output cannot be computed by kernels.
pub fn extract(saturated: &Saturated, model: &CostModel<'_>) -> Result<Extracted, ExtractError> {
    let mut search = Search::new(&saturated.egraph, model);
    let mut choice = search.greedy();
    for &root in &saturated.roots {
        if !choice.contains_key(&root) {
            return Err(ExtractError::NoKernel { op: search.culprit(root, &choice) });
        }
    }
    let mut wide = search.with_windows(&choice);
    let mut cost = search.descend(&mut choice, &saturated.roots);
    let other = search.descend(&mut wide, &saturated.roots);
    if other < cost * (1.0 - 1e-9) {
        (choice, cost) = (wide, other);
    }
    // Of many rows dispatches are too few to matter.
    if model.rows().max.is_some() {
        cost = search.save_dispatches(&mut choice, &saturated.roots, cost);
    }
    let mut builder = Builder {
        egraph: &saturated.egraph,
        choice: &choice,
        graph: Graph::with_declarations((*saturated.egraph.analysis.declarations).clone()),
        costs: &search.costs,
        built: FxHashMap::default(),
        weights: FxHashSet::default(),
        classes: Vec::new(),
        seconds: Vec::new(),
    };
    for (i, &root) in saturated.roots.iter().enumerate() {
        let id = builder.build(root)?;
        builder.graph.add_output(format!("out{i}"), id);
    }
    let Builder { graph, weights, classes, seconds, .. } = builder;
    Ok(Extracted { graph, cost, weights, classes, seconds })
}

type Choice = FxHashMap<Id, Op>;

/// Classes that are to take a node.
type Changes = Vec<(Id, Op)>;

struct Search<'e> {
    egraph: &'e EGraph,
    /// Classes in order, so that equal costs give equal programs.
    classes: Vec<Id>,
    /// Nodes that can be chosen, with their own cost.
    nodes: FxHashMap<Id, Vec<(Op, f64)>>,
    /// For each class, the nodes (with their classes) that have it as a child or read it in a term.
    users: FxHashMap<Id, Vec<(Id, Op)>>,
    costs: FxHashMap<(Id, Op), f64>,
    /// What a dispatch costs at the least.
    dispatch: f64,
}

impl<'e> Search<'e> {
    fn new(egraph: &'e EGraph, model: &CostModel<'_>) -> Search<'e> {
        let mut classes: Vec<Id> = egraph.classes().map(|c| c.id).collect();
        classes.sort_unstable();
        let mut search = Search {
            egraph,
            nodes: FxHashMap::default(),
            users: FxHashMap::default(),
            costs: FxHashMap::default(),
            dispatch: model.dispatch(),
            classes,
        };
        let mut operands = FxHashMap::default();
        for &class in &search.classes {
            for node in &egraph[class].nodes {
                let Some(cost) = model.node(egraph, class, node) else { continue };
                let node = node.clone().map_children(|c| egraph.find(c));
                let mut read: Vec<Id> = node.children().to_vec();
                for &child in node.children() {
                    read.extend(term_operands(egraph, child, &mut operands).iter().copied());
                }
                read.sort_unstable();
                read.dedup();
                for child in read {
                    search.users.entry(child).or_default().push((class, node.clone()));
                }
                search.costs.insert((class, node.clone()), cost);
                search.nodes.entry(class).or_default().push((node, cost));
            }
        }
        search
    }

    /// For each class that can be computed, the node whose set of needed classes is cheapest.
    fn greedy(&self) -> Choice {
        let mut sets: FxHashMap<Id, (Op, FxHashMap<Id, f64>, f64)> = FxHashMap::default();
        loop {
            let mut changed = false;
            for &class in &self.classes {
                for (node, own) in self.nodes.get(&class).into_iter().flatten() {
                    let mut set: FxHashMap<Id, f64> = FxHashMap::default();
                    let complete = node.children().iter().all(|c| match sets.get(c) {
                        Some((_, needed, _)) => {
                            set.extend(needed);
                            true
                        }
                        None => false,
                    });
                    if !complete || set.contains_key(&class) {
                        continue;
                    }
                    set.insert(class, *own);
                    let total = total(set.values());
                    if sets.get(&class).is_none_or(|(_, _, best)| total < *best * (1.0 - 1e-9)) {
                        sets.insert(class, (node.clone(), set, total));
                        changed = true;
                    }
                }
            }
            if !changed {
                return sets.into_iter().map(|(class, (node, _, _))| (class, node)).collect();
            }
        }
    }

    /// The choice with a column window wherever there is one.
    fn with_windows(&self, choice: &Choice) -> Choice {
        let mut wide = choice.clone();
        for &class in &self.classes {
            let nodes = self.nodes.get(&class).into_iter().flatten().map(|(node, _)| node);
            let window = nodes.filter(|n| matches!(n, Op::Slice(_))).find(|n| self.is_acyclic(&wide, class, n));
            if let Some(window) = window {
                wide.insert(class, window.clone());
            }
        }
        wide
    }

    /// Whether a class can take a node without coming to need itself.
    fn is_acyclic(&self, choice: &Choice, class: Id, node: &Op) -> bool {
        let mut seen: FxHashSet<Id> = FxHashSet::default();
        let mut open: Vec<Id> = node.children().to_vec();
        while let Some(at) = open.pop() {
            if at == class {
                return false;
            }
            if seen.insert(at) {
                let Some(node) = choice.get(&at) else { return false };
                open.extend(node.children());
            }
        }
        true
    }

    /// Improves a choice until neither move helps; gives the cost of what the roots need.
    fn descend(&mut self, choice: &mut Choice, roots: &[Id]) -> f64 {
        let mut best = self.cost(choice, roots).unwrap_or(f64::INFINITY);
        let seconds = |class: &Id| self.nodes[class].iter().any(|(node, _)| matches!(node, Op::Second(_)));
        let alone = choice.iter().filter(|(class, _)| seconds(class)).map(|(class, node)| (*class, node.clone()));
        let alone: Choice = alone.collect();
        loop {
            let before = best;
            best = self.take_results(choice, roots, best);
            // What gains most comes first: one product of several siblings stands in the way of another.
            while let Some((cost, adopters)) = self.best_adoption(choice, roots, best) {
                self.apply(choice, adopters);
                best = cost;
            }
            for at in 0..self.classes.len() {
                let class = self.classes[at];
                for (node, _) in self.nodes.get(&class).into_iter().flatten() {
                    best = self.attempt(choice, roots, best, vec![(class, node.clone())]);
                }
                let adopters = self.users.get(&class).cloned().unwrap_or_default();
                if adopters.len() > 1 {
                    best = self.attempt_afresh(choice, roots, best, &alone, &adopters);
                }
                best = self.attempt(choice, roots, best, adopters);
                for changes in self.together(class) {
                    best = self.attempt(choice, roots, best, changes);
                }
            }
            if best >= before {
                return best;
            }
        }
    }

    /// What a node that is needed anyway makes beside its first result is free: taken even where nothing needs it yet, so
    /// that the moves find it there.
    fn take_results(&self, choice: &mut Choice, roots: &[Id], mut best: f64) -> f64 {
        for class in self.needed(choice, roots) {
            for (user, node) in self.users.get(&class).into_iter().flatten() {
                if matches!(node, Op::First(_) | Op::Second(_)) {
                    best = self.attempt_within(choice, roots, best, vec![(*user, node.clone())]).unwrap_or(best);
                }
            }
        }
        best
    }

    /// The results of a node of several, each with one that reads it: neither alone gains anything, because what makes the
    /// other result is paid for then too.
    fn together(&self, class: Id) -> Vec<Changes> {
        if !matches!(self.egraph[class].data, Ok(Fact::Pair(..))) {
            return Vec::new();
        }
        let results = self.users.get(&class).cloned().unwrap_or_default();
        let readers = results.iter().flat_map(|(result, _)| self.users.get(result).into_iter().flatten());
        readers.map(|reader| results.iter().chain([reader]).cloned().collect()).collect()
    }

    /// Makes the changes if they lower the cost when no class is the second result of some node beforehand: what shall go
    /// may be needed for such a result alone, which other nodes have too.
    fn attempt_afresh(
        &self,
        choice: &mut Choice,
        roots: &[Id],
        best: f64,
        alone: &Choice,
        changes: &[(Id, Op)],
    ) -> f64 {
        if alone.is_empty() {
            return best;
        }
        let mut other = choice.clone();
        other.extend(alone.iter().map(|(class, node)| (*class, node.clone())));
        let possible = changes.iter().filter(|(_, node)| node.children().iter().all(|c| choice.contains_key(c)));
        other.extend(possible.cloned());
        let Some(cost) = self.cost(&other, roots) else { return best };
        let cost = self.take_results(&mut other, roots, cost);
        if cost < best * (1.0 - 1e-9) {
            *choice = other;
            return cost;
        }
        best
    }

    /// The classes that the roots need, in order.
    fn needed(&self, choice: &Choice, roots: &[Id]) -> Vec<Id> {
        let mut seen: FxHashSet<Id> = FxHashSet::default();
        let mut open = roots.to_vec();
        while let Some(class) = open.pop() {
            if seen.insert(class) {
                open.extend(choice.get(&class).into_iter().flat_map(|node| node.children().iter().copied()));
            }
        }
        let mut needed: Vec<Id> = seen.into_iter().collect();
        needed.sort_unstable();
        needed
    }

    /// The class whose users lower the cost most if all of them take it up: the cost, and what the users become.
    fn best_adoption(&self, choice: &mut Choice, roots: &[Id], best: f64) -> Option<(f64, Changes)> {
        let mut found: Option<(f64, Changes)> = None;
        for class in &self.classes {
            let Some(adopters) = self.users.get(class).filter(|users| users.len() > 1) else { continue };
            let old = self.apply(choice, adopters.clone());
            let cost = if old.is_empty() { None } else { self.cost(choice, roots) };
            choice.extend(old.into_iter().rev());
            let bound = found.as_ref().map_or(best, |(cost, _)| *cost);
            if let Some(cost) = cost.filter(|cost| *cost < bound * (1.0 - 1e-9)) {
                found = Some((cost, adopters.clone()));
            }
        }
        found
    }

    /// Makes the changes that are possible; gives what was there before.
    fn apply(&self, choice: &mut Choice, changes: Changes) -> Changes {
        let mut old = Vec::new();
        for (class, node) in changes {
            let possible = node.children().iter().all(|c| choice.contains_key(c)) && choice.get(&class) != Some(&node);
            if possible && let Some(previous) = choice.insert(class, node) {
                old.push((class, previous));
            }
        }
        old
    }

    /// Makes the changes if they lower the cost.
    fn attempt(&self, choice: &mut Choice, roots: &[Id], best: f64, changes: Changes) -> f64 {
        self.attempt_within(choice, roots, best * (1.0 - 1e-9), changes).unwrap_or(best)
    }

    /// Makes the changes if the cost is then at most `limit`, and gives it.
    fn attempt_within(&self, choice: &mut Choice, roots: &[Id], limit: f64, changes: Changes) -> Option<f64> {
        let old = self.apply(choice, changes);
        if old.is_empty() {
            return None;
        }
        match self.cost(choice, roots) {
            Some(cost) if cost <= limit => Some(cost),
            _ => {
                choice.extend(old.into_iter().rev());
                None
            }
        }
    }

    /// Takes nodes that save dispatches, the cheapest first, as long as the cost stays within [`TIE`] of `best`; gives
    /// the cost then.
    fn save_dispatches(&self, choice: &mut Choice, roots: &[Id], best: f64) -> f64 {
        let dispatches = |costs: &[f64]| costs.iter().filter(|cost| **cost >= self.dispatch).count();
        let mut last = best;
        let mut count = self.costs_of(choice, roots).map_or(0, |costs| dispatches(&costs));
        loop {
            let mut found: Option<(f64, usize, Changes)> = None;
            let needed = self.needed(choice, roots).into_iter();
            let nodes = needed.flat_map(|class| self.nodes.get(&class).into_iter().flatten().map(move |n| (class, n)));
            let alone = nodes.map(|(class, (node, _))| vec![(class, node.clone())]);
            for changes in alone.chain(self.classes.iter().flat_map(|&class| self.together(class))) {
                let old = self.apply(choice, changes.clone());
                let costs = if old.is_empty() { None } else { self.costs_of(choice, roots) };
                choice.extend(old.into_iter().rev());
                let Some(costs) = costs.filter(|costs| dispatches(costs) < count) else { continue };
                let cost = total(costs.iter());
                if cost <= best * TIE && found.as_ref().is_none_or(|(known, ..)| cost < *known) {
                    found = Some((cost, dispatches(&costs), changes));
                }
            }
            let Some((cost, fewer, changes)) = found else { return last };
            self.apply(choice, changes);
            (last, count) = (cost, fewer);
        }
    }

    /// The cost of what the roots need, each class once; `None` for a cycle.
    fn cost(&self, choice: &Choice, roots: &[Id]) -> Option<f64> {
        self.costs_of(choice, roots).map(|costs| total(costs.iter()))
    }

    /// The costs of all nodes that the roots need; `None` for a cycle.
    fn costs_of(&self, choice: &Choice, roots: &[Id]) -> Option<Vec<f64>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Open,
            Done,
        }
        let mut marks: FxHashMap<Id, Mark> = FxHashMap::default();
        let mut costs = Vec::new();
        let mut stack: Vec<(Id, bool)> = roots.iter().map(|&r| (r, false)).collect();
        while let Some((class, leaving)) = stack.pop() {
            if leaving {
                marks.insert(class, Mark::Done);
                continue;
            }
            match marks.get(&class) {
                Some(Mark::Done) => continue,
                Some(Mark::Open) => return None,
                None => {}
            }
            marks.insert(class, Mark::Open);
            let node = choice.get(&class)?;
            costs.push(*self.costs.get(&(class, node.clone()))?);
            stack.push((class, true));
            for child in node.children() {
                match marks.get(child) {
                    Some(Mark::Open) => return None,
                    Some(Mark::Done) => {}
                    None => stack.push((*child, false)),
                }
            }
        }
        Some(costs)
    }

    /// An operator that stands in the way of computing `class`.
    fn culprit(&self, class: Id, choice: &Choice) -> String {
        let mut seen: FxHashSet<Id> = FxHashSet::default();
        let mut at = class;
        loop {
            seen.insert(at);
            let nodes = &self.egraph[at].nodes;
            let missing = |n: &Op| {
                n.children().iter().map(|c| self.egraph.find(*c)).find(|c| !choice.contains_key(c) && !seen.contains(c))
            };
            match nodes.iter().find_map(missing) {
                Some(next) => at = next,
                None => return nodes.first().map_or_else(String::new, Op::name),
            }
        }
    }
}

/// The activations that a term reads; none for anything else than a term.
fn term_operands<'o>(egraph: &EGraph, class: Id, known: &'o mut FxHashMap<Id, Vec<Id>>) -> &'o [Id] {
    if !known.contains_key(&class) {
        // What is being looked at reads nothing new.
        known.insert(class, Vec::new());
        let is_term = |id: Id| matches!(egraph[id].data, Ok(Fact::Term(_) | Fact::Prologue(_)));
        let mut read = Vec::new();
        let nodes = if is_term(class) { egraph[class].nodes.as_slice() } else { &[] };
        for child in nodes.iter().flat_map(|node| node.children()).map(|&child| egraph.find(child)) {
            match &egraph[child].data {
                Ok(Fact::Term(_) | Fact::Prologue(_)) => {
                    read.extend(term_operands(egraph, child, known).iter().copied())
                }
                Ok(Fact::Tensor(t)) if !t.constant => read.push(child),
                Ok(Fact::Tensor(_) | Fact::Pair(..)) | Err(_) => {}
                Ok(Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_)) => {}
            }
        }
        read.sort_unstable();
        read.dedup();
        known.insert(class, read);
    }
    known.get(&class).map_or(&[], Vec::as_slice)
}

/// A sum that does not depend on the order of a hash map.
fn total<'c>(costs: impl Iterator<Item = &'c f64>) -> f64 {
    let mut costs: Vec<f64> = costs.copied().collect();
    costs.sort_unstable_by(f64::total_cmp);
    costs.iter().sum()
}

struct Builder<'e> {
    egraph: &'e EGraph,
    choice: &'e Choice,
    costs: &'e FxHashMap<(Id, Op), f64>,
    graph: Graph,
    built: FxHashMap<Id, Id>,
    weights: FxHashSet<Id>,
    classes: Vec<Id>,
    seconds: Vec<f64>,
}

impl Builder<'_> {
    fn build(&mut self, class: Id) -> Result<Id, ExtractError> {
        let class = self.egraph.find(class);
        if let Some(&id) = self.built.get(&class) {
            return Ok(id);
        }
        let node = self.choice.get(&class).ok_or_else(|| ExtractError::NoKernel { op: class.to_string() })?;
        let mut op = node.clone();
        for child in op.children_mut() {
            let class = *child;
            *child = self.build(class)?;
        }
        let id = self.graph.add(op)?;
        if usize::from(id) == self.classes.len() {
            self.classes.push(class);
            self.seconds.push(self.costs.get(&(class, node.clone())).copied().unwrap_or(0.0));
        }
        if !self.graph.node(id).fact.is_constant() {
            let constants =
                node.children().iter().filter(|c| self.egraph[**c].data.as_ref().is_ok_and(|f| f.is_constant()));
            self.weights.extend(constants);
        }
        self.built.insert(class, id);
        Ok(id)
    }
}
