//! What the page shows, as data: one JSON document that the page's scripts draw from.
//!
//! Everything stands once and is referred to by its place: kernels, buffers, texts of proofs. A model of sixteen layers for
//! six targets is some ten thousand steps, so a step is a short list of numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use warpweft_compiler::graph::Graph;
use warpweft_compiler::proof::algebra::{self, algebra, difference};
use warpweft_compiler::proof::{Chain, LOWERING, ProofFault, body_weight};
use warpweft_compiler::target::Target;
use warpweft_plan::provenance::{Body, Call, FormulaValue, Region, Rule, Stop, Variant};
use warpweft_plan::{Access, Buffer, Dim, Plan, PlanFile, Program, Provenance, ROW_BLOCK, Role, Sizes};

use super::cover::owners;
use super::labels::Names;
use super::measure::Measured;
use super::view::{Node, short_names, view};
use crate::lossy::lossy;
use crate::{CliError, quantized, work};

/// The document.
#[derive(Debug, Serialize)]
pub(super) struct Page<'p> {
    version: &'static str,
    model: Model<'p>,
    targets: Vec<TargetFacts<'p>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<&'p Measured>,
    /// Name, class, and what it means if it is a step of lowering.
    rules: Vec<(&'p str, &'static str, &'static str)>,
    texts: Vec<String>,
    bodies: Vec<BodyFacts<'p>>,
    regions: Vec<(usize, Option<u32>)>,
    kernels: Vec<KernelFacts<'p>>,
    buffers: Vec<BufferFacts<'p>>,
    programs: Vec<ProgramFacts<'p>>,
}

#[derive(Debug, Serialize)]
struct Model<'p> {
    name: &'p str,
    family: &'p str,
    layers: u32,
    vocabulary: u32,
    positions: u32,
    file_bytes: u64,
    weight_bytes: u64,
    weight_types: Vec<&'p str>,
    /// Which weights were rounded and what that costs, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    rounded: Option<String>,
}

/// What the cost model takes for a target's speed.
#[derive(Debug, Serialize)]
struct TargetFacts<'p> {
    name: &'p str,
    subgroup: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<RateFacts>,
}

#[derive(Debug, Serialize)]
struct RateFacts {
    /// Bytes per second.
    bandwidth: f64,
    /// Floating-point operations per second.
    flops: f64,
    /// Seconds of a dispatch.
    dispatch: f64,
}

#[derive(Debug, Serialize)]
struct BodyFacts<'p> {
    formula: Vec<Node>,
    stages: Vec<StageFacts<'p>>,
    variants: Vec<VariantFacts>,
    proofs: Vec<ProofFacts>,
}

/// E-nodes, classes, and (rule, how often).
type RoundFacts<'p> = (u64, u64, &'p [(usize, u64)]);

#[derive(Debug, Serialize)]
struct StageFacts<'p> {
    name: &'p str,
    nodes: u64,
    classes: u64,
    rounds: Vec<RoundFacts<'p>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct VariantFacts {
    target: String,
    rows: (u32, Option<u32>),
    seconds: f64,
    extracted: Vec<Node>,
    calls: Vec<CallFacts>,
}

#[derive(Debug, Serialize)]
struct CallFacts {
    /// None where no program needs it.
    kernel: Option<usize>,
    /// Places in the extracted graph.
    nodes: BTreeSet<usize>,
    /// Places in the formula.
    formula: Vec<usize>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    within: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct ProofFacts {
    /// What of the formula the kernel's inputs `x0`… hold.
    inputs: Vec<String>,
    /// What of the formula it arrives at.
    results: String,
    /// The formula's own term over the checkpoint's weights: an index into the texts.
    start: usize,
    /// Which weights are rounded, to what and how far that moves them, and the term over the rounded weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lossy: Vec<(String, usize)>,
    /// Rule, whether it is read from right to left, and the terms before and after, what differs in them between « and ».
    steps: Vec<(usize, bool, usize, usize)>,
}

#[derive(Debug, Serialize)]
struct KernelFacts<'p> {
    name: &'p str,
    wgsl: &'p str,
    workgroup: [u32; 3],
    bindings: Vec<(&'p str, &'static str)>,
    meaning: &'p str,
    trips: u64,
}

#[derive(Debug, Serialize)]
struct BufferFacts<'p> {
    name: &'p str,
    role: &'static str,
    /// Constant, and coefficients of tokens, context and sequences.
    bytes: [i64; 4],
}

#[derive(Debug, Serialize)]
struct ProgramFacts<'p> {
    target: &'p str,
    output: &'static str,
    rows: (u32, Option<u32>),
    sizes: SizeFacts,
    per_layer: usize,
    bytes: u64,
    reassociates: usize,
    lossy: usize,
    arena: u64,
    costs: Vec<CostFacts>,
    /// Index into the costs, region, bytes that are alive, buffers.
    steps: Vec<(usize, usize, u64, &'p [usize])>,
}

#[derive(Debug, Serialize)]
struct SizeFacts {
    tokens: u64,
    context: u64,
    sequences: u64,
}

/// What steps of the same call have in common.
#[derive(Debug, PartialEq, Serialize)]
struct CostFacts {
    kernel: usize,
    /// Index into the calls of the region's body.
    call: usize,
    bytes: u64,
    flops: f64,
    groups: [u64; 3],
}

impl<'p> Page<'p> {
    /// The page of a plan.
    ///
    /// # Errors
    /// When the plan does not say where its programs come from, or says it in graphs that do not parse.
    pub(super) fn of(file: &'p PlanFile, measured: Option<&'p Measured>) -> Result<Page<'p>, CliError> {
        let plan = file.plan();
        let provenance = plan.provenance.as_ref().ok_or_else(|| {
            CliError::Failed(
                "the plan does not say where its programs come from; make it again with `compile-model build`".into(),
            )
        })?;
        let flops = work::Flops::new(plan);
        let mut texts = Texts::default();
        let bodies: Vec<BodyFacts<'p>> = (0..provenance.bodies.len())
            .map(|at| body(plan, provenance, at, &mut texts))
            .collect::<Result<_, CliError>>()?;
        let mut targets: Vec<&str> = Vec::new();
        for program in &plan.programs {
            if !targets.contains(&program.target.as_str()) {
                targets.push(&program.target);
            }
        }
        let subgroup = |name: &str| plan.programs.iter().find(|p| p.target == name).and_then(|p| p.tier.subgroup_size);
        let facts = |name: &'p str| TargetFacts { name, subgroup: subgroup(name), rates: rates(name) };
        let buffer = |b: &'p Buffer| BufferFacts { name: &b.name, role: role(b.role), bytes: coefficients(b.bytes) };
        Ok(Page {
            version: env!("CARGO_PKG_VERSION"),
            model: model(file),
            targets: targets.into_iter().map(facts).collect(),
            measured,
            rules: provenance.rules.iter().map(|rule| (rule.name.as_str(), rule.class.name(), meaning(rule))).collect(),
            texts: texts.texts,
            bodies,
            regions: provenance.regions.iter().map(|region| (region.body, region.layer)).collect(),
            kernels: kernels(plan),
            buffers: plan.buffers.iter().map(buffer).collect(),
            programs: (0..plan.programs.len())
                .map(|at| program(plan, provenance, &flops, at, measured.and_then(|m| m.sizes(at))))
                .collect(),
        })
    }
}

fn model(file: &PlanFile) -> Model<'_> {
    let plan = file.plan();
    let mut weight_types: Vec<&str> = plan.tensors.iter().map(|tensor| tensor.kind()).collect();
    weight_types.sort_unstable();
    weight_types.dedup();
    Model {
        name: &plan.model.name,
        family: &plan.model.family,
        layers: plan.model.layers,
        vocabulary: plan.model.vocab_size,
        positions: plan.model.max_positions,
        file_bytes: file.size(),
        weight_bytes: plan.tensors.iter().filter_map(|tensor| tensor.bytes()).sum(),
        weight_types,
        rounded: plan.quantization.as_ref().map(quantized::summary),
    }
}

fn rates(target: &str) -> Option<RateFacts> {
    let rates = &Target::named(target)?.rates;
    Some(RateFacts { bandwidth: rates.bandwidth, flops: 2.0 * rates.fmas, dispatch: rates.dispatch })
}

fn meaning(rule: &Rule) -> &'static str {
    LOWERING.iter().find(|step| step.name == rule.name).map_or("", |step| step.means)
}

fn kernels(plan: &Plan) -> Vec<KernelFacts<'_>> {
    let access = |access: Access| match access {
        Access::Read => "read",
        Access::ReadWrite => "read_write",
        Access::Uniform => "uniform",
        Access::Image => "image",
        Access::ImageWrite => "written image",
    };
    let facts = plan.kernels.iter().map(|kernel| KernelFacts {
        name: &kernel.name,
        wgsl: &kernel.wgsl,
        workgroup: kernel.workgroup,
        bindings: kernel.bindings.iter().map(|b| (b.name.as_str(), access(b.access))).collect(),
        meaning: &kernel.meaning,
        trips: kernel.loop_trips,
    });
    facts.collect()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Weight { .. } => "weight",
        Role::Scratch => "scratch",
        Role::Input(_) => "input",
        Role::Output => "output",
        Role::Cache { .. } => "cache",
    }
}

fn coefficients(dim: Dim) -> [i64; 4] {
    [dim.constant, dim.tokens, dim.context, dim.sequences]
}

fn parsed(text: &str) -> Result<Graph, CliError> {
    text.parse().map_err(|e| CliError::Failed(format!("a graph of the plan's provenance does not parse: {e}")))
}

/// A text by its index; checked when the plan was read.
fn text(provenance: &Provenance, index: usize) -> &str {
    provenance.texts.get(index).map_or("", String::as_str)
}

fn body<'p>(plan: &Plan, provenance: &'p Provenance, at: usize, texts: &mut Texts) -> Result<BodyFacts<'p>, CliError> {
    let body = &provenance.bodies[at];
    let full = provenance.regions.iter().find(|region| region.body == at).map_or(&[][..], |r| &r.weights);
    let weights = short_names(full);
    let graph = parsed(text(provenance, body.formula))?;
    let names = Names { weights: weights.clone(), args: args(&graph) };
    let formula = view(&graph, &names);
    let variant = |v: &Variant| variant(provenance, v, &names, &graph, &formula);
    let variants = body.variants.iter().map(variant).collect::<Result<_, _>>()?;
    let proofs =
        (0..body.proofs.len()).map(|p| texts.proof((plan, provenance), body, p, &weights)).collect::<Result<_, _>>()?;
    Ok(BodyFacts { formula, stages: stages(body), variants, proofs })
}

/// What a body reads from outside.
fn args(graph: &Graph) -> Vec<String> {
    match graph.declarations().args.len() {
        1 => vec!["x".into()],
        n => (0..n).map(|i| format!("x{i}")).collect(),
    }
}

fn stages(body: &Body) -> Vec<StageFacts<'_>> {
    let limit = |stop: Stop| match stop {
        Stop::Saturated => None,
        Stop::Nodes => Some("nodes"),
        Stop::Rounds => Some("rounds"),
        Stop::Time => Some("time"),
    };
    let facts = body.stages.iter().map(|stage| StageFacts {
        name: &stage.name,
        nodes: stage.e_nodes,
        classes: stage.classes,
        rounds: stage.rounds.iter().map(|r| (r.e_nodes, r.classes, r.applied.as_slice())).collect(),
        limit: limit(stage.stop),
    });
    facts.collect()
}

fn variant(
    provenance: &Provenance,
    variant: &Variant,
    names: &Names,
    graph: &Graph,
    formula: &[Node],
) -> Result<VariantFacts, CliError> {
    let extracted_graph = parsed(text(provenance, variant.extracted))?;
    let extracted = view(&extracted_graph, names);
    let owners = owners(graph, &extracted_graph, &variant.calls);
    let place = |nodes: &[Node], line: u32| nodes.iter().position(|node| node.stands_for(line));
    let call = |(at, call): (usize, &Call)| CallFacts {
        kernel: call.kernel,
        nodes: call.nodes.iter().filter_map(|&line| place(&extracted, line)).collect::<BTreeSet<_>>(),
        formula: (0..).zip(&owners).filter(|(_, o)| **o == Some(at)).filter_map(|(n, _)| place(formula, n)).collect(),
        seconds: call.seconds,
        proof: call.proof,
        within: call.within.clone(),
    };
    let calls = variant.calls.iter().enumerate().map(call).collect();
    let rows = (variant.min_rows, variant.max_rows);
    Ok(VariantFacts { target: variant.target.clone(), rows, seconds: variant.seconds, extracted, calls })
}

/// The terms of proofs as algebra, each once.
#[derive(Default)]
struct Texts {
    known: HashMap<String, usize>,
    texts: Vec<String>,
}

impl Texts {
    fn proof(
        &mut self,
        (plan, provenance): (&Plan, &Provenance),
        body: &Body,
        index: usize,
        weights: &[String],
    ) -> Result<ProofFacts, CliError> {
        let fault = |fault: ProofFault| CliError::Failed(format!("a proof of the plan cannot be read: {fault}"));
        let chain = Chain::parse(provenance, body, index).map_err(fault)?;
        let names = proof_names(&chain, weights);
        let regions: Vec<&Region> = provenance
            .regions
            .iter()
            .filter(|r| provenance.bodies.get(r.body).is_some_and(|b| std::ptr::eq(b, body)))
            .collect();
        let (formula, lossy) = lossy(plan, &regions, &chain, &names).map_err(fault)?;
        let shown = |values: &Vec<FormulaValue>| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut facts = ProofFacts {
            inputs: chain.proof.arguments.iter().map(shown).collect(),
            results: shown(&chain.proof.results),
            start: self.add(&formula),
            lossy: lossy.iter().map(|step| (step.heading(), self.add(&step.term))).collect(),
            steps: Vec::new(),
        };
        for (pair, step) in chain.terms.windows(2).zip(&chain.proof.steps) {
            let found = difference(&pair[0], &pair[1]).map_err(|e| fault(e.into()))?;
            let before = self.add(&algebra(&found.before, &names, &found.removed));
            let after = self.add(&algebra(&found.after, &names, &found.added));
            facts.steps.push((step.rule, step.backward, before, after));
        }
        Ok(facts)
    }

    fn add(&mut self, lines: &[String]) -> usize {
        let text = lines.join("\n");
        let next = self.texts.len();
        *self.known.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            next
        })
    }
}

fn proof_names(chain: &Chain<'_>, weights: &[String]) -> algebra::Names {
    let declared = chain.terms[0].declarations();
    let weight = |name: &String| body_weight(name).and_then(|at| weights.get(at)).unwrap_or(name).clone();
    let numbered = |letter: &str, n: usize| match n {
        1 => vec![letter.to_owned()],
        n => (0..n).map(|i| format!("{letter}{i}")).collect(),
    };
    algebra::Names {
        weights: declared.weights.iter().map(|w| weight(&w.name)).collect(),
        args: (0..declared.args.len()).map(|i| format!("x{i}")).collect(),
        outputs: numbered("y", chain.terms[0].outputs().len()),
    }
}

/// A program in a step of these sizes, or else of those for which it is judged.
fn program<'p>(
    plan: &'p Plan,
    provenance: &Provenance,
    flops: &work::Flops<'_>,
    at: usize,
    sizes: Option<Sizes>,
) -> ProgramFacts<'p> {
    let program: &Program = &plan.programs[at];
    let sizes = sizes.unwrap_or_else(|| work::typical_sizes(plan, program));
    let padded = Sizes { tokens: sizes.tokens.next_multiple_of(ROW_BLOCK), ..sizes };
    let origins = provenance.origins.get(at);
    let mut costs: Vec<CostFacts> = Vec::new();
    let mut known: BTreeMap<(usize, usize, usize), usize> = BTreeMap::new();
    let mut steps = Vec::new();
    for (i, step) in program.steps.iter().enumerate() {
        let of = |list: fn(&warpweft_plan::provenance::Origins) -> &Vec<usize>| {
            origins.and_then(|o| list(o).get(i)).copied().unwrap_or(0)
        };
        let (region, call) = (of(|o| &o.regions), of(|o| &o.calls));
        let body = provenance.regions.get(region).map_or(0, |r| r.body);
        let cost = *known.entry((body, call, step.kernel)).or_insert_with(|| {
            costs.push(CostFacts {
                kernel: step.kernel,
                call,
                bytes: step.bytes.eval(sizes).unwrap_or(0),
                flops: flops.of_step(step, sizes),
                groups: step.grid.map(|groups| groups.count(sizes).unwrap_or(0)),
            });
            costs.len() - 1
        });
        steps.push((cost, region, step.live.eval(padded).unwrap_or(0), step.buffers.as_slice()));
    }
    let classes = provenance.class_counts(plan, at);
    ProgramFacts {
        target: &program.target,
        output: program.output.kind.name(),
        rows: (program.min_rows, program.max_rows),
        sizes: SizeFacts { tokens: sizes.tokens, context: sizes.context, sequences: sizes.sequences },
        per_layer: work::dispatches_per_layer(program),
        bytes: work::bytes(program, sizes),
        reassociates: classes.reassociates,
        lossy: classes.lossy,
        arena: scratch_bytes(plan, program, padded),
        costs,
        steps,
    }
}

/// Bytes of the scratch buffers of a program.
fn scratch_bytes(plan: &Plan, program: &Program, sizes: Sizes) -> u64 {
    let mut used: Vec<usize> = program.steps.iter().flat_map(|step| step.buffers.iter().copied()).collect();
    used.sort_unstable();
    used.dedup();
    let scratch = used.iter().filter_map(|&i| plan.buffers.get(i)).filter(|b| b.role == Role::Scratch);
    scratch.filter_map(|buffer| buffer.bytes.eval(sizes)).sum()
}
