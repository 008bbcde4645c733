//! `compile-model embed`

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use warpweft_plan::OutputKind;
use warpweft_runtime::{Engine, Matrix, block_on};

use crate::CliError;
use crate::args::RunOptions;
use crate::console::Console;
use crate::document::Document;
use crate::files::check_writable;
use crate::load::open_model;
use crate::plot;
use crate::tensors;
use crate::texts::{Batch, Inputs};

/// Turn texts into vectors.
///
/// MODEL is a plan, or a checkpoint folder: that is compiled for the adapter, and the plan is kept in the user's cache
/// directory (`$XDG_CACHE_HOME/warpweft/plans` or `~/.cache/warpweft/plans`) under a name that depends on the content of
/// the folder's JSON and safetensors files and on this program, so that the next run starts at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model embed minilm.weft --text \"A cat sat on the mat.\" --text \"A kitten lay on the rug.\"
  compile-model embed minilm.weft --input lines.txt --output vectors.safetensors
  compile-model embed minilm.weft --text \"hello\" --json | jq '.embeddings[0][:4]'
  echo hello | compile-model embed all-MiniLM-L6-v2 --input -")]
pub(crate) struct Embed {
    /// A plan, a checkpoint folder, or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    #[command(flatten)]
    inputs: Inputs,

    /// Write a safetensors file: `embeddings`, f32 [texts, width], or with --hidden `last_hidden_state`, f32 [tokens, width].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The last hidden state, a row per token of all texts, instead of one vector per text.
    #[arg(long)]
    hidden: bool,

    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(args: &Embed, console: &mut Console<'_>) -> Result<(), CliError> {
    let batch = args.inputs.read()?;
    args.output.as_deref().map_or(Ok(()), check_writable)?;
    let kind = if args.hidden { OutputKind::Hidden } else { OutputKind::Embedding };
    let mut engine = open_model(&args.model, &args.run, kind, console)?;
    let results = run_batch(&mut engine, &batch, kind)?;
    let name = if args.hidden { "last_hidden_state" } else { "embeddings" };
    if let Some(path) = &args.output {
        tensors::write(path, name, &results.values, remarks(&engine, &results.tokens))?;
        if !console.json {
            let Matrix { rows, width, .. } = results.values;
            console.note(&format!("wrote {}: {name} [{rows}, {width}]", path.display()));
        }
    }
    if console.json {
        return console.print_json(&results.document(name));
    }
    if args.output.is_none() {
        let labels = plot::labels(&batch);
        let text = match args.hidden {
            true => plot::rows(&labels, &results.tokens, &results.values),
            false => plot::vectors(&labels, &results.tokens, &results.values),
        };
        console.print(&text)?;
    }
    Ok(())
}

/// Numbers, and how many tokens each sequence had.
pub(super) struct Results {
    pub(super) values: Matrix,
    pub(super) tokens: Vec<usize>,
}

impl Results {
    /// The rows as JSON.
    pub(super) fn document<'d>(&'d self, name: &'d str) -> Document<'d> {
        Document { name, rows: &self.values, tokens: &self.tokens }
    }
}

/// Runs texts or ids.
pub(super) fn run_batch(engine: &mut Engine, batch: &Batch, kind: OutputKind) -> Result<Results, CliError> {
    let tokenized;
    let ids = match batch {
        Batch::Ids(ids) => ids,
        Batch::Texts(texts) => {
            tokenized = engine.tokenize(texts)?;
            &tokenized
        }
    };
    let values = block_on(engine.run(kind, ids))?;
    Ok(Results { values, tokens: ids.iter().map(Vec::len).collect() })
}

/// What a file of results says besides its numbers.
pub(super) fn remarks(engine: &Engine, tokens: &[usize]) -> HashMap<String, String> {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    [pair("model", engine.plan().model.name.clone()), pair("tokens", json!(tokens).to_string())].into()
}
