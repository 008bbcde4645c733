//! Where a plan's programs come from: the model's formulas, what saturation did to them, what was extracted, and for each
//! kernel call the proof that it computes what the formula says.
//!
//! Nothing of this is needed to run a plan, and a plan without it runs all the same. Graphs stand in their text form
//! (`compiler/src/graph/text.rs`); this crate only bounds them. A *line* is the number n of a node `%n` in such a text.

mod value;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

pub use value::{FormulaValue, ParseFormulaValueError};

use crate::{Plan, Program};

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Graphs, declarations and terms, each once; everything else refers to them by index.
    pub texts: Vec<String>,
    /// The rewrites and lowering steps that proofs and stages name, each once.
    pub rules: Vec<Rule>,
    /// Distinct bodies: what stands before the layers, each kind of layer, what stands after.
    pub bodies: Vec<Body>,
    /// The model as instances of bodies, in the order in which they run.
    pub regions: Vec<Region>,
    /// For each program of [`Plan::programs`], where its steps come from.
    pub origins: Vec<Origins>,
}

/// A rewrite or a lowering step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// What it may change in the numbers.
    pub class: Class,
}

/// What a rule may change in the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The same floating-point operations in the same order.
    Exact,
    /// The order of floating-point operations changes.
    Reassociates,
    /// Precision changes.
    Lossy,
}

impl Class {
    /// All classes, the harmless one first.
    pub const ALL: [Class; 3] = [Class::Exact, Class::Reassociates, Class::Lossy];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Exact => "exact",
            Class::Reassociates => "reassociates",
            Class::Lossy => "lossy",
        }
    }
}

/// A distinct part of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The text of the graph as the model's formulas have it: inputs from other regions are `$0`…, weights are named
    /// `w0`… (their names in the checkpoint are [`Region::weights`]), outputs `out0`….
    pub formula: usize,
    /// What saturation did, stage by stage.
    pub stages: Vec<Stage>,
    /// What was extracted for each target and range of rows.
    pub variants: Vec<Variant>,
    /// The proofs of all variants' kernels, each once.
    pub proofs: Vec<Proof>,
}

/// A stage of saturation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What was there before the first round.
    pub e_nodes: u64,
    /// The same, classes.
    pub classes: u64,
    /// Its rounds.
    pub rounds: Vec<Round>,
    /// Why it ended.
    pub stop: Stop,
}

/// A round of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// E-nodes afterwards.
    pub e_nodes: u64,
    /// E-classes afterwards.
    pub classes: u64,
    /// How often each rule changed something: an index into [`Provenance::rules`] and a number.
    pub applied: Vec<(usize, u64)>,
}

/// Why a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Nothing was left to find.
    Saturated,
    /// At the limit of e-nodes.
    Nodes,
    /// At the limit of rounds.
    Rounds,
    /// At the limit of time.
    Time,
}

/// A body as the programs of one target and range of rows have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// [`Program::target`]
    pub target: String,
    /// [`Program::min_rows`]
    pub min_rows: u32,
    /// [`Program::max_rows`]
    pub max_rows: Option<u32>,
    /// The text of the graph that was extracted.
    pub extracted: usize,
    /// Predicted seconds of one instance, as extraction counted them.
    pub seconds: f64,
    /// Its kernel calls, in order.
    pub calls: Vec<Call>,
}

/// A kernel call of a body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Index into [`Plan::kernels`]; `None` where no program of the plan runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<usize>,
    /// Lines of the extracted graph that it computes. What several calls compute again for themselves is in each.
    pub nodes: Vec<u32>,
    /// Lines of the formula that it stands for; none if it computes something that the formula does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formula: Vec<u32>,
    /// Predicted seconds, as extraction counted them, at the rows for which the program is judged.
    pub seconds: f64,
    /// Index into [`Body::proofs`]. Calls that compute one result together share a proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<usize>,
    /// Where there is no proof: the calls of the same variant whose proofs contain this one, because it computes an
    /// intermediate value of theirs that the formula does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<usize>,
    /// Text of what the kernel's meaning is applied to. Below the proof's declarations it makes a graph whose outputs are
    /// the meaning's arguments and then its weights, in order. None where the kernel has no meaning of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operands: Option<usize>,
    /// Which columns of the proof's results the kernel computes (first, number); `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<(u64, u64)>,
}

/// A proof that a kernel computes what the formula says: a chain of terms, each equal to the one before by a rule.
///
/// A term's text, below the declarations, makes a graph. All graphs of a proof have as many outputs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Text of the declarations: weights as in the body, arguments that are the kernel's inputs, caches.
    pub declarations: usize,
    /// For each argument, the values of the formula that it holds side by side, each from the first multiple of four columns
    /// on that is behind the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<Vec<FormulaValue>>,
    /// Which values of the formula the outputs are.
    pub results: Vec<FormulaValue>,
    /// What the first term rounds: the weights that it reads, which makes it of the formula over the checkpoint's weights, and
    /// then the activations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lossy: Vec<LossyStep>,
    /// Text of the formula's own term.
    pub start: usize,
    /// The rest of the chain; the last term is what the kernel computes. None where that is the formula's own term.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<ProofStep>,
}

/// Something is rounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LossyStep {
    /// A weight, when it is packed.
    Weight {
        /// Index into [`Region::weights`].
        weight: usize,
        /// The name of the format.
        format: String,
        /// The formula declares the weight in that format, because it was rounded before there was a formula: by calibration,
        /// and then [`Plan::quantization`] tells of it, or by whoever made the checkpoint, and then it is no step of ours.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stored: bool,
    },
    /// A matrix of activations, while the program runs.
    Activations {
        /// Line of the first term that rounds them.
        line: u32,
        /// The name of the format.
        format: String,
    },
}

impl LossyStep {
    /// The name of the format.
    pub fn format(&self) -> &str {
        match self {
            LossyStep::Weight { format, .. } | LossyStep::Activations { format, .. } => format,
        }
    }

    /// The weight that is rounded, by its index into [`Region::weights`].
    pub fn weight(&self) -> Option<usize> {
        match *self {
            LossyStep::Weight { weight, .. } => Some(weight),
            LossyStep::Activations { .. } => None,
        }
    }
}

/// A step of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofStep {
    /// Index into [`Provenance::rules`].
    pub rule: usize,
    /// The rule turns the term after the step into the one before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backward: bool,
    /// Text of the term after the step.
    pub after: usize,
}

/// An instance of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Index into [`Provenance::bodies`].
    pub body: usize,
    /// The layer; `None` before the first and after the last.
    pub layer: Option<u32>,
    /// The names that the body's weights `w0`… have in the checkpoint.
    pub weights: Vec<String>,
}

/// Where the steps of a program come from, an element for each step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origins {
    /// Indices into [`Provenance::regions`].
    pub regions: Vec<usize>,
    /// Indices into [`Variant::calls`] of the region's body.
    pub calls: Vec<usize>,
}

/// How many steps of each class proofs have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// [`Class::Exact`]
    pub exact: usize,
    /// [`Class::Reassociates`]
    pub reassociates: usize,
    /// [`Class::Lossy`]
    pub lossy: usize,
}

impl ClassCounts {
    /// Counts one step.
    pub fn add(&mut self, class: Class) {
        match class {
            Class::Exact => self.exact += 1,
            Class::Reassociates => self.reassociates += 1,
            Class::Lossy => self.lossy += 1,
        }
    }
}

impl Body {
    /// The body as a program of that target and range of rows has it.
    pub fn variant(&self, program: &Program) -> Option<&Variant> {
        self.variants.iter().find(|v| v.is_of(program))
    }
}

impl Variant {
    /// Whether the programs of its target and range of rows have that program among them.
    pub fn is_of(&self, program: &Program) -> bool {
        (self.target.as_str(), self.min_rows, self.max_rows)
            == (program.target.as_str(), program.min_rows, program.max_rows)
    }
}

impl Provenance {
    /// Makes the calls that the steps of program `at` come from name the kernels that these have now. Other programs of the
    /// same target and rows may have other ones, so a call is copied.
    pub(crate) fn follow(&mut self, at: usize, program: &Program) {
        let Some(origins) = self.origins.get_mut(at) else { return };
        for ((step, region), call) in program.steps.iter().zip(&origins.regions).zip(&mut origins.calls) {
            let body = self.regions.get(*region).and_then(|region| self.bodies.get_mut(region.body));
            let variant = body.and_then(|body| body.variants.iter_mut().find(|variant| variant.is_of(program)));
            let Some(Variant { calls, .. }) = variant else { continue };
            let Some(old) = calls.get(*call).filter(|old| old.kernel != Some(step.kernel)) else { continue };
            let new = Call { kernel: Some(step.kernel), ..old.clone() };
            *call = calls.iter().position(|known| *known == new).unwrap_or_else(|| {
                calls.push(new);
                calls.len() - 1
            });
        }
    }

    /// The body's call that became a step: program and step by their indices in the plan.
    pub fn call(&self, plan: &Plan, program: usize, step: usize) -> Option<(&Body, &Call)> {
        let origins = self.origins.get(program)?;
        let (region, call) = (*origins.regions.get(step)?, *origins.calls.get(step)?);
        let body = self.bodies.get(self.regions.get(region)?.body)?;
        Some((body, body.variant(plan.programs.get(program)?)?.calls.get(call)?))
    }

    /// The steps in the proofs of a program's kernels, roundings of weights and activations among them. A proof counts once for each region
    /// that has it.
    pub fn class_counts(&self, plan: &Plan, program: usize) -> ClassCounts {
        let mut counts = ClassCounts::default();
        let table = plan.quantization.iter().flat_map(|table| &table.weights);
        let rounded: HashSet<&str> = table.filter(|w| w.format.is_some()).map(|w| w.name.as_str()).collect();
        let mut seen = HashSet::new();
        let steps = plan.programs.get(program).map_or(0, |p| p.steps.len());
        for step in 0..steps {
            let Some((body, call)) = self.call(plan, program, step) else { continue };
            let Some(proof) = call.proof.filter(|p| seen.insert((self.origins[program].regions[step], *p))) else {
                continue;
            };
            let Some(proof) = body.proofs.get(proof) else { continue };
            let names = self.regions.get(self.origins[program].regions[step]).map_or(&[][..], |r| &r.weights);
            let ours = |step: &&LossyStep| match **step {
                LossyStep::Weight { weight, stored: true, .. } => {
                    names.get(weight).is_some_and(|name| rounded.contains(name.as_str()))
                }
                LossyStep::Weight { stored: false, .. } | LossyStep::Activations { .. } => true,
            };
            counts.lossy += proof.lossy.iter().filter(ours).count();
            for step in &proof.steps {
                self.rules.get(step.rule).into_iter().for_each(|rule| counts.add(rule.class));
            }
        }
        counts
    }
}
