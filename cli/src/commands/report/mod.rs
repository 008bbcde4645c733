//! `compile-model report`

mod cover;
mod html;
mod labels;
mod measure;
mod page;
mod view;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use warpweft_runtime::{block_on, choose};

use crate::args::RunOptions;
use crate::console::Console;
use crate::load::open_plan;
use crate::{CliError, files, units};
use page::Page;

/// Draw a plan: one page that opens in any browser.
///
/// The page shows a layer as the model's formula and, beside it, as the kernels that run, in the same colors; for each kernel
/// its shader, its bindings and the proof that it computes what the formula says; the programs as timelines, with each
/// kernel's share of what the device could do at best; the memory that is alive at each step; and how the search grew. Rows,
/// tier and output are chosen on the page, by mouse or keyboard (j and k go from step to step); the address keeps the choice.
///
/// It is one file without references to anything outside, so it can be sent, archived, printed, and opened without a
/// network. Times are the cost model's predictions; with --measure, those of the programs that the adapter here runs are
/// measured, too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model report minilm.weft -o minilm.html
  compile-model report llama.weft -o llama.html --measure
  compile-model report llama.weft -o llama.html --measure --adapter nvidia
  xdg-open 'llama.html#rows=1&target=subgroup32&output=candidates'")]
pub(crate) struct Report {
    /// The plan.
    #[arg(value_name = "PLAN")]
    plan: PathBuf,

    /// The page's file. It appears when it is complete; a plan in its place is never overwritten.
    #[arg(short, long, value_name = "HTML")]
    output: PathBuf,

    /// Run the plan on the adapter and show measured times beside the predicted ones.
    #[arg(long)]
    measure: bool,

    #[command(flatten)]
    run: RunOptions,
}

#[derive(Serialize)]
struct Written {
    file: String,
    bytes: usize,
    measured: bool,
}

pub(crate) fn run(args: &Report, console: &mut Console<'_>) -> Result<(), CliError> {
    if !args.measure && (args.run.adapter.is_some() || args.run.memory.is_some()) {
        return Err(CliError::Usage("--adapter and --memory are for --measure".into()));
    }
    let file = open_plan(&args.plan)?;
    let path = &args.output;
    // A plan takes long to make and looks like any other file to a shell's completion.
    if path.exists() && warpweft_plan::PlanFile::open(path).is_ok() {
        return Err(CliError::Usage(format!("{} is a plan; give another name to the page", path.display())));
    }
    files::check_writable(path)?;
    let measured = match args.measure {
        true => {
            let adapter = block_on(choose(&args.run.choice()))?;
            Some(measure::measure(&adapter, &args.plan, &args.run, console)?)
        }
        false => None,
    };
    let page = Page::of(&file, measured.as_ref())?;
    let html = html::html(&file.plan().model.name, &page)?;
    files::write(path, html.as_bytes())?;
    let written = Written { file: path.display().to_string(), bytes: html.len(), measured: args.measure };
    if console.json {
        return console.print_json(&written);
    }
    console.print(&format!("wrote {}: {}, opens in any browser", written.file, units::bytes(html.len() as u64)))
}
