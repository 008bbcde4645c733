//! A model to run, from a plan or from a checkpoint folder.

use std::path::Path;

use warpweft_compiler::{Options as CompileOptions, WeightChoice};
use warpweft_plan::{OutputKind, PlanFile};
use warpweft_runtime::{Adapter, Engine, Options, block_on, choose};

use crate::CliError;
use crate::args::RunOptions;
use crate::cache::Slot;
use crate::compile::{adapter_target, make};
use crate::console::Console;
use crate::progress::opening;

/// Opens a plan file, or compiles a checkpoint folder, and takes it to the adapter.
pub(crate) fn open_model(
    path: &Path,
    run: &RunOptions,
    output: OutputKind,
    console: &mut Console<'_>,
) -> Result<Engine, CliError> {
    open_with(path, run, &Options { output: Some(output), memory: run.memory, ..Options::default() }, console)
}

/// The same with options of the runtime's.
pub(crate) fn open_with(
    path: &Path,
    run: &RunOptions,
    options: &Options,
    console: &mut Console<'_>,
) -> Result<Engine, CliError> {
    // A plan that cannot be read is refused before adapters are looked for.
    let plan = if path.is_dir() { None } else { Some(open_plan(path)?) };
    let adapter = block_on(choose(&run.choice()))?;
    let plan = match plan {
        Some(plan) => plan,
        None => compiled(path, &adapter, console)?,
    };
    let quiet = console.json;
    let mut progress = opening(console.messages(), quiet);
    Ok(block_on(Engine::open_on(&adapter, plan, options, &mut progress))?)
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

/// The plan in a file, or that of a checkpoint folder for one adapter.
pub(crate) fn plan_for(path: &Path, adapter: &Adapter, console: &mut Console<'_>) -> Result<PlanFile, CliError> {
    if path.is_dir() { compiled(path, adapter, console) } else { open_plan(path) }
}

/// The plan of a checkpoint folder for one adapter, from the cache if it is there.
fn compiled(folder: &Path, adapter: &Adapter, console: &mut Console<'_>) -> Result<PlanFile, CliError> {
    let target = adapter_target(adapter)?;
    let weights = WeightChoice::Keep;
    let slot = Slot::of(folder, &format!("{} {}", target.name, weights.name()))?;
    if let Some(slot) = &slot
        && let Some(plan) = cached(&slot.path(), console)
    {
        return Ok(plan);
    }
    let options = CompileOptions { targets: vec![target], weights, dump: None };
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
