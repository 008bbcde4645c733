//! A model to run, from a plan or from a checkpoint folder.

use std::path::Path;

use tempfile::TempPath;
use warpweft_compiler::{Options as CompileOptions, WeightChoice};
use warpweft_models::has_weights;
use warpweft_plan::{OutputKind, PlanFile};
use warpweft_runtime::{Adapter, Engine, Options, block_on, choose};

use crate::CliError;
use crate::args::{RuleOptions, RunOptions};
use crate::cache::{Slot, temporary_folder};
use crate::compile::{make, make_of_config};
use crate::console::Console;
use crate::hub;
use crate::progress::opening;
use crate::tuned;

/// Bytes of random weights that are kept in memory; more go into a file.
const IN_MEMORY: u64 = 512 << 20;

/// Opens a plan file, or compiles a checkpoint folder, and takes it to the adapter.
pub(crate) fn open_model(
    path: &Path,
    run: &RunOptions,
    output: OutputKind,
    console: &mut Console<'_>,
) -> Result<Engine, CliError> {
    // A command gives one answer and ends: it compiles what that answer needs and no more.
    let options = Options { lazy: true, ..run.opened_for(output) };
    let (adapter, plan) = adapter_and_plan(path, run, console)?;
    open_on(&adapter, plan, &options, console)
}

/// The adapter that is asked for, and the plan in a file or that of a checkpoint folder for this adapter.
pub(crate) fn adapter_and_plan(
    path: &Path,
    run: &RunOptions,
    console: &mut Console<'_>,
) -> Result<(Adapter, PlanFile), CliError> {
    let path = &*hub::resolve(path, console)?;
    // A plan that cannot be read is refused before adapters are looked for.
    let plan = if path.is_dir() { None } else { Some(made_plan(path, &run.rules)?) };
    let adapter = block_on(choose(&run.choice()))?;
    let plan = match plan {
        Some(plan) => plan,
        None => compiled(path, &adapter, &run.rules, console)?,
    };
    Ok((adapter, plan))
}

/// Takes a plan to an adapter.
pub(crate) fn open_on(
    adapter: &Adapter,
    plan: PlanFile,
    options: &Options,
    console: &mut Console<'_>,
) -> Result<Engine, CliError> {
    let quiet = console.json;
    let mut progress = opening(console.messages(), quiet);
    Ok(block_on(Engine::open_on(adapter, plan, options, &mut progress))?)
}

/// A plan that is measured.
pub(crate) struct BenchPlan {
    pub(crate) plan: PlanFile,
    /// The plan's file, if it is removed in the end.
    pub(crate) file: Option<TempPath>,
    /// Whether its weights are random.
    pub(crate) random: bool,
}

/// The plan in a file or that of a checkpoint folder; a folder without weights gets random ones.
pub(crate) fn bench_plan(
    path: &Path,
    adapter: &Adapter,
    rules: &RuleOptions,
    console: &mut Console<'_>,
) -> Result<BenchPlan, CliError> {
    let path = &*hub::resolve(path, console)?;
    if !path.is_dir() || has_weights(path)? {
        return Ok(BenchPlan { plan: plan_for(path, adapter, rules, console)?, file: None, random: false });
    }
    let options = CompileOptions {
        targets: vec![tuned::target(adapter)?],
        without: rules.without.clone(),
        quantize: rules.quantization()?,
        cache: rules.cache.unwrap_or_default(),
        activations: rules.activations(),
        ..CompileOptions::default()
    };
    if !console.json {
        console.note(&format!("note: no weights in {}; random ones take their place", path.display()));
    }
    let made = make_of_config(path, &options)?;
    if made.weight_bytes() <= IN_MEMORY {
        return Ok(BenchPlan { plan: made.in_memory(console)?, file: None, random: true });
    }
    let folder = temporary_folder();
    let action = || format!("write into {}", folder.display());
    let file = tempfile::Builder::new().prefix("random-").suffix(".weft").tempfile_in(&folder);
    let file = file.map_err(CliError::io(action()))?.into_temp_path();
    made.write(&file, console)?;
    let plan = PlanFile::open(&file)?;
    // What is open may be removed on Unix, and then nothing is left however the process ends.
    let file = (!cfg!(unix)).then_some(file);
    Ok(BenchPlan { plan, file, random: true })
}

/// Opens a plan file.
pub(crate) fn open_plan(path: &Path) -> Result<PlanFile, CliError> {
    if !path.exists() {
        return Err(CliError::NotFound { path: path.to_owned() });
    }
    if path.is_dir() {
        let path = path.display();
        return Err(CliError::Failed(format!(
            "{path} is a folder; make a plan of it first: compile-model build {path} -o PLAN"
        )));
    }
    Ok(PlanFile::open(path)?)
}

/// Opens a plan file, for which it is too late to choose rules, weights or the cache.
pub(crate) fn made_plan(path: &Path, rules: &RuleOptions) -> Result<PlanFile, CliError> {
    let without = rules.without.first().map(|rule| format!("--without {rule}"));
    let quantize = || rules.quantize.map(|scheme| format!("--quantize {scheme}"));
    let activations = || rules.activations.map(|activations| format!("--activations {}", activations.name()));
    let cache = || rules.cache.map(|format| format!("--cache {format}"));
    let given = without.or_else(quantize).or_else(activations).or_else(cache);
    if let (Some(given), true) = (given, path.exists()) {
        let path = path.display();
        return Err(CliError::Usage(format!(
            "{given} is for checkpoints; {path} is compiled already: give it to compile-model build"
        )));
    }
    open_plan(path)
}

/// The plan in a file, or that of a checkpoint folder for one adapter.
pub(crate) fn plan_for(
    path: &Path,
    adapter: &Adapter,
    rules: &RuleOptions,
    console: &mut Console<'_>,
) -> Result<PlanFile, CliError> {
    let path = &*hub::resolve(path, console)?;
    if path.is_dir() { compiled(path, adapter, rules, console) } else { made_plan(path, rules) }
}

/// The plan of a checkpoint folder for one adapter, from the cache if it is there.
fn compiled(
    folder: &Path,
    adapter: &Adapter,
    rules: &RuleOptions,
    console: &mut Console<'_>,
) -> Result<PlanFile, CliError> {
    let target = tuned::target(adapter)?;
    let weights = WeightChoice::Keep;
    let mut without = rules.without.clone();
    without.sort();
    without.dedup();
    let rounded = rules.quantize.map_or_else(|| weights.name().to_owned(), |scheme| scheme.to_string());
    let cache = rules.cache.unwrap_or_default();
    let activations = rules.activations();
    let without_rules = without.join(" ");
    let key = format!("{target:?} {rounded} activations {activations:?} cache {cache} without {without_rules}");
    let slot = Slot::of(folder, &key)?;
    if let Some(slot) = &slot
        && let Some(plan) = cached(&slot.path(), console)
    {
        return Ok(plan);
    }
    let quantize = rules.quantization()?;
    let targets = vec![target];
    let options =
        CompileOptions { targets, weights, without, quantize, activations, cache, ..CompileOptions::default() };
    if !console.json {
        console.note(&format!("compiling {} for {}", folder.display(), target.name));
    }
    let made = make(folder, &options, &mut |_| ())?;
    let Some(slot) = slot else { return made.in_memory(console) };
    let path = slot.path();
    let stored = slot.prepare().map_err(CliError::io(format!("write {}", path.display())));
    match stored.and_then(|()| made.write(&path, console)) {
        Ok(()) => {
            slot.remove_others();
            Ok(PlanFile::open(&path)?)
        }
        Err(CliError::Io { .. } | CliError::Plan(warpweft_plan::PlanError::Io { .. })) => {
            console.note(&format!("note: the plan cannot be kept in {}", path.display()));
            made.in_memory(console)
        }
        Err(other) => Err(other),
    }
}

/// The plan in a file of the cache; `None` if there is none or it is damaged.
fn cached(path: &Path, console: &mut Console<'_>) -> Option<PlanFile> {
    if !path.exists() {
        return None;
    }
    match PlanFile::open(path) {
        Ok(plan) => Some(plan),
        Err(error) => {
            console.note(&format!("note: the plan in the cache is made again: {error}"));
            None
        }
    }
}
