//! Saturation of one body, in stages with limits that are reported.

use std::sync::Arc;
use std::time::{Duration, Instant};

use egg::{Id, Language, Runner};
use rustc_hash::FxHashMap;

use super::{Clash, EGraph, Facts, MERGE_NAME, Rule, RuleSet, Stage, UnknownRule, merge_siblings};
use crate::graph::{Graph, Op};

/// Where saturation of one body stops at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// E-nodes.
    pub nodes: usize,
    /// Rounds of one stage.
    pub iterations: usize,
    /// Time of one stage.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { nodes: 50_000, iterations: 40, time: Duration::from_secs(20) }
    }
}

/// Why a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Nothing is left to find.
    Saturated,
    /// [`Limits::nodes`]
    Nodes,
    /// [`Limits::iterations`]
    Iterations,
    /// [`Limits::time`]
    Time,
}

/// What a round of a stage did.
#[derive(Clone, Debug)]
pub struct RoundReport {
    /// E-nodes afterwards.
    pub nodes: usize,
    /// E-classes afterwards.
    pub classes: usize,
    /// How often each rule changed something.
    pub applied: Vec<(String, usize)>,
}

/// What a stage did.
#[derive(Clone, Debug)]
pub struct StageReport {
    /// Which.
    pub stage: Stage,
    /// E-nodes and e-classes before.
    pub before: (usize, usize),
    /// Round by round.
    pub rounds: Vec<RoundReport>,
    /// Rounds.
    pub iterations: usize,
    /// E-nodes afterwards.
    pub nodes: usize,
    /// E-classes afterwards.
    pub classes: usize,
    /// Why it ended.
    pub stop: StopReason,
    /// How long it took.
    pub time: Duration,
    /// How often each rule changed something.
    pub applied: Vec<(String, usize)>,
}

/// A body's e-graph.
pub struct Saturated {
    /// All programs that the rules find.
    pub egraph: EGraph,
    /// The body's outputs.
    pub roots: Vec<Id>,
    /// The class of each of the body's nodes.
    pub formula: Vec<Id>,
    /// One for each stage.
    pub stages: Vec<StageReport>,
}

/// Rules that cannot be used: those that contradict each other or do not parse are a bug of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// A line of the table.
    #[error("rule {name}: {problem}")]
    Rule {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Two facts for one thing.
    #[error(transparent)]
    Clash(#[from] Clash),
    /// A name that no rule has.
    #[error(transparent)]
    Unknown(#[from] UnknownRule),
}

/// All programs that `rules` find for a body.
///
/// # Errors
/// When a rule contradicts the facts.
pub fn saturate(body: &Graph, rules: &RuleSet, limits: Limits) -> Result<Saturated, RewriteError> {
    saturate_in(empty(body), body, rules, limits)
}

/// The same in an e-graph that can say why two terms are equal.
///
/// # Errors
/// When a rule contradicts the facts.
pub fn saturate_explained(body: &Graph, rules: &RuleSet, limits: Limits) -> Result<Saturated, RewriteError> {
    saturate_in(empty(body).with_explanations_enabled(), body, rules, limits)
}

fn empty(body: &Graph) -> EGraph {
    EGraph::new(Facts { declarations: Arc::new(body.declarations().clone()), clashes: Vec::new() })
}

fn saturate_in(mut egraph: EGraph, body: &Graph, rules: &RuleSet, limits: Limits) -> Result<Saturated, RewriteError> {
    let mut formula: Vec<Id> = Vec::with_capacity(body.nodes().len());
    for node in body.nodes() {
        let op = node.op.clone().map_children(|c| formula[usize::from(c)]);
        formula.push(egraph.add(op));
    }
    let mut stages = Vec::new();
    egraph.rebuild();
    for stage in Stage::ALL {
        let started = Instant::now();
        let rewrites =
            rules.patterns.iter().filter(|r| r.stage == stage).map(Rule::rewrite).collect::<Result<Vec<_>, _>>()?;
        let mut runner = Runner::<Op, Facts>::default()
            .with_egraph(egraph)
            .with_node_limit(limits.nodes)
            .with_iter_limit(limits.iterations)
            .with_time_limit(limits.time)
            .with_scheduler(egg::SimpleScheduler)
            .run(&rewrites);
        let before = runner.iterations.first().map_or((0, 0), |i| (i.egraph_nodes, i.egraph_classes));
        let mut applied: FxHashMap<String, usize> = FxHashMap::default();
        for (name, n) in runner.iterations.iter().flat_map(|i| &i.applied) {
            *applied.entry(name.to_string()).or_default() += n;
        }
        if stage == Stage::Merge && rules.merges {
            let merges = merge_siblings(&mut runner.egraph);
            if merges > 0 {
                applied.insert(MERGE_NAME.into(), merges);
            }
        }
        let stop = match runner.stop_reason {
            Some(egg::StopReason::NodeLimit(_)) => StopReason::Nodes,
            Some(egg::StopReason::IterationLimit(_)) => StopReason::Iterations,
            Some(egg::StopReason::TimeLimit(_)) => StopReason::Time,
            Some(egg::StopReason::Saturated | egg::StopReason::Other(_)) | None => StopReason::Saturated,
        };
        let iterations = runner.iterations.len();
        let rounds = rounds(&runner, &applied);
        egraph = runner.egraph;
        if let Some(clash) = egraph.analysis.clashes.first() {
            return Err(clash.clone().into());
        }
        let mut applied: Vec<_> = applied.into_iter().collect();
        applied.sort();
        stages.push(StageReport {
            stage,
            before,
            rounds,
            iterations,
            nodes: egraph.total_size(),
            classes: egraph.number_of_classes(),
            stop,
            time: started.elapsed(),
            applied,
        });
    }
    formula.iter_mut().for_each(|id| *id = egraph.find(*id));
    let roots = body.outputs().iter().map(|o| formula[usize::from(o.id)]).collect();
    Ok(Saturated { egraph, roots, formula, stages })
}

/// Round by round; what found siblings is told of the last.
fn rounds(runner: &Runner<Op, Facts>, applied: &FxHashMap<String, usize>) -> Vec<RoundReport> {
    let after = runner.iterations.iter().skip(1).map(|i| (i.egraph_nodes, i.egraph_classes));
    let last = (runner.egraph.total_size(), runner.egraph.number_of_classes());
    let mut rounds: Vec<RoundReport> = runner
        .iterations
        .iter()
        .zip(after.chain([last]))
        .map(|(round, (nodes, classes))| {
            let applied = round.applied.iter().map(|(rule, &n)| (rule.to_string(), n)).collect();
            RoundReport { nodes, classes, applied }
        })
        .collect();
    if let (Some(round), Some(&merges)) = (rounds.last_mut(), applied.get(MERGE_NAME)) {
        round.applied.push((MERGE_NAME.into(), merges));
    }
    rounds
}
