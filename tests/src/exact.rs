//! The cheapest program of an e-graph, by exhaustive search with bounds.
//!
//! Far too slow for a compiler, and so what the compiler's extraction is measured against. What is computed when a plan
//! is packed counts as free here (extraction charges a millionth of a dispatch), and a choice may run in a circle; both
//! can only lower the result, which so is a lower bound for every program.

use std::collections::{BTreeMap, BTreeSet};

use warpweft_compiler::extract::CostModel;
use warpweft_compiler::graph::{Fact, Id};
use warpweft_compiler::rules::Saturated;

/// A set of classes, a bit for each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn empty(n: usize) -> Set {
        Set(vec![0; n.div_ceil(64)])
    }

    fn full(n: usize) -> Set {
        let mut set = Set::empty(n);
        (0..n).for_each(|i| set.insert(i));
        set
    }

    fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn union(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn intersect(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|&i| self.has(i))
    }
}

struct Node {
    cost: f64,
    needs: Vec<usize>,
}

struct Search {
    nodes: Vec<Vec<Node>>,
    /// Classes that every program for a class contains.
    must: Vec<Set>,
    /// The least own cost of a class.
    least: Vec<f64>,
    best: f64,
    visited: usize,
    limit: usize,
}

/// What the exhaustive search found.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    /// Seconds of the cheapest program; at most `known`.
    pub cost: f64,
    /// Partial programs that were looked at.
    pub visited: usize,
}

/// The cost of the cheapest program, given that one of cost `known` exists. `None` when more than `limit` partial
/// programs would have to be looked at.
pub fn cheapest(saturated: &Saturated, model: &CostModel<'_>, known: f64, limit: usize) -> Option<Exact> {
    let egraph = &saturated.egraph;
    let fact = |id: Id| egraph[id].data.as_ref().ok();
    let runs = |id: Id| match fact(id) {
        Some(Fact::Tensor(t)) => !t.constant,
        Some(Fact::Term(_) | Fact::Prologue(_) | Fact::Pair(..)) => true,
        Some(Fact::Int(_) | Fact::Real(_) | Fact::Size(_) | Fact::Cache(_)) | None => false,
    };
    let classes: Vec<Id> = egraph.classes().map(|c| c.id).filter(|&id| runs(id)).collect();
    let index: BTreeMap<Id, usize> = classes.iter().enumerate().map(|(i, &id)| (id, i)).collect();
    let nodes = classes.iter().map(|&class| {
        let node = |n| {
            let cost = model.node(egraph, class, n)?;
            let needs = egg::Language::children(n).iter().filter_map(|c| index.get(&egraph.find(*c)).copied());
            Some(Node { cost, needs: needs.collect::<BTreeSet<_>>().into_iter().collect() })
        };
        egraph[class].nodes.iter().filter_map(node).collect()
    });
    let mut search = Search::new(nodes.collect(), known, limit);
    let pending: BTreeSet<usize> =
        saturated.roots.iter().filter_map(|r| index.get(&egraph.find(*r)).copied()).collect();
    let needed = pending.iter().fold(Set::empty(classes.len()), |mut set, &c| {
        set.insert(c);
        set
    });
    search.visit(pending, needed, 0.0)?;
    Some(Exact { cost: search.best, visited: search.visited })
}

impl Search {
    fn new(mut nodes: Vec<Vec<Node>>, best: f64, limit: usize) -> Search {
        keep_computable(&mut nodes);
        for class in &mut nodes {
            drop_dominated(class);
        }
        let must = requirements(&nodes);
        for (class, nodes) in nodes.iter_mut().enumerate() {
            nodes.retain(|n| n.needs.iter().all(|&c| !must[c].has(class)));
        }
        let least = nodes.iter().map(|ns| ns.iter().map(|n| n.cost).fold(f64::INFINITY, f64::min)).collect();
        Search { nodes, must, least, best, visited: 0, limit }
    }

    /// What a program costs at least that still has to choose for `pending`.
    fn bound(&self, pending: &BTreeSet<usize>, needed: &Set, paid: f64) -> f64 {
        let mut all = Set::empty(self.nodes.len());
        pending.iter().for_each(|&c| all.union(&self.must[c]));
        paid + all.iter().filter(|&c| pending.contains(&c) || !needed.has(c)).map(|c| self.least[c]).sum::<f64>()
    }

    /// `needed` are the classes that are chosen for or pending; `paid` is for the chosen ones.
    fn visit(&mut self, mut pending: BTreeSet<usize>, needed: Set, paid: f64) -> Option<()> {
        self.visited += 1;
        if self.visited > self.limit {
            return None;
        }
        let Some(&class) = pending.iter().min_by_key(|&&c| self.nodes[c].len()) else {
            self.best = self.best.min(paid);
            return Some(());
        };
        pending.remove(&class);
        let mut states: Vec<_> =
            self.nodes[class].iter().map(|node| self.choose(node, &pending, &needed, paid)).collect();
        states.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (bound, pending, needed, paid) in states {
            if bound < self.best * (1.0 - 1e-9) {
                self.visit(pending, needed, paid)?;
            }
        }
        Some(())
    }

    fn choose(
        &self,
        node: &Node,
        pending: &BTreeSet<usize>,
        needed: &Set,
        paid: f64,
    ) -> (f64, BTreeSet<usize>, Set, f64) {
        let (mut pending, mut needed) = (pending.clone(), needed.clone());
        for &child in &node.needs {
            if !needed.has(child) {
                needed.insert(child);
                pending.insert(child);
            }
        }
        let paid = paid + node.cost;
        (self.bound(&pending, &needed, paid), pending, needed, paid)
    }
}

fn keep_computable(nodes: &mut [Vec<Node>]) {
    loop {
        let empty: Vec<bool> = nodes.iter().map(Vec::is_empty).collect();
        let before: usize = nodes.iter().map(Vec::len).sum();
        nodes.iter_mut().for_each(|ns| ns.retain(|n| n.needs.iter().all(|&c| !empty[c])));
        if nodes.iter().map(Vec::len).sum::<usize>() == before {
            return;
        }
    }
}

/// A node that costs no less than another and needs all that the other needs is never better.
fn drop_dominated(nodes: &mut Vec<Node>) {
    nodes.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.needs.len().cmp(&b.needs.len())));
    let mut kept: Vec<Node> = Vec::new();
    for node in nodes.drain(..) {
        if !kept.iter().any(|k| k.needs.iter().all(|c| node.needs.contains(c))) {
            kept.push(node);
        }
    }
    *nodes = kept;
}

fn requirements(nodes: &[Vec<Node>]) -> Vec<Set> {
    let n = nodes.len();
    let mut must = vec![Set::full(n); n];
    loop {
        let mut changed = false;
        for class in 0..n {
            let mut common = Set::full(n);
            for node in &nodes[class] {
                let mut needed = Set::empty(n);
                node.needs.iter().for_each(|&c| needed.union(&must[c]));
                common.intersect(&needed);
            }
            common.insert(class);
            if common != must[class] {
                must[class] = common;
                changed = true;
            }
        }
        if !changed {
            return must;
        }
    }
}
