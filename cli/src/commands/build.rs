//! `compile-model build`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;
use warpweft_compiler::lossy::Quantization;
use warpweft_compiler::target::Target;
use warpweft_compiler::{Options, Phase, PhaseReport, WeightChoice};
use warpweft_runtime::{Adapter, AdapterChoice, block_on, choose};

use crate::CliError;
use crate::args::RuleOptions;
use crate::calibrate::{CalibrationOptions, Wanted, calibrate};
use crate::compile::{Made, Read, choose_targets};
use crate::console::Console;
use crate::files::check_writable;
use crate::hub;
use crate::progress::Unit;
use crate::report::Table;
use crate::{tuned, units};

/// Compile a checkpoint into a plan.
///
/// A plan is one file that holds everything: packed weights, shaders, the order in which they run, the tokenizer. It runs
/// on any adapter that one of its targets fits; `webgpu` is the floor that fits all.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model build all-MiniLM-L6-v2 -o minilm.weft
  compile-model build all-MiniLM-L6-v2 -o minilm-f16.weft --weights f16
  compile-model build Qwen3-0.6B -o qwen3-int4.weft --quantize int4
  compile-model build all-MiniLM-L6-v2 -o minilm-int8.weft --quantize int8 --activations int8
  compile-model build Qwen3-0.6B -o qwen3-int4.weft --quantize int4 --calibrate bundled
  compile-model build Qwen3-0.6B -o qwen3-auto.weft --quantize auto --budget 1% --calibrate my-texts.txt
  compile-model build Qwen3-8B -o qwen3-8b.weft --quantize auto --fit 6GiB
  compile-model build all-MiniLM-L6-v2 -o minilm.weft --targets webgpu,subgroup32
  compile-model build all-MiniLM-L6-v2 -o minilm.weft --tuned
  compile-model build Qwen3-0.6B -o long.weft --cache int8
  compile-model build all-MiniLM-L6-v2 --dump rewritten > rewritten.txt
  compile-model build all-MiniLM-L6-v2 -o slower.weft --without merge-siblings")]
pub(crate) struct Build {
    /// Folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json), or the name of a model on the Hub.
    #[arg(value_name = "CHECKPOINT")]
    folder: PathBuf,

    /// The plan's file. It appears when it is complete; an interrupted build leaves nothing behind.
    #[arg(short, long, value_name = "PLAN", required_unless_present = "dump")]
    output: Option<PathBuf>,

    /// How weights are stored: as they are, or converted.
    #[arg(long, value_name = "FORMAT", default_value = "keep", value_parser = weight_choices())]
    weights: WeightChoice,

    /// Targets to compile for: `all`, or names separated by commas.
    #[arg(long, value_name = "LIST", default_value = "all")]
    targets: String,

    /// Choose kernels by the rates that `compile-model tune` measured on an adapter of this machine, for the target that it
    /// runs. The plan runs everywhere all the same.
    #[arg(long, value_name = "ADAPTER", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    tuned: Option<String>,

    /// Print the program as it is after a phase, on stdout.
    #[arg(long, value_name = "PHASE", value_parser = phases())]
    dump: Option<Phase>,

    #[command(flatten)]
    rules: RuleOptions,

    #[command(flatten)]
    calibration: CalibrationOptions,
}

/// Puts the measured rates of an adapter into the target that it runs.
fn replace_tuned(targets: &mut [&'static Target], adapter: &Adapter) -> Result<(), CliError> {
    if tuned::rates(adapter).is_none() {
        return Err(CliError::Failed(format!(
            "nothing was measured on {} with this driver; run `compile-model tune --adapter {}` first",
            adapter.name, adapter.index
        )));
    }
    let measured = tuned::target(adapter)?;
    match targets.iter_mut().find(|target| target.name == measured.name) {
        Some(target) => *target = measured,
        None => {
            return Err(CliError::Usage(format!(
                "--tuned is for {}, which {} runs, but --targets leaves it out",
                measured.name, adapter.name
            )));
        }
    }
    Ok(())
}

pub(super) fn weight_choices() -> impl TypedValueParser<Value = WeightChoice> {
    PossibleValuesParser::new(WeightChoice::ALL.map(WeightChoice::name)).try_map(|name| name.parse::<WeightChoice>())
}

fn phases() -> impl TypedValueParser<Value = Phase> {
    PossibleValuesParser::new(Phase::ALL.map(Phase::name)).try_map(|name| name.parse::<Phase>())
}

pub(crate) fn run(args: &Build, console: &mut Console<'_>) -> Result<(), CliError> {
    let start = Instant::now();
    let mut targets = choose_targets(&args.targets)?;
    if let Some(adapter) = &args.tuned {
        replace_tuned(&mut targets, &block_on(choose(&AdapterChoice::from(adapter.as_str())))?)?;
    }
    if let Some(path) = &args.output {
        check_writable(path)?;
    }
    let wanted = args.calibration.wanted(args.rules.quantize)?;
    // What calibration does not round is rounded on its own.
    let quantize = match wanted {
        Some(Wanted::Auto(_)) => Quantization::None,
        Some(Wanted::Formats { .. }) | None => args.rules.quantization()?,
    };
    let options = Options {
        targets,
        weights: args.weights,
        quantize,
        cache: args.rules.cache.unwrap_or_default(),
        activations: args.rules.activations(),
        dump: args.dump,
        without: args.rules.without.clone(),
        taps: Vec::new(),
    };
    let folder = hub::resolve(&args.folder, console)?;
    let read = Read::of(&folder)?;
    let setting = args.calibration.setting(&args.rules.without);
    let calibrated = wanted.map(|wanted| calibrate(&read.imported, wanted, &setting, console)).transpose()?;
    let mut bar = console.bar("compile");
    let mut done = 0;
    let mut made = read.compile(&options, calibrated, &mut |_: &PhaseReport| {
        done += 1;
        bar.set(done, Phase::ALL.len() as u64, Unit::Items);
    })?;
    drop(bar);
    if let Some(dump) = &made.compiled.dump {
        console.print(dump.trim_end())?;
    }
    let Some(path) = &args.output else { return Ok(()) };
    made.tell_roundings()?;
    let pack_start = Instant::now();
    made.write(path, console)?;
    let written = Written {
        path,
        bytes: std::fs::metadata(path).map_err(CliError::io(format!("read {}", path.display())))?.len(),
        pack_seconds: pack_start.elapsed().as_secs_f64(),
        seconds: start.elapsed().as_secs_f64(),
    };
    match (args.dump.is_some(), console.json) {
        // A dump is the result then; the report would spoil it.
        (true, _) => {
            console.note(&table(&made, &written));
            Ok(())
        }
        (false, true) => console.print_json(&document(&made, &written)),
        (false, false) => console.print(&table(&made, &written)),
    }
}

struct Written<'p> {
    path: &'p Path,
    bytes: u64,
    pack_seconds: f64,
    seconds: f64,
}

fn document(made: &Made, written: &Written<'_>) -> serde_json::Value {
    let plan = &made.compiled.plan;
    let phases: Vec<_> = made
        .compiled
        .phases
        .iter()
        .map(|report| {
            json!({
                "phase": report.phase.name(),
                "seconds": report.time.as_secs_f64(),
                "e_nodes": report.e_nodes,
                "notes": report.notes,
            })
        })
        .collect();
    json!({
        "plan": written.path,
        "model": plan.model,
        "seconds": written.seconds,
        "read_seconds": made.import_time.as_secs_f64(),
        "phases": phases,
        "pack_seconds": written.pack_seconds,
        "bytes_read": made.imported.weights.checkpoint_bytes(),
        "bytes_written": written.bytes,
        "weight_bytes": made.weight_bytes(),
        "quantization": plan.quantization,
        "programs": plan.programs.len(),
        "kernels": plan.kernels.len(),
    })
}

fn table(made: &Made, written: &Written<'_>) -> String {
    let plan = &made.compiled.plan;
    let mut table = Table::new(&["phase", ">time", ">e-nodes", "notes"]);
    let read = units::bytes(made.imported.weights.checkpoint_bytes());
    let row = |name: &str, seconds: f64, e_nodes: usize, notes: String| {
        let e_nodes = if e_nodes == 0 { String::new() } else { units::count(e_nodes) };
        [name.to_owned(), units::seconds(seconds), e_nodes, notes]
    };
    table.row(row("read", made.import_time.as_secs_f64(), 0, format!("{read} of {}", plan.model.name)));
    for report in &made.compiled.phases {
        table.row(row(report.phase.name(), report.time.as_secs_f64(), report.e_nodes, report.notes.join("; ")));
    }
    let packed = format!("{} of weights", units::bytes(made.weight_bytes()));
    table.row(row("pack", written.pack_seconds, 0, packed));
    format!(
        "{}\n\nwrote {}: {}, {} programs of {} kernels, in {}",
        table.text(),
        written.path.display(),
        units::bytes(written.bytes),
        plan.programs.len(),
        plan.kernels.len(),
        units::seconds(written.seconds),
    )
}
