//! `compile-model pull`

use clap::Args;
use serde_json::json;

use crate::CliError;
use crate::console::Console;
use crate::hub::{MAIN, ModelName, pull};
use crate::units;

/// Download a model from the Hugging Face Hub into its usual cache.
///
/// Only what a compile needs is taken: config.json, tokenizer, chat template, *.safetensors, sentence-transformers' files.
/// A download that was interrupted goes on where it stopped. The other commands take OWNER/NAME too, and download what is
/// not in the cache. HF_HOME says where the cache is, HF_TOKEN or `hf auth login` who you are, HF_ENDPOINT another Hub.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model pull Qwen/Qwen3-0.6B
  compile-model pull sentence-transformers/all-MiniLM-L6-v2 --revision c9745ed
  compile-model build $(compile-model pull Qwen/Qwen3-0.6B) -o qwen3.weft
  compile-model chat Qwen/Qwen3-0.6B")]
pub(crate) struct Pull {
    /// The model's name on the Hub.
    #[arg(value_name = "OWNER/NAME", value_parser = ModelName::parse)]
    name: ModelName,

    /// A branch, a tag or a commit.
    #[arg(long, value_name = "REVISION", default_value = MAIN)]
    revision: String,
}

pub(crate) fn run(args: &Pull, console: &mut Console<'_>) -> Result<(), CliError> {
    let pulled = pull(&args.name, &args.revision, console)?;
    if console.json {
        return console.print_json(&json!({
            "model": args.name.as_str(),
            "revision": args.revision,
            "commit": pulled.commit,
            "folder": pulled.folder,
            "files": pulled.files,
            "downloaded": pulled.downloaded,
            "bytes": pulled.bytes,
        }));
    }
    let (files, bytes) = (pulled.files, units::bytes(pulled.bytes));
    console.note(&format!(
        "{}: {files} files of {bytes}, {} of them downloaded",
        args.name.as_str(),
        pulled.downloaded
    ));
    console.print(&pulled.folder.display().to_string())
}
