//! `compile-model doctor`

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use warpweft_plan::Plan;
use warpweft_runtime::{Device, block_on, choose};

use crate::CliError;
use crate::args::RunOptions;
use crate::compile::adapter_target;
use crate::console::Console;
use crate::doctor::{Check, builtin_plans, check_plan};
use crate::interrupt;
use crate::load::plan_for;
use crate::progress::Unit;
use crate::report::{Table, clip};

/// Check an adapter: every kernel against the reference.
///
/// Each kernel runs by itself on random numbers, on ragged batches of sequences, and its result is compared with what the
/// reference evaluator computes on the CPU. Without MODEL, the kernels are those of small built-in models for the
/// adapter's tier. Exits with 1 if a kernel differs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model doctor
  compile-model doctor minilm.weft --adapter 1")]
pub(crate) struct Doctor {
    /// A plan, a checkpoint folder, or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,

    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(args: &Doctor, console: &mut Console<'_>) -> Result<(), CliError> {
    let adapter = block_on(choose(&args.run.choice()))?;
    let plans = match &args.model {
        Some(path) => vec![plan_for(path, &adapter, &args.run.rules, console)?.plan().clone()],
        None => builtin_plans(adapter_target(&adapter)?)?,
    };
    let device = block_on(Device::open(&adapter))?;
    let checks = check_all(&device, &plans, console)?;
    if checks.is_empty() {
        return Err(CliError::Failed(format!("no kernel of the plan runs on {}", adapter.name)));
    }
    let wrong = checks.iter().filter(|check| check.problem.is_some()).count();
    if console.json {
        console.print_json(&json!({
            "adapter": adapter.name,
            "driver": adapter.driver,
            "kernels": checks.iter().map(document).collect::<Vec<_>>(),
            "wrong": wrong,
        }))?;
    } else {
        console.print(&table(&checks))?;
        console.print(&format!("\n{} of {} kernels agree on {}", checks.len() - wrong, checks.len(), adapter.name))?;
    }
    if wrong == 0 {
        return Ok(());
    }
    Err(CliError::Failed(format!("{wrong} of {} kernels differ from the reference on {}", checks.len(), adapter.name)))
}

fn check_all(device: &Device, plans: &[Plan], console: &mut Console<'_>) -> Result<Vec<Check>, CliError> {
    let mut bar = console.bar("kernels");
    let mut checks: Vec<Check> = Vec::new();
    let mut seen = HashSet::new();
    for plan in plans {
        interrupt::check()?;
        // What several models share is checked once.
        let known: HashSet<&str> = plan.kernels.iter().map(|k| k.wgsl.as_str()).filter(|w| !seen.insert(*w)).collect();
        let mut plan = plan.clone();
        for program in &mut plan.programs {
            program.steps.retain(|step| !known.contains(plan.kernels[step.kernel].wgsl.as_str()));
        }
        let mut done = 0;
        checks.extend(check_plan(device, &plan, &mut |_, total| {
            done += 1;
            bar.set(done, total as u64, Unit::Items);
        })?);
    }
    Ok(checks)
}

fn document(check: &Check) -> serde_json::Value {
    json!({
        "kernel": check.kernel,
        "targets": check.targets,
        "error": check.error,
        "tolerance": check.tolerance,
        "agrees": check.problem.is_none(),
        "problem": check.problem,
    })
}

fn table(checks: &[Check]) -> String {
    let mut table = Table::new(&["kernel", "target", ">error", ">tolerance", "verdict"]);
    for check in checks {
        let verdict = check.problem.as_ref().map_or("agrees".to_owned(), |problem| clip(problem, 120));
        let error = if check.error.is_nan() { "–".to_owned() } else { format!("{:.1e}", check.error) };
        table.row([check.kernel.clone(), check.targets.join(","), error, format!("{:.1e}", check.tolerance), verdict]);
    }
    table.text()
}
