//! The command line.

use std::fmt;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use warpweft_compiler::formats::UnknownFormat;
use warpweft_compiler::lossy::{Activations, Quantization, Scheme};
use warpweft_compiler::rules::{RewriteError, RuleSet};
use warpweft_plan::{CacheFormat, OutputKind};
use warpweft_runtime::{AdapterChoice, Options};

use crate::CliError;
use crate::commands::{
    bench, build, chat, devices, doctor, embed, eval, explain, fit, inspect, logits, profile, pull, report, run, tune,
};
use crate::units::parse_bytes;

/// Compile a transformer once, run it on any GPU.
///
/// Reads a Hugging Face checkpoint folder (config.json, *.safetensors, tokenizer.json), finds a fast program for it by
/// equality saturation, writes shaders, and runs them through Vulkan, Metal, DirectX 12 or WebGPU. No CUDA, no vendor
/// library.
#[derive(Debug, Parser)]
#[command(name = "compile-model", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = "\
Examples:
  compile-model build all-MiniLM-L6-v2 -o minilm.weft
  compile-model embed minilm.weft --text \"A cat sat on the mat.\"
  compile-model embed all-MiniLM-L6-v2 --input lines.txt --output vectors.safetensors
  compile-model inspect minilm.weft
  compile-model devices

Results go to stdout, everything else to stderr.
Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.")]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print one JSON document on stdout, for machines.
    #[arg(long, global = true, display_order = 100)]
    pub(crate) json: bool,

    /// Tell what is going on, on stderr; twice for more. `WARPWEFT_LOG` takes a filter, such as `warpweft_runtime=trace`.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 101)]
    pub(crate) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pull(pull::Pull),
    Build(build::Build),
    Run(run::Run),
    Chat(chat::Chat),
    Embed(embed::Embed),
    Logits(logits::Logits),
    Eval(eval::Eval),
    Inspect(inspect::Inspect),
    Explain(explain::Explain),
    Report(report::Report),
    Fit(fit::Fit),
    Bench(bench::Bench),
    Profile(profile::Profile),
    Tune(tune::Tune),
    Devices(devices::Devices),
    Doctor(doctor::Doctor),
}

/// Where a model runs.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunOptions {
    /// Adapter to run on: its index in `compile-model devices`, or a part of its name, driver or backend.
    #[arg(long, value_name = "INDEX|NAME", display_order = 90)]
    pub(crate) adapter: Option<String>,

    /// Memory that the model may take on the device, such as 4GiB; a model that needs more is refused.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, display_order = 91)]
    pub(crate) memory: Option<u64>,

    /// Copy weights even where a driver on the CPU could read them from the plan file's pages, which load sooner and are shared, but must
    /// not be written to meanwhile.
    #[arg(long, display_order = 91)]
    pub(crate) no_mmap: bool,

    #[command(flatten)]
    pub(crate) rules: RuleOptions,
}

/// How a checkpoint is compiled.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RuleOptions {
    /// A rewrite rule to leave out when a checkpoint is compiled, to see what it is worth; can be given more than once.
    #[arg(long, value_name = "RULE", value_parser = rule, display_order = 92)]
    pub(crate) without: Vec<String>,

    /// Round all large weights of a checkpoint to a quantized format: int8 (groups of 128), int8-row, int4 (groups of 32 with zero
    /// points), int4-g64, int4-g128, int4-g32-sym, fp8 (scales of blocks of 128), mxfp4, nf4-g64 and the like. Norms, biases,
    /// small weights and what comes quantized stay as they are; embedding and head become int8-row, and are kept with fp8. `auto`
    /// chooses a format for each weight (`compile-model build` alone does that).
    #[arg(long, value_name = "FORMAT", display_order = 93)]
    pub(crate) quantize: Option<Quantize>,

    /// How keys and values of earlier tokens are stored when a checkpoint is compiled: `f16`, unless something else is asked
    /// for; `f32`, exact and twice as large; `int8` or `fp8`, a little more than half as large, with a scale for each head of
    /// a token. A long context takes less memory and is read faster. Perplexity of rustdoc-lm: × 1.0000 with f16 and int8,
    /// × 1.003 with fp8, so int8 is the first to try; `compile-model eval --cache int8 --baseline` measures your model.
    #[arg(long, value_name = "FORMAT", value_parser = cache_formats(), display_order = 95)]
    pub(crate) cache: Option<CacheFormat>,

    /// Round activations too where they meet int8 weights, so that devices may multiply integers, four at a time: int8 (a scale
    /// for each row). It helps with many rows, prompts, batches and encoders; one row at a time it costs a little, and where
    /// integers are predicted to be slower, rounded activations are multiplied as floats. It needs int8 weights: --quantize
    /// int8, int8-row or int8-g64 with groups of a multiple of 16, or a checkpoint that comes so.
    #[arg(long, value_name = "FORMAT", value_enum, display_order = 94)]
    pub(crate) activations: Option<RoundActivations>,
}

/// What activations are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoundActivations {
    /// Signed bytes and a scale for each row.
    Int8,
}

impl RoundActivations {
    /// The name in options.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RoundActivations::Int8 => "int8",
        }
    }
}

/// How weights are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantize {
    /// Formats are chosen.
    Auto,
    /// All large ones in the same way.
    All(Scheme),
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quantize::Auto => f.write_str("auto"),
            Quantize::All(scheme) => scheme.fmt(f),
        }
    }
}

impl FromStr for Quantize {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Quantize, UnknownFormat> {
        if text == "auto" { Ok(Quantize::Auto) } else { text.parse().map(Quantize::All) }
    }
}

impl RuleOptions {
    /// Whether activations are rounded.
    pub(crate) fn activations(&self) -> Activations {
        match self.activations {
            None => Activations::Floats,
            Some(RoundActivations::Int8) => Activations::Int8,
        }
    }

    /// Which weights are rounded, each on its own.
    ///
    /// # Errors
    /// [`CliError::Usage`] where formats are to be chosen, which takes a calibration.
    pub(crate) fn quantization(&self) -> Result<Quantization, CliError> {
        match self.quantize {
            None => Ok(Quantization::None),
            Some(Quantize::All(scheme)) => Ok(Quantization::All(scheme)),
            Some(Quantize::Auto) => Err(CliError::Usage(
                "--quantize auto measures the model first: make a plan with compile-model build --quantize auto".into(),
            )),
        }
    }
}

fn cache_formats() -> impl TypedValueParser<Value = CacheFormat> {
    PossibleValuesParser::new(CacheFormat::ALL.map(CacheFormat::name)).try_map(|name| name.parse::<CacheFormat>())
}

fn rule(name: &str) -> Result<String, RewriteError> {
    RuleSet::all()?.check(name)?;
    Ok(name.to_owned())
}

impl RunOptions {
    /// Which adapter is asked for.
    pub(crate) fn choice(&self) -> AdapterChoice {
        self.adapter.as_deref().map_or(AdapterChoice::Best, AdapterChoice::from)
    }

    /// How a model is opened for an output.
    pub(crate) fn opened_for(&self, output: OutputKind) -> Options {
        Options { output: Some(output), memory: self.memory, copy_weights: self.no_mmap, ..Options::default() }
    }
}
