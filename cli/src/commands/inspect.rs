//! `compile-model inspect`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use warpweft_plan::provenance::ClassCounts;
use warpweft_plan::{CacheFormat, CacheRows, FORMAT_VERSION, Model, Plan, PlanFile, Program, Quantization};

use crate::CliError;
use crate::console::Console;
use crate::load::open_plan;
use crate::report::Table;
use crate::{quantized, units, work};

/// Show what is in a plan.
///
/// Bytes are those of the step for which a program is judged: as many rows as it is made for (1,024 where its range has no
/// end), in sequences of 128 rows. `bytes_per_step` counts each operand of each dispatch once and its result once;
/// `activation_bytes` are the buffers that kernels write. `reassociate` and `lossy` count the steps in the proofs of the
/// program's kernels that change the order of floating-point operations, and those that change precision (`explain` shows
/// them).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model inspect minilm.weft
  compile-model inspect minilm.weft --kernels
  compile-model inspect qwen3-auto.weft --weights
  compile-model inspect minilm.weft --wgsl attention_12x32 | less
  compile-model inspect minilm.weft --json | jq '.programs[].dispatches'")]
pub(crate) struct Inspect {
    /// The plan.
    #[arg(value_name = "PLAN")]
    plan: PathBuf,

    /// List each program's kernels in the order in which they run.
    #[arg(long)]
    kernels: bool,

    /// List the weights that were rounded, by what, and what that costs.
    #[arg(long)]
    weights: bool,

    /// Print the shaders of the kernels whose names contain TEXT.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["kernels", "weights"])]
    wgsl: Option<String>,
}

#[derive(Serialize)]
struct Report<'p> {
    version: &'static str,
    model: &'p Model,
    file_bytes: u64,
    weight_bytes: u64,
    weight_types: Vec<&'p str>,
    /// How keys and values are stored; null without a cache.
    cache: Option<CacheReport>,
    texts: Vec<&'p str>,
    /// Which weights were rounded; none where the plan does not tell.
    quantization: Option<&'p Quantization>,
    programs: Vec<ProgramReport<'p>>,
}

#[derive(Clone, Copy, Serialize)]
struct CacheReport {
    format: CacheFormat,
    /// Of one token, in all layers.
    row_bytes: u64,
}

impl CacheReport {
    fn of(plan: &Plan) -> Option<CacheReport> {
        let caches = work::cached(plan);
        Some(CacheReport { format: caches.first()?.format, row_bytes: caches.iter().map(CacheRows::row_bytes).sum() })
    }
}

#[derive(Serialize)]
struct ProgramReport<'p> {
    target: &'p str,
    output: &'static str,
    rows: (u32, Option<u32>),
    dispatches: usize,
    dispatches_per_layer: usize,
    kernels: Vec<&'p str>,
    bytes_per_step: u64,
    activation_bytes: u64,
    flops_per_step: f64,
    evaluated_at: EvaluatedAt,
    /// Steps of each class in the proofs of its kernels; none where the plan does not tell.
    proof_steps: Option<ClassCounts>,
}

#[derive(Serialize)]
struct EvaluatedAt {
    tokens: u64,
    sequences: u64,
}

pub(crate) fn run(args: &Inspect, console: &mut Console<'_>) -> Result<(), CliError> {
    let file = open_plan(&args.plan)?;
    if let Some(name) = &args.wgsl {
        return shaders(file.plan(), name, console);
    }
    let report = report(&file);
    if console.json {
        return console.print_json(&report);
    }
    console.print(&summary(&report))?;
    if let (true, Some(quantization)) = (args.weights, &file.plan().quantization) {
        console.print(&quantized::table(quantization))?;
    }
    if args.kernels {
        for program in &file.plan().programs {
            console.print(&steps(file.plan(), program))?;
        }
    }
    Ok(())
}

fn report(file: &PlanFile) -> Report<'_> {
    let plan = file.plan();
    let flops = work::Flops::new(plan);
    let mut weight_types: Vec<&str> = plan.tensors.iter().map(|tensor| tensor.kind()).collect();
    weight_types.sort_unstable();
    weight_types.dedup();
    let program = |program: &'_ Program| {
        let sizes = work::typical_sizes(plan, program);
        (
            work::dispatches_per_layer(program),
            work::bytes(program, sizes),
            work::activation_bytes(plan, program, sizes),
            flops.of(program, sizes),
            EvaluatedAt { tokens: sizes.tokens, sequences: sizes.sequences },
        )
    };
    let programs = plan.programs.iter().enumerate().map(|(at, p)| {
        let (dispatches_per_layer, bytes_per_step, activation_bytes, flops_per_step, evaluated_at) = program(p);
        ProgramReport {
            target: &p.target,
            output: p.output.kind.name(),
            rows: (p.min_rows, p.max_rows),
            dispatches: p.steps.len(),
            dispatches_per_layer,
            kernels: work::kernels(plan, p),
            bytes_per_step,
            activation_bytes,
            flops_per_step,
            evaluated_at,
            proof_steps: plan.provenance.as_ref().map(|provenance| provenance.class_counts(plan, at)),
        }
    });
    Report {
        version: FORMAT_VERSION,
        model: &plan.model,
        file_bytes: file.size(),
        weight_bytes: plan.tensors.iter().filter_map(|tensor| tensor.bytes()).sum(),
        weight_types,
        quantization: plan.quantization.as_ref(),
        cache: CacheReport::of(plan),
        texts: file.assets().texts.keys().map(String::as_str).collect(),
        programs: programs.collect(),
    }
}

fn rows((least, most): (u32, Option<u32>)) -> String {
    match most {
        Some(most) if most == least => least.to_string(),
        Some(most) => format!("{least}–{most}"),
        None => format!("{least}–"),
    }
}

fn summary(report: &Report<'_>) -> String {
    let model = report.model;
    let cache = report.cache.map_or(String::new(), |CacheReport { format, row_bytes }| {
        format!("; cache {} a token in {format}", units::bytes(row_bytes))
    });
    let texts = if report.texts.is_empty() { "none".to_owned() } else { report.texts.join(", ") };
    let mut table = Table::new(&[
        "target",
        "output",
        "rows",
        ">dispatches",
        ">per layer",
        ">kernels",
        ">bytes",
        ">activations",
        ">reassociate",
        ">lossy",
    ]);
    let steps = |counts: Option<ClassCounts>, of: fn(ClassCounts) -> usize| {
        counts.map_or_else(|| "?".to_owned(), |counts| of(counts).to_string())
    };
    for program in &report.programs {
        table.row([
            program.target.to_owned(),
            program.output.to_owned(),
            rows(program.rows),
            program.dispatches.to_string(),
            program.dispatches_per_layer.to_string(),
            program.kernels.len().to_string(),
            units::bytes(program.bytes_per_step),
            units::bytes(program.activation_bytes),
            steps(program.proof_steps, |counts| counts.reassociates),
            steps(program.proof_steps, |counts| counts.lossy),
        ]);
    }
    let rounded = report.quantization.map_or_else(String::new, |q| format!("\n{}", quantized::summary(q)));
    format!(
        "{} ({}): {} layers, vocabulary {}, up to {} tokens ({} from text)\n\
         format version {}, {}; weights {} in {}{cache}; texts: {texts}{rounded}\n\n{}",
        model.name,
        model.family,
        model.layers,
        units::count(model.vocab_size as usize),
        model.max_positions,
        model.max_text_tokens,
        report.version,
        units::bytes(report.file_bytes),
        units::bytes(report.weight_bytes),
        report.weight_types.join(" and "),
        table.text(),
    )
}

fn steps(plan: &Plan, program: &Program) -> String {
    let sizes = work::typical_sizes(plan, program);
    let mut table = Table::new(&[">#", ">layer", "kernel", ">workgroups", ">bytes", ">Mflop"]);
    for (i, step) in program.steps.iter().enumerate() {
        let groups = step.grid.map(|groups| groups.count(sizes).unwrap_or(0).to_string());
        table.row([
            i.to_string(),
            step.layer.map_or(String::new(), |layer| layer.to_string()),
            plan.kernels.get(step.kernel).map_or(String::new(), |kernel| kernel.name.clone()),
            groups.join("×"),
            units::bytes(step.bytes.eval(sizes).unwrap_or(0)),
            units::significant(step.flops.eval(sizes).unwrap_or(0) as f64 / 1e6),
        ]);
    }
    let range = rows((program.min_rows, program.max_rows));
    let (target, output) = (&program.target, program.output.kind.name());
    format!("\n{target}, {output}, {range} rows; here {} rows\n{}", sizes.tokens, table.text())
}

fn shaders(plan: &Plan, name: &str, console: &mut Console<'_>) -> Result<(), CliError> {
    let found: Vec<_> = plan.kernels.iter().filter(|kernel| kernel.name.contains(name)).collect();
    if found.is_empty() {
        return Err(CliError::Failed(format!("no kernel of the plan is called {name:?}; --kernels lists them")));
    }
    if console.json {
        let shaders: serde_json::Map<_, _> =
            found.iter().map(|kernel| (kernel.name.clone(), kernel.wgsl.clone().into())).collect();
        return console.print_json(&shaders);
    }
    for kernel in found {
        let meaning = kernel.meaning.lines().map(|line| format!("// {line}\n")).collect::<String>();
        console.print(&format!("// {}\n{meaning}\n{}", kernel.name, kernel.wgsl.trim_end()))?;
    }
    Ok(())
}
