//! Progress: bars on terminals, a line now and then elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use warpweft_runtime::Progress;

use crate::units;

/// How often a line is written where no bar can be drawn.
const PAUSE: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Items,
}

impl Unit {
    fn show(self, n: u64) -> String {
        match self {
            Unit::Bytes => units::bytes(n),
            Unit::Items => n.to_string(),
        }
    }
}

/// One piece of work. The bar goes when this does.
pub(crate) struct Bar<'c> {
    label: &'static str,
    err: &'c mut (dyn Write + Send),
    interactive: bool,
    drawn: Option<ProgressBar>,
    told: Instant,
}

impl<'c> Bar<'c> {
    pub(crate) fn new(label: &'static str, err: &'c mut (dyn Write + Send), interactive: bool) -> Bar<'c> {
        Bar { label, err, interactive, drawn: None, told: Instant::now() }
    }

    /// Shows how much is done.
    pub(crate) fn set(&mut self, done: u64, total: u64, unit: Unit) {
        if self.interactive {
            draw(&mut self.drawn, self.label, done, total, unit);
        } else if self.told.elapsed() > PAUSE {
            self.told = Instant::now();
            // Where nobody listens, the work goes on all the same.
            let _ = writeln!(self.err, "{} {} of {}", self.label, unit.show(done), unit.show(total));
        }
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        clear(&mut self.drawn);
    }
}

fn draw(bar: &mut Option<ProgressBar>, label: &'static str, done: u64, total: u64, unit: Unit) {
    let bar = bar.get_or_insert_with(|| {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(12));
        let numbers = match unit {
            Unit::Bytes => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
            Unit::Items => "{pos}/{len}",
        };
        // A template that indicatif refuses would show the default style.
        if let Ok(style) = ProgressStyle::with_template(&format!("{{msg:8}} {{bar:32}} {numbers}")) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(label);
        bar
    });
    bar.set_length(total);
    bar.set_position(done);
}

fn clear(bar: &mut Option<ProgressBar>) {
    if let Some(bar) = bar.take() {
        bar.finish_and_clear();
    }
}

/// Shows how a model is opened; only what takes long if `quiet`.
pub(crate) fn opening<'c>(
    (err, interactive): (&'c mut (dyn Write + Send), bool),
    quiet: bool,
) -> impl FnMut(Progress<'_>) + Send + 'c {
    let mut start = Instant::now();
    let mut bar = None;
    move |progress| {
        let (label, done, total, unit) = match progress {
            Progress::Device { adapter, notice } => {
                // Where nobody listens, the work goes on all the same.
                let _ = match notice {
                    Some(notice) => writeln!(err, "note: {notice}"),
                    None if quiet => Ok(()),
                    None => writeln!(err, "adapter {adapter}"),
                };
                return;
            }
            Progress::Kernels { done, total } => ("kernels", done as u64, total as u64, Unit::Items),
            Progress::Weights { done, total } => ("weights", done, total, Unit::Bytes),
            _ => return,
        };
        if interactive {
            draw(&mut bar, label, done, total, unit);
        }
        if done == total {
            clear(&mut bar);
            if total > 0 && !quiet {
                let time = units::seconds(start.elapsed().as_secs_f64());
                let _ = writeln!(err, "{label} {} ({time})", unit.show(total));
            }
            start = Instant::now();
        }
    }
}
