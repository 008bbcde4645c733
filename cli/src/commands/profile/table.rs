//! Time by kernel.

use serde::Serialize;
use warpweft_compiler::target::Rates;
use warpweft_plan::Plan;
use warpweft_runtime::StepClock;

use super::runs::Run;
use super::{Report, clock_note};
use crate::report::{Table, clip};
use crate::units;
use crate::work::Flops;

/// A kernel's part of a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct KernelRow {
    pub(super) kernel: String,
    pub(super) calls: usize,
    pub(super) seconds: f64,
    pub(super) share: f64,
    pub(super) gflop_per_s: f64,
    pub(super) gb_per_s: f64,
    /// The least time by its bytes and floating-point operations, of its time.
    pub(super) roofline_share: Option<f64>,
    pub(super) predicted_seconds: Option<f64>,
    /// Measured to predicted.
    pub(super) ratio: Option<f64>,
}

/// Kernels by what they take, the greatest first.
pub(super) fn rows(plan: &Plan, runs: &[&Run], rates: Option<&Rates>) -> Vec<KernelRow> {
    #[derive(Clone, Default)]
    struct Sum {
        calls: usize,
        seconds: f64,
        flops: f64,
        bytes: f64,
        roof: f64,
        predicted: f64,
    }
    let flops_of = Flops::new(plan);
    let mut sums = vec![Sum::default(); plan.kernels.len()];
    for Run { submission, .. } in runs {
        let Some(program) = plan.programs.get(submission.program) else { continue };
        let sizes = submission.sizes();
        for (step, time) in program.steps.iter().zip(&submission.steps) {
            let sum = &mut sums[step.kernel];
            let (flops, bytes) = (flops_of.of_step(step, sizes), step.bytes.eval(sizes).unwrap_or(0) as f64);
            sum.calls += 1;
            sum.seconds += time.seconds;
            sum.flops += flops;
            sum.bytes += bytes;
            if let Some(rates) = rates {
                sum.roof += rates.roofline(bytes, flops);
                sum.predicted += rates.step(plan, step, sizes);
            }
        }
    }
    let total: f64 = sums.iter().map(|sum| sum.seconds).sum();
    let row = |(kernel, sum): (&warpweft_plan::Kernel, &Sum)| KernelRow {
        kernel: kernel.name.clone(),
        calls: sum.calls,
        seconds: sum.seconds,
        share: part(sum.seconds, total).unwrap_or(0.0),
        gflop_per_s: part(sum.flops / 1e9, sum.seconds).unwrap_or(0.0),
        gb_per_s: part(sum.bytes / 1e9, sum.seconds).unwrap_or(0.0),
        roofline_share: rates.and_then(|_| part(sum.roof, sum.seconds)),
        predicted_seconds: rates.map(|_| sum.predicted),
        ratio: rates.and_then(|_| part(sum.seconds, sum.predicted)),
    };
    let mut rows: Vec<KernelRow> = plan.kernels.iter().zip(&sums).filter(|(_, s)| s.calls > 0).map(row).collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

/// A quotient, where there is one.
fn part(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// How far predictions are off, in the middle: the greater of both times over the lesser, less 1.
pub(super) fn median_error(rows: &[KernelRow]) -> Option<f64> {
    let error = |ratio: f64| ratio.max(1.0 / ratio) - 1.0;
    let mut errors: Vec<f64> = rows.iter().filter_map(|row| row.ratio.filter(|r| *r > 0.0)).map(error).collect();
    errors.sort_by(f64::total_cmp);
    let at = |index: usize| errors.get(index).copied();
    Some((at(errors.len().checked_sub(1)? / 2)? + at(errors.len() / 2)?) / 2.0)
}

pub(super) fn text(report: &Report<'_>, clock: StepClock) -> String {
    let rates = if report.tuned { "rates measured on it" } else { "rates of the target's file" };
    let mut text = format!(
        "{} on {} ({}), {}; {}, {rates}\n",
        report.model,
        report.adapter,
        report.driver,
        report.target,
        clock_note(clock)
    );
    for phase in &report.phases {
        text += &format!(
            "\n{}: {} rows in {} submissions, {} of device time in {}",
            phase.phase,
            phase.rows,
            phase.submissions,
            units::seconds(phase.device_seconds),
            units::seconds(phase.seconds),
        );
        if let Some(predicted) = phase.predicted_seconds {
            text += &format!(", {} predicted", units::seconds(predicted));
        }
        text += "\n\n";
        let titles = [
            "kernel",
            ">calls",
            ">time",
            ">share",
            ">GFLOP/s",
            ">GB/s",
            ">roofline",
            ">predicted",
            ">measured/predicted",
        ];
        let mut table = Table::new(&titles);
        for row in &phase.kernels {
            let optional = |value: Option<f64>, show: fn(f64) -> String| value.map_or("–".to_owned(), show);
            table.row([
                clip(&row.kernel, 72),
                row.calls.to_string(),
                units::seconds(row.seconds),
                percent(row.share),
                units::significant(row.gflop_per_s),
                units::significant(row.gb_per_s),
                optional(row.roofline_share, percent),
                optional(row.predicted_seconds, units::seconds),
                optional(row.ratio, |ratio| format!("{ratio:.2}")),
            ]);
        }
        text += &table.text();
        if let Some(error) = phase.median_error {
            text += &format!("\n\npredictions are off by {} in the median of kernels", percent(error));
        }
        text += "\n";
    }
    text.trim_end().to_owned()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_error_is_symmetric() {
        let rows = |ratios: &[f64]| -> Vec<KernelRow> {
            ratios.iter().map(|&r| KernelRow { ratio: Some(r), ..KernelRow::default() }).collect()
        };
        assert_eq!(median_error(&[]), None);
        assert_eq!(median_error(&rows(&[0.5])), Some(1.0));
        assert_eq!(median_error(&rows(&[2.0, 1.0, 1.5])), Some(0.5));
        assert_eq!(median_error(&rows(&[1.0, 0.5])), Some(0.5));
    }
}
