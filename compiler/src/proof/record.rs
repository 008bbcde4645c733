//! A compile's record as the plan has it.

use rustc_hash::FxHashMap;
use warpweft_plan::Program;
use warpweft_plan::provenance::{
    Body, Call, Class, Origins, Proof, ProofStep, Provenance, Region, Round, Rule as Named, Stage, Stop, Variant,
};

use super::calls::{Group, groups};
use super::formula::Formula;
use super::goal::{Chosen, Goal, goal};
use super::lossy::roundings;
use super::lowering::{LOWERING, steps};
use super::prove::{NoChain, chain, part};
use crate::extract::Extracted;
use crate::graph::{FactError, Graph, Id};
use crate::kernels::RowRange;
use crate::lower::LoweredBody;
use crate::roll::Rolled;
use crate::rules::{MERGE_NAME, RewriteError, RuleSet, Saturated, StageReport, StopReason};

/// A body as one target and range of rows has it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// What was extracted.
    pub extracted: &'a Extracted,
    /// Its calls.
    pub lowered: &'a LoweredBody,
}

/// All bodies as one target and range of rows has them.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The target's name.
    pub target: &'a str,
    /// The range of rows.
    pub rows: RowRange,
    /// By body.
    pub bodies: Vec<Part<'a>>,
}

/// What a compile leaves behind of itself.
pub struct Record<'a> {
    /// The model's graph.
    pub model: &'a Graph,
    /// The same as instances of bodies.
    pub rolled: &'a Rolled,
    /// The rules that were used.
    pub rules: &'a RuleSet,
    /// By body.
    pub saturated: &'a [Saturated],
    /// In the order of their programs.
    pub variants: &'a [Parts<'a>],
    /// The plan's programs.
    pub programs: &'a [Program],
    /// Where their steps come from.
    pub origins: Vec<Origins>,
}

/// Terms that contradict each other; a bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A term that does not type-check.
    #[error(transparent)]
    Fact(#[from] FactError),
    /// Rules that contradict each other.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
}

/// The record as a plan tells it, proofs among it. A kernel for which the rules' own chain is not found again has no
/// proof, and the plan says so by its absence.
///
/// # Errors
/// Only for bugs of ours.
pub fn provenance(record: Record<'_>) -> Result<Provenance, ProofError> {
    let mut teller =
        Teller { texts: Interned::default(), rules: Interned::default(), chains: FxHashMap::default(), record };
    let bodies = (0..teller.record.rolled.bodies.len()).map(|body| teller.body(body)).collect::<Result<_, _>>()?;
    let Teller { texts, rules, record, .. } = teller;
    let mut classes: FxHashMap<&str, Class> =
        record.rules.patterns.iter().map(|r| (r.name.as_str(), r.class)).collect();
    classes.extend(LOWERING.iter().map(|step| (step.name, step.class)));
    classes.insert(MERGE_NAME, Class::Exact);
    let named = |name: String| {
        // Only rules of the table and lowering's steps have been interned.
        let class = classes.get(&*name).copied().unwrap_or(Class::Lossy);
        Named { class, name }
    };
    let weights = &record.model.declarations().weights;
    let regions = record.rolled.regions.iter().map(|region| Region {
        body: region.body,
        layer: region.layer,
        weights: region.weights.iter().map(|w| weights[w.0 as usize].name.clone()).collect(),
    });
    Ok(Provenance {
        texts: texts.all,
        rules: rules.all.into_iter().map(named).collect(),
        bodies,
        regions: regions.collect(),
        origins: record.origins,
    })
}

/// Texts, each once.
#[derive(Default)]
struct Interned {
    all: Vec<String>,
    known: FxHashMap<String, usize>,
}

impl Interned {
    fn add(&mut self, text: String) -> usize {
        *self.known.entry(text).or_insert_with_key(|text| {
            self.all.push(text.clone());
            self.all.len() - 1
        })
    }
}

struct Teller<'a> {
    texts: Interned,
    rules: Interned,
    /// Chains that were looked for, by declarations, start and end.
    chains: FxHashMap<[usize; 3], Option<Vec<ProofStep>>>,
    record: Record<'a>,
}

/// A group's proof before it has its place.
struct Proven {
    proof: Proof,
    /// Lines of the formula.
    covered: Vec<u32>,
    /// For each call.
    operands: Vec<Option<usize>>,
}

impl<'a> Teller<'a> {
    fn body(&mut self, body: usize) -> Result<Body, ProofError> {
        let (rolled, variants, all) = (self.record.rolled, self.record.variants, self.record.saturated);
        let saturated = &all[body];
        let stages = saturated.stages.iter().map(|stage| self.stage(stage)).collect();
        let formula = Formula::new(&rolled.bodies[body], saturated);
        let mut proofs = Proofs::default();
        let variants =
            variants.iter().map(|parts| self.variant(body, &formula, parts, &mut proofs)).collect::<Result<_, _>>()?;
        let formula = self.texts.add(rolled.bodies[body].to_string());
        Ok(Body { formula, stages, variants, proofs: proofs.all })
    }

    fn stage(&mut self, stage: &StageReport) -> Stage {
        let rounds = stage.rounds.iter().map(|round| Round {
            e_nodes: round.nodes as u64,
            classes: round.classes as u64,
            applied: round.applied.iter().map(|(rule, n)| (self.rules.add(rule.clone()), *n as u64)).collect(),
        });
        Stage {
            name: stage.stage.name().into(),
            e_nodes: stage.before.0 as u64,
            classes: stage.before.1 as u64,
            rounds: rounds.collect(),
            stop: match stage.stop {
                StopReason::Saturated => Stop::Saturated,
                StopReason::Nodes => Stop::Nodes,
                StopReason::Iterations => Stop::Rounds,
                StopReason::Time => Stop::Time,
            },
        }
    }

    fn variant(
        &mut self,
        body: usize,
        formula: &Formula<'_>,
        parts: &Parts<'a>,
        proofs: &mut Proofs,
    ) -> Result<Variant, ProofError> {
        let Part { extracted, lowered } = parts.bodies[body];
        let lines = extracted.graph.lines();
        let kernels = self.kernels(body, parts);
        let chosen = Chosen { formula, extracted, lowered };
        let groups = groups(&extracted.graph, lowered);
        let mut calls: Vec<Option<Call>> = vec![None; lowered.calls.len()];
        for group in &groups {
            let proven = self.prove(chosen, group)?;
            let seconds: f64 = group.nodes.iter().map(|id| extracted.seconds[usize::from(*id)]).sum();
            let covered = proven.as_ref().map_or_else(Vec::new, |p| p.covered.clone());
            let operands = proven.as_ref().map_or_else(Vec::new, |p| p.operands.clone());
            let proof = proven.map(|p| proofs.add(p.proof));
            for (i, &at) in group.calls.iter().enumerate() {
                calls[at] = Some(Call {
                    kernel: kernels.get(&at).copied(),
                    nodes: group.nodes.iter().filter_map(|id| lines[usize::from(*id)]).collect(),
                    formula: covered.clone(),
                    seconds: seconds / group.calls.len() as f64,
                    proof,
                    within: Vec::new(),
                    operands: operands.get(i).copied().flatten(),
                    columns: group.columns(lowered, at),
                });
            }
        }
        let mut calls: Vec<Call> = calls.into_iter().flatten().collect();
        // Those that read a value come after those that compute it.
        for (at, group) in groups.iter().enumerate().rev() {
            let readers = groups[at + 1..].iter().filter(|other| other.reads(lowered, group));
            let within = |reader: &Group| match calls[reader.calls[0]].proof {
                Some(_) => reader.calls.clone(),
                None => calls[reader.calls[0]].within.clone(),
            };
            let mut within: Vec<usize> = readers.flat_map(within).collect();
            within.sort_unstable();
            within.dedup();
            for &call in group.calls.iter().filter(|_| !within.is_empty()) {
                if calls[call].proof.is_none() {
                    calls[call].within.clone_from(&within);
                }
            }
        }
        Ok(Variant {
            target: parts.target.into(),
            min_rows: parts.rows.min,
            max_rows: parts.rows.max,
            extracted: self.texts.add(extracted.graph.to_string()),
            seconds: extracted.cost,
            calls,
        })
    }

    /// A group's proof: over what its calls read if the rules lead there, else over the body's arguments.
    fn prove(&mut self, chosen: Chosen<'_>, group: &Group) -> Result<Option<Proven>, ProofError> {
        for whole in [false, true] {
            let Some(mut goal) = goal(chosen, group, whole)? else { return Ok(None) };
            let declarations = Graph::with_declarations(goal.graph.declarations().clone()).to_string();
            let declarations = self.texts.add(declarations);
            let start = self.term(&goal.graph, &goal.start)?;
            let end = self.term(&goal.graph, &goal.end)?;
            let Some(mut links) = self.chain([declarations, start, end], &mut goal)? else { continue };
            let lowering = steps(&chosen.extracted.graph, chosen.lowered, group);
            links.extend(lowering.iter().map(|step| ProofStep {
                rule: self.rules.add(step.name.into()),
                backward: false,
                after: end,
            }));
            let mut operands = Vec::new();
            for of_call in &goal.operands {
                operands.push(match of_call {
                    Some(operands) => Some(self.term(&goal.graph, operands)?),
                    None => None,
                });
            }
            let lines = chosen.formula.body.lines();
            let covered = goal.covered.iter().filter_map(|id| lines[usize::from(*id)]).collect();
            let term = part(&goal.graph, &goal.start)?;
            let lossy = roundings(&term).into_iter().filter_map(|rounding| rounding.told(&term)).collect();
            let Goal { arguments, results, .. } = goal;
            let proof = Proof { declarations, arguments, results, lossy, start, steps: links };
            return Ok(Some(Proven { proof, covered, operands }));
        }
        Ok(None)
    }

    fn chain(&mut self, key: [usize; 3], goal: &mut Goal) -> Result<Option<Vec<ProofStep>>, ProofError> {
        if let Some(known) = self.chains.get(&key) {
            return Ok(known.clone());
        }
        let found = match chain(goal, self.record.rules) {
            Ok(links) => {
                let mut steps = Vec::new();
                for link in links {
                    let after = self.term(&goal.graph, &link.after)?;
                    steps.push(ProofStep { rule: self.rules.add(link.rule), backward: link.backward, after });
                }
                Some(steps)
            }
            Err(NoChain::NotFound) => None,
            Err(NoChain::Fact(error)) => return Err(error.into()),
            Err(NoChain::Rewrite(error)) => return Err(error.into()),
        };
        self.chains.insert(key, found.clone());
        Ok(found)
    }

    /// The text of terms, without their declarations.
    fn term(&mut self, graph: &Graph, outputs: &[Id]) -> Result<usize, FactError> {
        let term = part(graph, outputs)?;
        let declarations = Graph::with_declarations(term.declarations().clone()).to_string();
        let text = term.to_string();
        Ok(self.texts.add(text.strip_prefix(&declarations).unwrap_or(&text).to_owned()))
    }

    /// The kernel of each call of a body that some program runs.
    fn kernels(&self, body: usize, parts: &Parts<'_>) -> FxHashMap<usize, usize> {
        let mut kernels = FxHashMap::default();
        for (program, origins) in self.record.programs.iter().zip(&self.record.origins) {
            if (program.target.as_str(), program.min_rows, program.max_rows)
                != (parts.target, parts.rows.min, parts.rows.max)
            {
                continue;
            }
            for ((step, &region), &call) in program.steps.iter().zip(&origins.regions).zip(&origins.calls) {
                if self.record.rolled.regions[region].body == body {
                    kernels.insert(call, step.kernel);
                }
            }
        }
        kernels
    }
}

/// A body's proofs, each once.
#[derive(Default)]
struct Proofs {
    all: Vec<Proof>,
    known: FxHashMap<Proof, usize>,
}

impl Proofs {
    fn add(&mut self, proof: Proof) -> usize {
        *self.known.entry(proof).or_insert_with_key(|proof| {
            self.all.push(proof.clone());
            self.all.len() - 1
        })
    }
}
