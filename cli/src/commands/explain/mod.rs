//! `compile-model explain`

mod check;
mod errors;
mod show;

use std::path::PathBuf;

use clap::Args;
use warpweft_plan::provenance::{Body, Provenance, Region, Variant};
use warpweft_plan::{Plan, Program};

use crate::CliError;
use crate::console::Console;
use crate::load::open_plan;

/// Show why kernels compute what the model says.
///
/// For each kernel, the model's own formula and the chain of rules that leads from it to what the kernel computes, as
/// algebra. `·` is a matrix product, `⊙` a product of elements; what stands in braces is what a kernel does to each element
/// `acc` that it computed; what a rule changed stands between « and ». Each rule is exact (the same floating-point
/// operations in the same order), reassociates (their order changes) or is lossy (precision changes). A kernel's inputs are
/// `x0`…, and above each formula stands what of the model they hold. What is rounded comes first: `round` says which weight, to
/// what, and how far that moved the weight when it was packed; of weights that calibration rounded, what it changes in
/// their contraction's result, and what that is predicted to cost where formats were chosen; and of activations, how far it
/// moves random ones.
///
/// Without --layer, each kind of layer is explained once. With --check, nothing in the plan is believed: formulas are
/// rebuilt, each step is replayed with its rule, and the terms before and after it are evaluated on random inputs; random
/// weights are rounded to see what that changes, which is not zero, beside what the plan says of the model's own; without
/// --layer, --target and --rows, all programs are checked. Exits with 1 if a proof does not hold.
///
/// How far the model's own weights were moved, the plan alone cannot show, because it does not have them: --checkpoint rounds
/// them again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model explain minilm.weft
  compile-model explain minilm.weft --layer 2 --kernel attention
  compile-model explain qwen3.weft --rows 512 --target webgpu
  compile-model explain minilm.weft --check
  compile-model explain qwen3-int4.weft --check --checkpoint Qwen3-0.6B
  compile-model explain minilm.weft --json | jq '.parts[].kernels[].steps[].rule'")]
pub(crate) struct Explain {
    /// The plan.
    #[arg(value_name = "PLAN")]
    plan: PathBuf,

    /// Explain this layer alone.
    #[arg(long, value_name = "N")]
    layer: Option<u32>,

    /// Explain these kernels alone: a number, as it stands before the kernel, or a part of the name.
    #[arg(long, value_name = "K")]
    kernel: Option<String>,

    /// Explain the programs for this target; else those of the plan's first.
    #[arg(long, value_name = "T")]
    target: Option<String>,

    /// Explain the program for a step of N rows; else for one row.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,

    /// Replay each step and say how far the numbers before and after it are apart.
    #[arg(long)]
    check: bool,

    /// With --check: round the weights of the checkpoint that the plan was made of, to see whether the plan tells the truth of
    /// how far they were moved. A folder, or the name of a model on the Hub.
    #[arg(long, value_name = "CHECKPOINT", requires = "check")]
    checkpoint: Option<PathBuf>,
}

/// A kind of layer as a program has it.
struct Part<'p> {
    body: &'p Body,
    /// Its instances; the first gives its names.
    regions: Vec<&'p Region>,
    variant: &'p Variant,
}

pub(crate) fn run(args: &Explain, console: &mut Console<'_>) -> Result<(), CliError> {
    let file = open_plan(&args.plan)?;
    let plan = file.plan();
    let Some(provenance) = &plan.provenance else {
        let problem = "the plan does not tell where its programs come from; compile the checkpoint again";
        return Err(CliError::Failed(problem.into()));
    };
    if args.check {
        return check::run(args, plan, provenance, console);
    }
    let parts = chosen(args, plan, provenance, false)?;
    show::run(args, plan, provenance, &parts, console)
}

/// The parts that are asked for. Where `all` is set, what is not asked for is everything.
fn chosen<'p>(
    args: &Explain,
    plan: &'p Plan,
    provenance: &'p Provenance,
    all: bool,
) -> Result<Vec<Part<'p>>, CliError> {
    let programs = programs(args, plan, all)?;
    if let Some(layer) = args.layer.filter(|&layer| layer >= plan.model.layers) {
        let problem =
            format!("there is no layer {layer}; {} has layers 0 to {}", plan.model.name, plan.model.layers.max(1) - 1);
        return Err(CliError::Usage(problem));
    }
    let mut parts = Vec::new();
    for program in programs {
        for (at, body) in provenance.bodies.iter().enumerate() {
            let wanted = |region: &&Region| region.body == at && (args.layer.is_none() || region.layer == args.layer);
            let regions: Vec<&Region> = provenance.regions.iter().filter(wanted).collect();
            if let (Some(variant), false) = (body.variant(program), regions.is_empty()) {
                parts.push(Part { body, regions, variant });
            }
        }
    }
    if let Some(kernel) = &args.kernel
        && !parts.iter().any(|part| (0..part.variant.calls.len()).any(|call| is_wanted(args, plan, part.variant, call)))
    {
        let problem =
            format!("no kernel here is called {kernel:?} or has that number; `explain` without --kernel lists them");
        return Err(CliError::Failed(problem));
    }
    Ok(parts)
}

/// One program for each target and range of rows that is asked for.
fn programs<'p>(args: &Explain, plan: &'p Plan, all: bool) -> Result<Vec<&'p Program>, CliError> {
    let first = plan.programs.first().map_or("", |p| p.target.as_str());
    let target = match &args.target {
        Some(name) => Some(name.as_str()),
        None if all => None,
        None => Some(first),
    };
    let rows = args.rows.or((!all).then_some(1));
    let of_rows = |p: &Program| rows.is_none_or(|n| p.min_rows <= n && p.max_rows.is_none_or(|max| n <= max));
    let mut programs: Vec<&Program> = Vec::new();
    for program in &plan.programs {
        let known = programs
            .iter()
            .any(|p| (&p.target, p.min_rows, p.max_rows) == (&program.target, program.min_rows, program.max_rows));
        if !known && of_rows(program) && target.is_none_or(|t| t == program.target) {
            programs.push(program);
        }
    }
    if programs.is_empty() {
        let mut targets: Vec<&str> = plan.programs.iter().map(|p| p.target.as_str()).collect();
        targets.dedup();
        let found = target.unwrap_or(first);
        let problem = format!("the plan has no program for {found:?}; it has those for {}", targets.join(", "));
        return Err(CliError::Failed(problem));
    }
    Ok(programs)
}

/// Whether a call is one of those that are asked for.
fn is_wanted(args: &Explain, plan: &Plan, variant: &Variant, call: usize) -> bool {
    let Some(wanted) = &args.kernel else { return true };
    let name = kernel_name(plan, variant, call);
    wanted.parse() == Ok(call) || (wanted.parse::<usize>().is_err() && name.contains(wanted.as_str()))
}

fn kernel_name<'p>(plan: &'p Plan, variant: &Variant, call: usize) -> &'p str {
    let kernel = variant.calls.get(call).and_then(|c| c.kernel);
    kernel.and_then(|k| plan.kernels.get(k)).map_or("(run by no program)", |k| k.name.as_str())
}

/// `layer 3`, `layers 0 and 2 to 5`, `before the layers`.
fn place(regions: &[&Region], provenance: &Provenance) -> String {
    let layers: Vec<u32> = regions.iter().filter_map(|r| r.layer).collect();
    let Some(&first) = layers.first() else {
        let before = provenance.regions.first().is_some_and(|r| regions.iter().any(|own| std::ptr::eq(*own, r)));
        return if before { "before the layers".into() } else { "after the layers".into() };
    };
    let mut runs: Vec<(u32, u32)> = vec![(first, first)];
    for &layer in &layers[1..] {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == layer => *end = layer,
            _ => runs.push((layer, layer)),
        }
    }
    let run = |&(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a} to {b}") };
    let runs: Vec<String> = runs.iter().map(run).collect();
    format!("layer{} {}", if layers.len() == 1 { "" } else { "s" }, runs.join(", "))
}

fn rows(variant: &Variant) -> String {
    match variant.max_rows {
        Some(1) => "1 row".into(),
        Some(max) => format!("{} to {max} rows", variant.min_rows),
        None => format!("{} rows or more", variant.min_rows),
    }
}
