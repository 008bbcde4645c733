//! Whether a model fits on an adapter, and what would make it fit.

use std::path::{Path, PathBuf};

use serde::Serialize;
use warpweft_compiler::target::Target;
use warpweft_compiler::{Options, WeightChoice};
use warpweft_models::has_weights;
use warpweft_plan::{CacheFormat, OutputKind, PAGE_ROWS, Plan};
use warpweft_runtime::{Adapter, Need, best_target, need};

use super::Wish;
use crate::CliError;
use crate::args::RuleOptions;
use crate::compile::{adapter_target, make, make_of_config};
use crate::units;

/// One adapter's.
#[derive(Serialize)]
pub(super) struct Verdict {
    pub(super) index: usize,
    pub(super) name: String,
    /// `None` if no program runs there.
    pub(super) target: Option<String>,
    pub(super) total: u64,
    pub(super) memory: Option<u64>,
    pub(super) binding: u64,
    /// `None` if the adapter's memory is not known.
    pub(super) fits: Option<bool>,
    /// Why it does not fit.
    pub(super) problem: Option<String>,
}

/// The plan of a file, or those of a folder by target.
pub(super) enum Plans {
    File(Box<Plan>),
    Folder(PathBuf, WeightChoice, RuleOptions),
}

impl Plans {
    /// The plan for a target, without its weights.
    pub(super) fn get(&self, target: &'static Target) -> Result<Plan, CliError> {
        match self {
            Plans::File(plan) => Ok(Plan::clone(plan)),
            Plans::Folder(folder, weights, rules) => compiled(folder, *weights, rules, target),
        }
    }

    /// The same plans with weights of another format, if that can be had.
    fn with(&self, weights: WeightChoice) -> Option<Plans> {
        match self {
            Plans::File(_) => None,
            Plans::Folder(folder, _, rules) => Some(Plans::Folder(folder.clone(), weights, rules.clone())),
        }
    }

    /// The same plans with caches of another format, if that can be had.
    fn caching(&self, cache: CacheFormat) -> Option<Plans> {
        match self {
            Plans::File(_) => None,
            Plans::Folder(folder, weights, rules) => {
                let rules = RuleOptions { cache: Some(cache), ..rules.clone() };
                Some(Plans::Folder(folder.clone(), *weights, rules))
            }
        }
    }
}

fn compiled(
    folder: &Path,
    weights: WeightChoice,
    rules: &RuleOptions,
    target: &'static Target,
) -> Result<Plan, CliError> {
    let (cache, without) = (rules.cache.unwrap_or_default(), rules.without.clone());
    let quantize = rules.quantization()?;
    let options = Options { targets: vec![target], weights, quantize, cache, without, ..Options::default() };
    let made =
        if has_weights(folder)? { make(folder, &options, &mut |_| ()) } else { make_of_config(folder, &options) };
    Ok(made?.compiled.plan)
}

pub(super) fn judge(
    plans: &Plans,
    output: OutputKind,
    wish: Wish,
    adapter: &Adapter,
    memory: Option<u64>,
) -> Result<(Verdict, Option<Need>), CliError> {
    let memory = memory.or(adapter.available_memory());
    let binding = adapter.largest_binding();
    let (index, name) = (adapter.index, adapter.name.clone());
    let none = |problem: String| Verdict {
        index,
        name: name.clone(),
        target: None,
        total: 0,
        memory,
        binding,
        fits: Some(false),
        problem: Some(problem),
    };
    let target = match adapter_target(adapter) {
        Ok(target) => target,
        Err(error) => return Ok((none(error.to_string()), None)),
    };
    let plan = plans.get(target)?;
    let target = match best_target(&plan, output, adapter, None) {
        Ok(target) => target,
        Err(error) => return Ok((none(error.to_string()), None)),
    };
    let need = need(&plan, output, target, wish.rows());
    let total = need.account.total();
    let problem = problem(&need, memory, binding);
    let fits = match (&problem, memory) {
        (Some(_), _) => Some(false),
        (None, Some(_)) => Some(true),
        (None, None) => None,
    };
    Ok((Verdict { target: Some(target.to_owned()), total, fits, problem, ..none(String::new()) }, Some(need)))
}

/// What is in the way.
fn problem(need: &Need, memory: Option<u64>, binding: u64) -> Option<String> {
    let total = need.account.total();
    if need.largest_buffer > binding {
        let (found, most) = (units::bytes(need.largest_buffer), units::bytes(binding));
        return Some(format!("a buffer of {found} is needed, a kernel sees at most {most}"));
    }
    let memory = memory.filter(|memory| total > *memory)?;
    Some(format!("{} more are needed than the {} that there are", units::bytes(total - memory), units::bytes(memory)))
}

/// What would make a model fit on an adapter.
pub(super) fn advice(
    plans: &Plans,
    output: OutputKind,
    wish: Wish,
    found: &Need,
    adapter: &Adapter,
    memory: Option<u64>,
) -> Result<Vec<String>, CliError> {
    let limit = memory.or(adapter.available_memory());
    let mut advice = Vec::new();
    let plan = plans.get(adapter_target(adapter)?)?;
    let target = best_target(&plan, output, adapter, None)?;
    let fits = |rows: u64| problem(&need(&plan, output, target, rows), limit, adapter.largest_binding()).is_none();
    if found.cache_row > 0 {
        let pages = wish.context.div_ceil(PAGE_ROWS);
        let pages = greatest(pages, |pages| fits(pages * PAGE_ROWS * wish.sessions));
        if pages > 0 {
            let sessions = if wish.sessions == 1 { String::new() } else { format!(" with {} sessions", wish.sessions) };
            advice.push(format!("--context {}{sessions} fits", pages * PAGE_ROWS));
        }
        let sessions = greatest(wish.sessions, |n| fits(Wish { sessions: n, ..wish }.rows()));
        if sessions > 0 {
            advice.push(format!("--sessions {sessions} with a context of {} fits", wish.context));
        }
    }
    for weights in WeightChoice::ALL {
        let Some(plans) = plans.with(weights) else { break };
        let plan = plans.get(adapter_target(adapter)?)?;
        let other = need(&plan, output, best_target(&plan, output, adapter, None)?, wish.rows());
        let smaller = other.account.weights < found.account.weights;
        if smaller && problem(&other, limit, adapter.largest_binding()).is_none() {
            advice.push(format!("--weights {} fits", weights.name()));
        }
    }
    // Of those that are smaller, the most exact one that fits.
    for cache in CacheFormat::ALL.into_iter().filter(|_| found.cache_row > 0) {
        let Some(plans) = plans.caching(cache) else { break };
        let plan = plans.get(adapter_target(adapter)?)?;
        let other = need(&plan, output, best_target(&plan, output, adapter, None)?, wish.rows());
        let smaller = other.account.cache < found.account.cache;
        if smaller && problem(&other, limit, adapter.largest_binding()).is_none() {
            advice.push(format!("--cache {cache} fits"));
            break;
        }
    }
    if advice.is_empty() {
        let total = found.account.total();
        advice.push(format!(
            "an adapter with {} of memory, and buffers of {}",
            units::bytes(total),
            units::bytes(found.largest_buffer)
        ));
    }
    Ok(advice)
}

/// The greatest number up to `most` for which a condition holds that only ever stops holding; 0 if there is none.
fn greatest(most: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut good, mut bad) = (0, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if holds(middle) { good = middle } else { bad = middle }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::greatest;

    #[test]
    fn the_greatest_is_found() {
        for limit in [0, 1, 63, 100] {
            assert_eq!(greatest(100, |n| n <= limit), limit);
        }
    }
}
