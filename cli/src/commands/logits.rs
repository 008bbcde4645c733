//! `compile-model logits`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use warpweft_plan::OutputKind;
use warpweft_runtime::Matrix;

use super::embed::{remarks, run_batch};
use crate::CliError;
use crate::args::RunOptions;
use crate::console::Console;
use crate::files::check_writable;
use crate::load::open_model;
use crate::plot;
use crate::tensors;
use crate::texts::Inputs;

/// Score the vocabulary at every token, with a language model or an encoder that has an MLM head.
///
/// A language model scores what comes after each token; long prompts go through it in pieces.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model logits llama.weft --ids 128000,9906,1917 --output logits.safetensors
  compile-model logits bert.weft --ids 101,7592,103,102 --json | jq '.logits | length'
  compile-model logits bert.weft --text \"Paris is the [MASK] of France.\"")]
pub(crate) struct Logits {
    /// A plan, a checkpoint folder, or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    #[command(flatten)]
    inputs: Inputs,

    /// Write a safetensors file with one tensor, `logits`, f32 [tokens, vocabulary].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(args: &Logits, console: &mut Console<'_>) -> Result<(), CliError> {
    let batch = args.inputs.read()?;
    args.output.as_deref().map_or(Ok(()), check_writable)?;
    let mut engine = open_model(&args.model, &args.run, OutputKind::Logits, console)?;
    let results = run_batch(&mut engine, &batch, OutputKind::Logits)?;
    if let Some(path) = &args.output {
        tensors::write(path, "logits", &results.values, remarks(&engine, &results.tokens))?;
        if !console.json {
            let Matrix { rows, width, .. } = results.values;
            console.note(&format!("wrote {}: logits [{rows}, {width}]", path.display()));
        }
    }
    match (console.json, args.output.is_some()) {
        // Scores of a vocabulary are many; a file holds them better than a line of JSON.
        (true, true) => console.print_json(&json!({ "output": args.output, "tokens": results.tokens })),
        (true, false) => console.print_json(&results.document("logits")),
        (false, true) => Ok(()),
        (false, false) => console.print(&plot::scores(&results.tokens, &results.values)),
    }
}
