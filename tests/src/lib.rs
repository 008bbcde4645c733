//! What the whole-project tests share: fixtures, their references, and copies of them that can be changed.
//!
//! The tests themselves are under `tests/`, a file for each ring.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

mod bound;
mod compiled;
mod copy;
mod decode;
mod exact;
pub mod gpu;
mod graphs;
mod instance;
mod random;
mod reference;
mod tiers;

use std::path::{Path, PathBuf};

pub use bound::rounding_error;
pub use compiled::{compiled, compiled_caching, plan_file, quantized, targets, with_integers, write_plan};
pub use copy::{Copy, Tensors};
pub use decode::{Decoder, Steps, recomputed};
pub use exact::{Exact, cheapest};
pub use graphs::{Case, cost_models, cost_models_storing, distance, graphs, program, random_values, saturated};
pub use instance::{Instance, instance};
pub use random::{Magnitudes, Random};
pub use reference::{Reference, Text};
pub use tiers::{Runner, runners, runners_of};

/// The folder of a checkpoint under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The folder of the language model that comes with the project.
pub fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/rustdoc-lm")
}

/// The folder of the published all-MiniLM-L6-v2: `WARPWEFT_MINILM`, or where `make` puts it.
pub fn minilm() -> PathBuf {
    let given = std::env::var_os("WARPWEFT_MINILM").map(PathBuf::from);
    let folder = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models/minilm"));
    assert!(folder.join("config.json").exists(), "no model in {}: run `make test`, which fetches it", folder.display());
    folder
}

/// The greatest absolute difference; infinite where one of them is not a number.
pub fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    let difference = |(a, b): (&f32, &f32)| {
        let d = (a - b).abs();
        if d.is_nan() { f32::INFINITY } else { d }
    };
    found.iter().zip(expected).map(difference).fold(0.0, f32::max)
}

/// Fails unless `message` holds all `parts`.
#[track_caller]
pub fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// The encoders under `tests/fixtures`.
pub const ENCODERS: [&str; 6] = ["bert", "bert-mlm", "roberta", "xlm-roberta", "distilbert", "modernbert"];

/// The decoders there.
pub const DECODERS: [&str; 11] = [
    "llama",
    "llama-yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "llama-sharded",
];

/// A test for each decoder under `tests/fixtures`: what to do with its name.
#[macro_export]
macro_rules! decoder_fixtures {
    ($check:path) => {
        $crate::decoder_fixtures! { $check:
            gemma2 = "gemma2",
            gemma3 = "gemma3",
            gpt2 = "gpt2",
            gpt_neox = "gpt_neox",
            llama = "llama",
            llama_in_shards = "llama-sharded",
            llama_with_biases_and_yarn = "llama-yarn",
            mistral = "mistral",
            phi3 = "phi3",
            qwen2 = "qwen2",
            qwen3 = "qwen3",
        }
    };
    ($check:path: $($test:ident = $name:literal,)+) => {
        $(
            #[test]
            fn $test() {
                $check($name);
            }
        )+
    };
}
