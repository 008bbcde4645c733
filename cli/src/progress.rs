//! Progress: bars on terminals, a line per piece of work elsewhere.

use std::io::Write;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use warpweft_runtime::Progress;

use crate::units;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Items,
}

/// One piece of work.
pub(crate) struct Bar<'c> {
    label: &'static str,
    err: &'c mut (dyn Write + Send),
    interactive: bool,
    drawn: Option<ProgressBar>,
    start: Instant,
}

impl<'c> Bar<'c> {
    pub(crate) fn new(label: &'static str, err: &'c mut (dyn Write + Send), interactive: bool) -> Bar<'c> {
        Bar { label, err, interactive, drawn: None, start: Instant::now() }
    }

    /// Shows how much is done.
    pub(crate) fn set(&mut self, done: u64, total: u64, unit: Unit) {
        if !self.interactive {
            return;
        }
        let bar = self.drawn.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(12));
            let numbers = match unit {
                Unit::Bytes => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
                Unit::Items => "{pos}/{len}",
            };
            let template = format!("{{msg:8}} {{bar:32}} {numbers}");
            // A template that indicatif refuses would show the default style.
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style.progress_chars("━╸ "));
            }
            bar.set_message(self.label);
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Ends it with a line.
    pub(crate) fn finish(mut self, what: &str) {
        self.clear();
        let time = units::seconds(self.start.elapsed().as_secs_f64());
        // Where nobody listens, the work goes on all the same.
        let _ = writeln!(self.err, "{} {what} ({time})", self.label);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.drawn.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Shows how a model is opened.
pub(crate) fn opening<'c>(
    (err, interactive): (&'c mut (dyn Write + Send), bool),
    quiet: bool,
) -> impl FnMut(Progress<'_>) + Send + 'c {
    let mut start = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    move |progress| {
        let (label, done, total, unit) = match progress {
            Progress::Device { adapter, notice } if !quiet => {
                let _ = match notice {
                    Some(notice) => writeln!(err, "note: {notice}"),
                    None => writeln!(err, "adapter {adapter}"),
                };
                return;
            }
            Progress::Kernels { done, total } => ("kernels", done as u64, total as u64, Unit::Items),
            Progress::Weights { done, total } => ("weights", done, total, Unit::Bytes),
            _ => return,
        };
        if interactive && total > 0 {
            let mut shown = Bar { label, err: &mut *err, interactive, drawn: bar.take(), start };
            shown.set(done, total, unit);
            bar = shown.drawn.take();
        }
        if done == total {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            if total > 0 && !quiet {
                let what = match unit {
                    Unit::Bytes => units::bytes(total),
                    Unit::Items => total.to_string(),
                };
                let _ = writeln!(err, "{label} {what} ({})", units::seconds(start.elapsed().as_secs_f64()));
            }
            start = Instant::now();
        }
    }
}
