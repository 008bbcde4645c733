//! The compiler: one function that reads as the list of its phases.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use rustc_hash::FxHashSet;
use warpweft_plan::provenance::Origins;
use warpweft_plan::{CacheFormat, Model, OutputKind, Plan, Provenance, RoundedActivations};

use crate::extract::{ExtractError, Extracted};
use crate::formats::Format;
use crate::graph::verify::{Form, VerifyError, verify};
use crate::graph::{FactError, Graph, Id};
use crate::images;
use crate::kernels::{Job, KernelError, RowRange, lower_all};
use crate::lossy::{Activations, Quantization, Rounding, round_activations, round_weights};
use crate::lower::{Bounds, Call, LowerError, LoweredBody, lower, write_over};
use crate::pack::{Packing, WeightChoice, choose_formats};
use crate::phases::{Phase, PhaseReport};
use crate::proof::{self, Parts, ProofError, Record, provenance};
use crate::roll::{RollError, Rolled, roll};
use crate::rules::{Limits, RewriteError, RuleSet, Saturated, StopReason, saturate};
use crate::schedule::{BodyProgram, ComposedBody, Part, ScheduleError, Shared, assemble};
use crate::target::Target;
use crate::variants::{Variant, extract_all};

/// Programs are made for one row, for a few, and for any greater number.
pub const ROW_RANGES: [RowRange; 3] =
    [RowRange { min: 1, max: Some(1) }, RowRange { min: 2, max: Some(16) }, RowRange { min: 17, max: None }];

/// What to compile for.
#[derive(Clone, Debug)]
pub struct Options {
    /// A program of each output is made for each.
    pub targets: Vec<&'static Target>,
    /// The format of weights.
    pub weights: WeightChoice,
    /// Which weights are rounded to quantized formats.
    pub quantize: Quantization,
    /// How caches of keys and values are stored.
    pub cache: CacheFormat,
    /// Whether activations are rounded too.
    pub activations: Activations,
    /// The phase whose result is wanted as text.
    pub dump: Option<Phase>,
    /// Names of rules that are left out.
    pub without: Vec<String>,
    /// Nodes of the graph, a row per token each, that the programs of the output `hidden` keep for whoever wants to see
    /// them.
    pub taps: Vec<Id>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            targets: Target::all().iter().collect(),
            weights: WeightChoice::Keep,
            quantize: Quantization::None,
            cache: CacheFormat::default(),
            activations: Activations::Floats,
            dump: None,
            without: Vec::new(),
            taps: Vec::new(),
        }
    }
}

/// A compiled model.
#[derive(Debug)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// How to pack its weights.
    pub packing: Packing,
    /// What each phase did.
    pub phases: Vec<PhaseReport>,
    /// The text of the phase that [`Options::dump`] names.
    pub dump: Option<String>,
    /// The weights that are rounded when they are packed.
    pub roundings: Vec<Rounding>,
    /// The activations that are rounded while programs run.
    pub activations: Option<RoundedActivations>,
}

/// A model that cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The options name no target.
    #[error("no target to compile for")]
    NoTarget,
    /// The graph has none of the outputs that programs are made for.
    #[error("the graph has none of the outputs hidden, embedding, logits")]
    NoOutput,
    /// Activations are to be rounded for nothing.
    #[error(
        "activations int8: no contraction of this model reads int8 weights, so integers would be used nowhere; round its \
         weights to int8 too (quantize int8, int8-row or int8-g128), or leave activations as they are"
    )]
    NoIntegers,
    /// The graph does not type-check.
    #[error(transparent)]
    Fact(#[from] FactError),
    /// A phase was handed something that is not legal there.
    #[error("after {phase}: {error}")]
    Verify {
        /// The phase before.
        phase: Phase,
        /// What is wrong.
        error: VerifyError,
    },
    /// Layers out of order.
    #[error(transparent)]
    Roll(#[from] RollError),
    /// Rules that are not known, or, a bug, contradict each other.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// Terms of a proof that contradict each other; a bug.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// No program.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// No operation.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// No kernel.
    #[error("on {target}: {error}")]
    Kernel {
        /// The target.
        target: String,
        /// Why.
        error: KernelError,
    },
    /// No schedule; a bug.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

/// Compiles a model's graph; `observe` is told of each phase as it ends.
///
/// # Errors
/// When the graph is wrong or some part of it has no kernel on some target.
pub fn compile(
    graph: &Graph,
    model: &Model,
    options: &Options,
    observe: &mut dyn FnMut(&PhaseReport),
) -> Result<Compiled, CompileError> {
    let mut log = Log { phases: Vec::new(), dump: None, wanted: options.dump, observe, started: Instant::now() };
    if options.targets.is_empty() {
        return Err(CompileError::NoTarget);
    }

    check(graph, Form::Imported, Phase::Import)?;
    log.end(Phase::Import, 0, vec![format!("{} nodes", graph.nodes().len())], || graph.to_string());

    let (mut rounded, roundings) = round_weights(graph, &options.quantize)?;
    let mut notes = rounding_notes(&roundings);
    let mut activations = None;
    if let Some(format) = options.activations.format() {
        let inputs;
        (rounded, inputs) = round_activations(&rounded, format)?;
        if inputs == 0 {
            return Err(CompileError::NoIntegers);
        }
        notes.push(format!("{inputs} matrices of activations rounded to {format}"));
        activations = Some(RoundedActivations { format: format.name(), inputs: inputs as u64 });
    }
    log.end(Phase::Lossy, 0, notes, || rounded.to_string());

    // Node for node the same graph; recipes read the checkpoint's own types from the first.
    let graph = &rounded;
    let mut chosen = choose_formats(graph, options.weights)?;
    for (i, &tap) in options.taps.iter().enumerate() {
        chosen.add_output(format!("tap {i}"), tap);
    }
    let rolled = roll(&chosen)?;
    let notes = vec![format!("{} regions, {} distinct", rolled.regions.len(), rolled.bodies.len())];
    log.end(Phase::Canonical, 0, notes, || bodies_text(&rolled.bodies));

    let rules = RuleSet::without(&options.without)?;
    let saturated = rewrite(&rolled, &rules)?;
    let nodes = saturated.iter().map(|s| s.egraph.total_size()).sum();
    log.end(Phase::Rewritten, nodes, rewrite_notes(&saturated), || e_graphs_text(&saturated));

    let variants = extract_all(&rolled, &saturated, &options.targets, options.cache)?;
    for body in variants.iter().flat_map(|variant| &variant.bodies) {
        check(&body.graph, Form::Extracted, Phase::Extracted)?;
    }
    let notes = vec![format!("{} programs of {} bodies", variants.len(), rolled.bodies.len())];
    log.end(Phase::Extracted, 0, notes, || variants_text(&variants));

    let composed = compose_all(&chosen, &rolled, &variants, model.max_positions, options)?;
    let count = composed.iter().flatten().map(|b| b.kernels.len()).sum::<usize>();
    log.end(Phase::Kernels, 0, vec![format!("{count} kernels composed and validated")], || kernels_text(&composed));

    let (mut plan, packing, origins) = schedule_all(graph, model, options, &rolled, &variants, &composed)?;
    let notes = vec![format!(
        "{} programs, {} distinct kernels, {} packed tensors",
        plan.programs.len(),
        plan.kernels.len(),
        plan.tensors.len()
    )];
    log.end(Phase::Scheduled, 0, notes, || programs_text(&plan));

    let parts = parts(&variants, &composed);
    let record = Record {
        model: graph,
        rolled: &rolled,
        rules: &rules,
        saturated: &saturated,
        variants: &parts,
        programs: &plan.programs,
        origins,
    };
    let told = provenance(record)?;
    let proofs = || told.bodies.iter().flat_map(|b| &b.proofs);
    let notes =
        vec![format!("{} proofs of {} steps", proofs().count(), proofs().map(|p| p.steps.len()).sum::<usize>())];
    log.end(Phase::Proved, 0, notes, || proofs_text(&told));
    plan.provenance = Some(told);
    Ok(Compiled { plan, packing, phases: log.phases, dump: log.dump, roundings, activations })
}

fn check(graph: &Graph, form: Form, phase: Phase) -> Result<(), CompileError> {
    verify(graph, form).map_err(|error| CompileError::Verify { phase, error })
}

fn rewrite(rolled: &Rolled, rules: &RuleSet) -> Result<Vec<Saturated>, CompileError> {
    rolled.bodies.iter().map(|body| Ok(saturate(body, rules, Limits::default())?)).collect()
}

fn compose_all(
    chosen: &Graph,
    rolled: &Rolled,
    variants: &[Variant],
    max_context: u32,
    options: &Options,
) -> Result<Vec<Vec<ComposedBody>>, CompileError> {
    let lowered = |variant: &Variant, body: &Extracted| {
        let limits = &variant.target.limits;
        let bounds = Bounds {
            max_context,
            binding_bytes: limits.binding_bytes,
            storage_buffers: limits.storage_buffers,
            rows: variant.rows,
            cache: options.cache,
            uncut: variant.target.uncut(),
        };
        lower(&body.graph, bounds)
    };
    let mut lowered: Vec<Vec<LoweredBody>> = (variants.iter())
        .map(|variant| variant.bodies.iter().map(|body| lowered(variant, body)).collect())
        .collect::<Result<_, _>>()?;
    for (variant, bodies) in variants.iter().zip(&mut lowered) {
        let graphs: Vec<&Graph> = variant.bodies.iter().map(|body| &body.graph).collect();
        write_over(chosen, rolled, &graphs, bodies);
        let part = |&output: &OutputKind| part(variant, options, output);
        images::make(chosen, rolled, bodies, &outputs(chosen).iter().map(part).collect::<Vec<_>>())?;
    }
    let jobs: Vec<Job<'_>> = (variants.iter().zip(&lowered))
        .flat_map(|(variant, bodies)| bodies.iter().flat_map(|body| &body.calls).map(move |call| (variant, call)))
        .map(|(Variant { target, rows, .. }, Call { operation, .. })| Job {
            operation,
            target,
            rows: operation.row_range(*rows),
        })
        .collect();
    let kernels = lower_all(&jobs)
        .map_err(|(job, error)| CompileError::Kernel { target: jobs[job].target.name.clone(), error })?;
    let mut kernels = kernels.into_iter();
    let mut body =
        |lowered: LoweredBody| ComposedBody { kernels: kernels.by_ref().take(lowered.calls.len()).collect(), lowered };
    Ok(lowered.into_iter().map(|bodies| bodies.into_iter().map(&mut body).collect()).collect())
}

/// What a graph computes.
fn outputs(graph: &Graph) -> Vec<OutputKind> {
    OutputKind::ALL.into_iter().filter(|kind| graph.output(*kind).is_some()).collect()
}

/// What the program of a variant for an output is.
fn part<'o>(variant: &Variant, options: &'o Options, output: OutputKind) -> Part<'o> {
    let taps = if output == OutputKind::Hidden { &options.taps[..] } else { &[] };
    Part { target: variant.target, rows: variant.rows, output, taps }
}

fn schedule_all(
    graph: &Graph,
    model: &Model,
    options: &Options,
    rolled: &Rolled,
    variants: &[Variant],
    composed: &[Vec<ComposedBody>],
) -> Result<(Plan, Packing, Vec<Origins>), CompileError> {
    let outputs = outputs(graph);
    if outputs.is_empty() {
        return Err(CompileError::NoOutput);
    }
    let mut shared = Shared::default();
    let (mut programs, mut origins) = (Vec::new(), Vec::new());
    for (variant, composed) in variants.iter().zip(composed) {
        let bodies: Vec<BodyProgram<'_>> = variant
            .bodies
            .iter()
            .zip(composed)
            .map(|(b, composed)| BodyProgram { graph: &b.graph, composed })
            .collect();
        for &output in &outputs {
            let part = part(variant, options, output);
            let (program, origin) = assemble(graph, rolled, &bodies, part, &mut shared)?;
            programs.push(program);
            origins.push(origin);
        }
    }
    let (plan, packing) = shared.finish(model.clone(), programs);
    Ok((plan, packing, origins))
}

fn parts<'a>(variants: &'a [Variant], composed: &'a [Vec<ComposedBody>]) -> Vec<Parts<'a>> {
    let parts = |(variant, composed): (&'a Variant, &'a Vec<ComposedBody>)| Parts {
        target: &variant.target.name,
        rows: variant.rows,
        bodies: (variant.bodies.iter().zip(composed))
            .map(|(extracted, composed)| proof::Part { extracted, lowered: &composed.lowered })
            .collect(),
    };
    variants.iter().zip(composed).map(parts).collect()
}

/// Phases as they end, and the one that is wanted as text.
struct Log<'o> {
    phases: Vec<PhaseReport>,
    dump: Option<String>,
    wanted: Option<Phase>,
    observe: &'o mut dyn FnMut(&PhaseReport),
    started: Instant,
}

impl Log<'_> {
    fn end(&mut self, phase: Phase, e_nodes: usize, notes: Vec<String>, text: impl FnOnce() -> String) {
        let report = PhaseReport { phase, time: self.started.elapsed(), e_nodes, notes };
        (self.observe)(&report);
        self.phases.push(report);
        if self.wanted == Some(phase) {
            self.dump = Some(text());
        }
        self.started = Instant::now();
    }
}

fn rounding_notes(roundings: &[Rounding]) -> Vec<String> {
    let mut formats: BTreeMap<Format, usize> = BTreeMap::new();
    roundings.iter().for_each(|rounding| *formats.entry(rounding.format).or_default() += 1);
    formats.into_iter().map(|(format, n)| format!("{n} weights rounded to {format}")).collect()
}

fn rewrite_notes(saturated: &[Saturated]) -> Vec<String> {
    let mut notes = Vec::new();
    for (i, body) in saturated.iter().enumerate() {
        for stage in &body.stages {
            let limit = match stage.stop {
                StopReason::Saturated => continue,
                StopReason::Nodes => "node",
                StopReason::Iterations => "iteration",
                StopReason::Time => "time",
            };
            notes.push(format!("body {i}: stage {} stopped at its {limit} limit", stage.stage.name()));
        }
    }
    notes
}

fn bodies_text(bodies: &[Graph]) -> String {
    let mut text = String::new();
    for (i, body) in bodies.iter().enumerate() {
        let _ = writeln!(text, "# body {i}\n{body}");
    }
    text
}

fn e_graphs_text(saturated: &[Saturated]) -> String {
    let mut text = String::new();
    for (i, body) in saturated.iter().enumerate() {
        let _ = writeln!(text, "# body {i}, outputs {:?}", body.roots);
        for stage in &body.stages {
            let _ = writeln!(
                text,
                "# stage {}: {} rounds, {} e-nodes, {} classes",
                stage.stage.name(),
                stage.iterations,
                stage.nodes,
                stage.classes
            );
            for (rule, n) in &stage.applied {
                let _ = writeln!(text, "#   {rule} × {n}");
            }
        }
        let mut classes: Vec<_> = body.egraph.classes().collect();
        classes.sort_by_key(|c| c.id);
        for class in classes {
            let nodes: Vec<String> = class
                .nodes
                .iter()
                .map(|n| {
                    let children: String = egg::Language::children(n).iter().map(|c| format!(" {c}")).collect();
                    format!("({n}{children})")
                })
                .collect();
            let _ = writeln!(text, "{} = {}", class.id, nodes.join(" | "));
        }
    }
    text
}

fn variants_text(variants: &[Variant]) -> String {
    let mut text = String::new();
    for v in variants {
        for (i, body) in v.bodies.iter().enumerate() {
            let rows = v.rows.max.map_or("any".into(), |m| m.to_string());
            let (target, min, cost) = (&v.target.name, v.rows.min, body.cost * 1e6);
            let _ =
                writeln!(text, "# body {i}, {target}, {min} to {rows} rows, {cost:.1} µs predicted\n{}", body.graph);
        }
    }
    text
}

fn kernels_text(composed: &[Vec<ComposedBody>]) -> String {
    let mut seen = FxHashSet::default();
    let mut text = String::new();
    for body in composed.iter().flatten() {
        for (call, kernel) in body.lowered.calls.iter().zip(&body.kernels) {
            if seen.insert(&kernel.wgsl) {
                let meaning: String = call.meaning.to_string().lines().map(|l| format!("// {l}\n")).collect();
                let _ = writeln!(text, "// {}\n{meaning}{}", kernel.name, kernel.wgsl);
            }
        }
    }
    text
}

fn programs_text(plan: &Plan) -> String {
    let mut text = String::new();
    for p in &plan.programs {
        let rows = p.max_rows.map_or("any".into(), |m| m.to_string());
        let _ = writeln!(text, "# {}, {} to {rows} rows, {}", p.target, p.min_rows, p.output.kind.name());
        for step in &p.steps {
            let buffers: Vec<_> = step.buffers.iter().map(|&b| plan.buffers[b].name.as_str()).collect();
            let layer = step.layer.map_or("-".into(), |l| l.to_string());
            let _ = writeln!(text, "{layer:>3} {} ({})", plan.kernels[step.kernel].name, buffers.join(", "));
        }
    }
    text
}

fn proofs_text(provenance: &Provenance) -> String {
    let mut text = String::new();
    for (i, body) in provenance.bodies.iter().enumerate() {
        for (j, proof) in body.proofs.iter().enumerate() {
            let results: Vec<String> = proof.results.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "# body {i}, proof {j}: {}", results.join(", "));
            let _ = write!(text, "{}{}", provenance.texts[proof.declarations], provenance.texts[proof.start]);
            for step in &proof.steps {
                let rule = &provenance.rules[step.rule];
                let way = if step.backward { ", backward" } else { "" };
                let after = &provenance.texts[step.after];
                let _ = write!(text, "# {} ({}{way})\n{after}", rule.name, rule.class.name());
            }
        }
    }
    text
}
