//! `compile-model tune`

mod choices;
mod fit;
mod probe;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use warpweft_compiler::target::{Rates, Target};
use warpweft_plan::{PlanFile, PlanWriter};
use warpweft_runtime::{Adapter, Device, block_on, choose};

use crate::CliError;
use crate::args::RunOptions;
use crate::compile::adapter_target;
use crate::console::Console;
use crate::files::check_writable;
use crate::interrupt::{self, Section};
use crate::load::open_plan;
use crate::progress::Unit;
use crate::report::{Table, clip};
use crate::{tuned, units};
use choices::{Contest, Found};
use fit::{Quality, Sample, fit, quality};

/// Measure how fast an adapter is, and which kernels are fastest on it.
///
/// Measures dispatch, launch of workgroups, bandwidth, and alternatives of known contractions for each type of weights, an
/// attention and a norm, and keeps the rates that explain the times best in the user's configuration directory
/// (`$XDG_CONFIG_HOME/warpweft/rates` or `~/.config/warpweft/rates`), by adapter and driver. Models that are compiled for
/// this adapter use them from then on, and so does `build --tuned`. `--seconds` is how long that may take.
///
/// With a plan, its kernels are run against their close alternatives (tiles, split factors, rows of a lane) at the plan's
/// own sizes, for a two-hundredth of `--seconds` each. What wins is added to the plan for the adapter's family, driver and
/// vendor, and is run there at once, wherever the plan goes; other adapters run what the compiler chose.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model tune
  compile-model tune --adapter nvidia --seconds 20
  compile-model tune minilm.weft
  compile-model tune minilm.weft -o minilm-tuned.weft --json | jq .kernels")]
pub(crate) struct Tune {
    /// A plan whose kernels are compared with their alternatives.
    #[arg(value_name = "PLAN")]
    plan: Option<PathBuf>,

    /// Where the plan goes with what was found; in place of the old one if not given.
    #[arg(short, long, value_name = "FILE", requires = "plan")]
    output: Option<PathBuf>,

    /// Seconds that measuring the rates may take, about; each alternative of a plan's kernel is measured for a two-hundredth.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    #[command(flatten)]
    run: RunOptions,
}

#[derive(Serialize)]
struct Report<'r> {
    adapter: &'r str,
    driver: &'r str,
    family: &'r str,
    target: &'r str,
    /// Where the rates are; `None` if they were there already.
    stored: Option<PathBuf>,
    rates: Rates,
    /// Of the target's file, and of the measured rates, on the samples.
    before: Quality,
    after: Quality,
    samples: Vec<Shown>,
    /// Kernels of the plan that were compared.
    kernels: Vec<Contest>,
    left_out: usize,
    plan: Option<PathBuf>,
}

/// A sample with its predictions.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    sample: Sample,
    predicted_seconds: f64,
}

pub(crate) fn run(args: &Tune, console: &mut Console<'_>) -> Result<(), CliError> {
    let output = args.output.as_ref().or(args.plan.as_ref());
    // A plan that cannot be read or replaced is refused before anything is measured.
    let file = args.plan.as_deref().map(open_plan).transpose()?;
    output.map_or(Ok(()), |path| check_writable(path))?;
    let adapter = block_on(choose(&args.run.choice()))?;
    let target = adapter_target(&adapter)?;
    let device = block_on(Device::open(&adapter))?;
    // Ctrl-C is noticed between two measurements, and nothing is kept then.
    let _section = Section::enter();
    let known = tuned::rates(&adapter).filter(|_| file.is_some());
    let (rates, mut samples, stored) = match known {
        Some(rates) => (rates, Vec::new(), None),
        None => {
            let (rates, samples) = measure_rates(&device, target, args.seconds, console)?;
            let stored = tuned::store(&adapter, &target.name, &rates)?;
            (rates, samples, Some(stored))
        }
    };
    let mut found = Found { contests: Vec::new(), samples: Vec::new(), left_out: 0 };
    if let (Some(file), Some(output)) = (file, output) {
        let mut plan = file.plan().clone();
        found = {
            let mut bar = console.bar("kernels");
            let each = Duration::from_secs(args.seconds) / 200;
            choices::tune(&device, target, &rates, &mut plan, each, &mut bar)?
        };
        write(file, &plan, output, console)?;
    }
    samples.append(&mut found.samples);
    let (before, after) = (quality(&target.rates, &samples), quality(&rates, &samples));
    let shown = samples.into_iter().map(|sample| Shown { predicted_seconds: sample.predicted(&rates), sample });
    let report = Report {
        adapter: &adapter.name,
        driver: &adapter.driver,
        family: &adapter.family,
        target: &target.name,
        stored,
        before,
        after,
        samples: shown.collect(),
        kernels: found.contests,
        left_out: found.left_out,
        plan: output.cloned(),
        rates,
    };
    if console.json { console.print_json(&report) } else { console.print(&text(&report, &target.rates, &adapter)) }
}

fn measure_rates(
    device: &Device,
    target: &Target,
    seconds: u64,
    console: &mut Console<'_>,
) -> Result<(Rates, Vec<Sample>), CliError> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut bar = console.bar("rates");
    bar.set(0, 1, Unit::Items);
    let mut basics = probe::basics(device, target)?;
    interrupt::check()?;
    let samples = probe::samples(device, target, deadline, &mut bar)?;
    // A kernel that moved its bytes faster than they are copied tells of a faster memory, or of a cache before it.
    let fastest = samples.iter().map(|s| s.dispatch.bytes as f64 / s.seconds.max(1e-9)).fold(0.0, f64::max);
    basics.bandwidth = basics.bandwidth.max(fastest);
    Ok((fit(&basics, &samples), samples))
}

/// The same file with another plan.
fn write(file: PlanFile, plan: &warpweft_plan::Plan, path: &Path, console: &mut Console<'_>) -> Result<(), CliError> {
    let mut bar = console.bar("writing");
    let mut writer = PlanWriter::create(path, plan, file.assets())?;
    let total: u64 = plan.tensors.iter().filter_map(|t| t.bytes()).sum();
    let (mut done, mut piece) = (0, vec![0; 4 << 20]);
    for (index, tensor) in plan.tensors.iter().enumerate() {
        writer.tensor(index)?;
        let (mut at, bytes) = (0, tensor.bytes().unwrap_or(0));
        while at < bytes {
            interrupt::check()?;
            let size = piece.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
            file.read_tensor(index, at, &mut piece[..size])?;
            writer.write(&piece[..size])?;
            at += size as u64;
            done += size as u64;
            bar.set(done, total, Unit::Bytes);
        }
    }
    // Some systems don't replace a file that is open.
    drop(file);
    Ok(writer.finish()?)
}

fn text(report: &Report<'_>, file: &Rates, adapter: &Adapter) -> String {
    let mut text = format!("{} ({}), {}\n\n", adapter.name, adapter.driver, report.target);
    let mut table = Table::new(&["rate", ">target's file", ">measured", ""]);
    let rates = &report.rates;
    let giga = |n: f64| units::significant(n / 1e9);
    for (name, before, after, what) in [
        ("bandwidth", giga(file.bandwidth), giga(rates.bandwidth), "GB/s"),
        ("arithmetic", giga(file.fmas), giga(rates.fmas), "G multiply-adds/s"),
        ("dispatch", units::seconds(file.dispatch), units::seconds(rates.dispatch), ""),
        ("launch", units::seconds(file.launch), units::seconds(rates.launch), "of a workgroup"),
        ("load", units::significant(file.load), units::significant(rates.load), "in multiply-adds"),
        ("scattered load", units::significant(file.scattered_load), units::significant(rates.scattered_load), ""),
        ("texel", units::significant(file.texel), units::significant(rates.texel), "of an image"),
        ("workgroup load", units::significant(file.workgroup_load), units::significant(rates.workgroup_load), ""),
        ("broadcast", units::significant(file.broadcast), units::significant(rates.broadcast), ""),
    ] {
        table.row([name.into(), before, after, what.into()]);
    }
    text += &table.text();
    if !report.samples.is_empty() {
        text += &format!("\n\n{} kernels measured; predictions\n\n", report.samples.len());
        let mut table =
            Table::new(&["by", ">median error", ">order of pairs that differ by 20 %", ">choice within 20 %"]);
        for (name, quality) in [("the target's file", report.before), ("the measured rates", report.after)] {
            table.row([
                name.into(),
                format!("{:.0} %", quality.median_error * 100.0),
                format!("{} of {}", quality.agreeing, quality.pairs),
                format!("{} of {}", quality.well_chosen, quality.operations),
            ]);
        }
        text += &table.text();
    }
    if let Some(path) = &report.stored {
        text += &format!("\n\nkept in {}", path.display());
    }
    if let Some(path) = &report.plan {
        let mut table = Table::new(&["kernel", ">rows", ">time", "replaced by", ">time"]);
        for contest in &report.kernels {
            let (winner, time) = match &contest.winner {
                Some((kernel, seconds)) => (clip(kernel, 60), units::seconds(*seconds)),
                None => (format!("– (the best of {})", contest.alternatives), String::new()),
            };
            table.row([
                clip(&contest.kernel, 60),
                contest.rows.to_string(),
                units::seconds(contest.seconds),
                winner,
                time,
            ]);
        }
        let winners = report.kernels.iter().filter(|contest| contest.winner.is_some()).count();
        text += &format!(
            "\n\n{}\n\nwrote {}: {winners} of {} kernels have a faster one for {:?}; {} have no alternatives",
            table.text(),
            path.display(),
            report.kernels.len(),
            report.family,
            report.left_out
        );
    }
    text
}
