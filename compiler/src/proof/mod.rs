//! Where a plan's programs come from, as the plan tells it: formulas, saturation, extracted graphs, and for each kernel
//! call a proof.

mod calls;

use egg::Id;
use rustc_hash::FxHashMap;
use warpweft_plan::Program;
use warpweft_plan::provenance::{Body, Call, Origins, Provenance, Region, Round, Rule as Named, Stage, Stop, Variant};

use crate::extract::Extracted;
use crate::graph::Graph;
use crate::kernels::RowRange;
use crate::lower::LoweredBody;
use crate::roll::Rolled;
use crate::rules::{Class, MERGE_NAME, RuleSet, Saturated, StageReport, StopReason};

/// A body as one target and range of rows has it.
pub struct Part<'a> {
    /// What was extracted.
    pub extracted: &'a Extracted,
    /// Its calls.
    pub lowered: &'a LoweredBody,
}

/// All bodies as one target and range of rows has them.
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
    /// The table.
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

/// The record as a plan tells it.
pub fn provenance(record: Record<'_>) -> Provenance {
    let mut teller = Teller { texts: Interned::default(), rules: Interned::default(), record };
    let bodies = (0..teller.record.rolled.bodies.len()).map(|body| teller.body(body)).collect();
    let Teller { texts, rules, record } = teller;
    let classes: FxHashMap<&str, Class> = record.rules.patterns.iter().map(|r| (r.name.as_str(), r.class)).collect();
    let named = |name: String| {
        let class =
            if name == MERGE_NAME { Class::Exact } else { classes.get(&*name).copied().unwrap_or(Class::Exact) };
        Named { class, name }
    };
    let weights = &record.model.declarations().weights;
    let regions = record.rolled.regions.iter().map(|region| Region {
        body: region.body,
        layer: region.layer,
        weights: region.weights.iter().map(|w| weights[w.0 as usize].name.clone()).collect(),
    });
    Provenance {
        texts: texts.all,
        rules: rules.all.into_iter().map(named).collect(),
        bodies,
        regions: regions.collect(),
        origins: record.origins,
    }
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
    record: Record<'a>,
}

impl<'a> Teller<'a> {
    fn body(&mut self, body: usize) -> Body {
        let (rolled, variants, all) = (self.record.rolled, self.record.variants, self.record.saturated);
        let formula = &rolled.bodies[body];
        let saturated = &all[body];
        let stages = saturated.stages.iter().map(|stage| self.stage(stage)).collect();
        let variants = variants.iter().map(|parts| self.variant(body, parts)).collect();
        Body { formula: self.texts.add(formula.to_string()), stages, variants, proofs: Vec::new() }
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

    fn variant(&mut self, body: usize, parts: &Parts<'a>) -> Variant {
        let Part { extracted, lowered } = &parts.bodies[body];
        let (graph, lines) = (&extracted.graph, extracted.graph.lines());
        let formula_lines = self.record.rolled.bodies[body].lines();
        let saturated = &self.record.saturated[body];
        let in_formula = |id: Id| {
            let class = saturated.egraph.find(extracted.classes[usize::from(id)]);
            saturated.formula.iter().position(|&c| c == class).and_then(|at| formula_lines[at])
        };
        let kernels = self.kernels(body, parts);
        let mut calls: Vec<Option<Call>> = vec![None; lowered.calls.len()];
        for group in calls::groups(graph, lowered) {
            let seconds: f64 = group.nodes.iter().map(|id| extracted.seconds[usize::from(*id)]).sum();
            let call = |at: usize| Call {
                kernel: kernels.get(&at).copied(),
                nodes: group.nodes.iter().filter_map(|id| lines[usize::from(*id)]).collect(),
                formula: group.results.iter().filter_map(|id| in_formula(*id)).collect(),
                seconds: seconds / group.calls.len() as f64,
                proof: None,
                within: Vec::new(),
                operands: None,
                columns: None,
            };
            for &at in &group.calls {
                calls[at] = Some(call(at));
            }
        }
        Variant {
            target: parts.target.into(),
            min_rows: parts.rows.min,
            max_rows: parts.rows.max,
            extracted: self.texts.add(graph.to_string()),
            seconds: extracted.cost,
            calls: calls.into_iter().flatten().collect(),
        }
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
