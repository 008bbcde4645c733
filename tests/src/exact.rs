//! The cheapest program of an e-graph, as an integer linear program.
//!
//! Far too slow for a compiler, and so what the compiler's extraction is measured against. A variable for each node says
//! whether it is in the program:
//!
//! ```text
//! minimise Σ cost_i n_i
//! Σ_{i ∈ root} n_i = 1                           each result is computed
//! Σ_{i ∈ c} n_i ≤ 1                              by one node
//! Σ_{i ∈ c, i needs d} n_i ≤ Σ_{j ∈ d} n_j       whose operands are computed
//! Σ_{i ∈ circle} n_i ≤ |circle| - 1              and none needs itself
//! ```
//!
//! Circles are many and mostly not worth their while, so each is forbidden when a solution has it, and the program is solved
//! again. What is computed when a plan is packed counts as free (extraction charges a millionth of a dispatch).

use std::collections::{BTreeMap, BTreeSet};

use good_lp::{Expression, ProblemVariables, Solution, SolverModel, Variable, microlp, variable};
use warpweft_compiler::extract::CostModel;
use warpweft_compiler::graph::{Fact, Id};
use warpweft_compiler::rules::Saturated;

#[derive(Clone, Debug, PartialEq)]
struct Node {
    cost: f64,
    needs: BTreeSet<usize>,
}

/// What can be chosen: for each class that is computed at run time, its nodes.
struct Choices {
    nodes: Vec<Vec<Node>>,
    roots: BTreeSet<usize>,
}

/// What the solver found.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    /// Seconds of the cheapest program.
    pub cost: f64,
    /// Nodes among which it was chosen.
    pub nodes: usize,
    /// Circles that had to be forbidden.
    pub circles: usize,
}

/// The cheapest program.
///
/// # Panics
/// When there is none, or the solver gives up.
pub fn cheapest(saturated: &Saturated, model: &CostModel<'_>) -> Exact {
    let choices = Choices::of(saturated, model);
    let mut circles: Vec<Vec<(usize, usize)>> = Vec::new();
    loop {
        let (cost, chosen) = choices.solve(&circles);
        match choices.circle(&chosen) {
            Some(circle) => circles.push(circle),
            None => {
                let nodes = choices.nodes.iter().map(Vec::len).sum();
                return Exact { cost, nodes, circles: circles.len() };
            }
        }
        assert!(circles.len() < 1000, "too many circles");
    }
}

impl Choices {
    fn of(saturated: &Saturated, model: &CostModel<'_>) -> Choices {
        let egraph = &saturated.egraph;
        let runs = |id: Id| match egraph[id].data.as_ref().ok() {
            Some(Fact::Tensor(t)) => !t.constant,
            Some(Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..)) => true,
            Some(Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_) | Fact::Format(_)) | None => false,
        };
        let mut classes: Vec<Id> = egraph.classes().map(|c| c.id).filter(|&id| runs(id)).collect();
        classes.sort_unstable();
        let index: BTreeMap<Id, usize> = classes.iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let nodes = classes.iter().map(|&class| {
            let node = |n| {
                let cost = model.node(egraph, class, n)?;
                let children = egg::Language::children(n).iter();
                Some(Node { cost, needs: children.filter_map(|c| index.get(&egraph.find(*c)).copied()).collect() })
            };
            egraph[class].nodes.iter().filter_map(node).collect()
        });
        let mut choices = Choices {
            nodes: nodes.collect(),
            roots: saturated.roots.iter().filter_map(|r| index.get(&egraph.find(*r)).copied()).collect(),
        };
        choices.keep_computable();
        choices.nodes.iter_mut().for_each(drop_dominated);
        choices.keep_reachable();
        choices
    }

    fn keep_computable(&mut self) {
        let mut computable = vec![false; self.nodes.len()];
        loop {
            let before = computable.clone();
            for (class, nodes) in self.nodes.iter().enumerate() {
                computable[class] |= nodes.iter().any(|n| n.needs.iter().all(|&c| before[c]));
            }
            if computable == before {
                break;
            }
        }
        self.nodes.iter_mut().for_each(|nodes| nodes.retain(|n| n.needs.iter().all(|&c| computable[c])));
    }

    fn keep_reachable(&mut self) {
        let mut reached = BTreeSet::new();
        let mut open: Vec<usize> = self.roots.iter().copied().collect();
        while let Some(class) = open.pop() {
            if reached.insert(class) {
                open.extend(self.nodes[class].iter().flat_map(|n| n.needs.iter().copied()));
            }
        }
        for (class, nodes) in self.nodes.iter_mut().enumerate().filter(|(class, _)| !reached.contains(class)) {
            debug_assert!(!self.roots.contains(&class));
            nodes.clear();
        }
    }

    /// The cost, and for each class the node that is chosen.
    fn solve(&self, circles: &[Vec<(usize, usize)>]) -> (f64, Vec<Option<usize>>) {
        // Costs around one, so that the solver's tolerances fit.
        let unit = self.nodes.iter().flatten().map(|n| n.cost).fold(0.0, f64::max);
        let mut variables = ProblemVariables::new();
        let vars: Vec<Vec<Variable>> =
            self.nodes.iter().map(|nodes| nodes.iter().map(|_| variables.add(variable().binary())).collect()).collect();
        let sum = |vars: &[Variable]| vars.iter().copied().sum::<Expression>();
        let all = || self.nodes.iter().zip(&vars).flat_map(|(nodes, vars)| nodes.iter().zip(vars));
        let objective: Expression = all().map(|(node, &var)| node.cost / unit * var).sum();
        let mut problem = variables.minimise(objective).using(microlp);
        for (class, vars_of_class) in vars.iter().enumerate() {
            if self.roots.contains(&class) {
                problem = problem.with(sum(vars_of_class).eq(1));
            } else if vars_of_class.len() > 1 {
                problem = problem.with(sum(vars_of_class).leq(1));
            }
            let needs: BTreeSet<usize> = self.nodes[class].iter().flat_map(|n| n.needs.iter().copied()).collect();
            for child in needs {
                let users = self.nodes[class].iter().zip(vars_of_class).filter(|(n, _)| n.needs.contains(&child));
                let users: Vec<Variable> = users.map(|(_, &var)| var).collect();
                problem = problem.with(sum(&users).leq(sum(&vars[child])));
            }
        }
        for circle in circles {
            let nodes: Vec<Variable> = circle.iter().map(|&(class, node)| vars[class][node]).collect();
            problem = problem.with(sum(&nodes).leq(circle.len() as f64 - 1.0));
        }
        let solution = problem.solve().unwrap();
        let chosen: Vec<Option<usize>> =
            vars.iter().map(|vars| vars.iter().position(|&var| solution.value(var) > 0.5)).collect();
        let cost = chosen.iter().zip(&self.nodes).filter_map(|(at, nodes)| Some(nodes[(*at)?].cost)).sum();
        (cost, chosen)
    }

    /// Classes, with the nodes chosen for them, each of which needs the next and the last the first.
    fn circle(&self, chosen: &[Option<usize>]) -> Option<Vec<(usize, usize)>> {
        let mut done: BTreeSet<usize> = BTreeSet::new();
        for &root in &self.roots {
            let mut path: Vec<(usize, Vec<usize>)> = vec![(root, self.needs(root, chosen))];
            while let Some((class, open)) = path.last_mut() {
                let Some(next) = open.pop() else {
                    done.insert(*class);
                    path.pop();
                    continue;
                };
                if let Some(start) = path.iter().position(|(class, _)| *class == next) {
                    return path[start..].iter().map(|(class, _)| Some((*class, chosen[*class]?))).collect();
                }
                if !done.contains(&next) {
                    path.push((next, self.needs(next, chosen)));
                }
            }
        }
        None
    }

    fn needs(&self, class: usize, chosen: &[Option<usize>]) -> Vec<usize> {
        let node = chosen[class].unwrap_or_else(|| panic!("class {class} is needed and nothing computes it"));
        self.nodes[class][node].needs.iter().copied().collect()
    }
}

/// A node that costs no less than another and needs all that the other needs is never better.
fn drop_dominated(nodes: &mut Vec<Node>) {
    nodes.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.needs.len().cmp(&b.needs.len())));
    let mut kept: Vec<Node> = Vec::new();
    for node in nodes.drain(..) {
        if !kept.iter().any(|k| k.needs.is_subset(&node.needs)) {
            kept.push(node);
        }
    }
    *nodes = kept;
}
