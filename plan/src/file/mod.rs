//! The plan file: a valid safetensors file whose tensors are the packed weights and whose `__metadata__` is the plan.
//!
//! `docs/plan-format.md` describes the bytes.

mod checksum;
mod header;
#[cfg(target_os = "linux")]
mod mapping;
mod reader;
mod source;
#[cfg(not(target_arch = "wasm32"))]
mod staged;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;

pub use header::FORMAT_VERSION;
#[cfg(target_os = "linux")]
pub use mapping::Mapping;
pub use reader::PlanFile;
pub use source::Source;
#[cfg(not(target_arch = "wasm32"))]
pub use staged::Staged;
pub use writer::PlanWriter;

/// Texts that travel with a plan: the tokenizer, a chat template, a license.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assets {
    /// The content of each, by name. A name must not be empty or one of the format's own keys
    /// (`plan`, `provenance`, `quantization`, or one that starts with `warpweft.` or `wgsl/`).
    pub texts: BTreeMap<String, String>,
}

impl Assets {
    /// The name under which the text of tokenizer.json is kept.
    pub const TOKENIZER: &'static str = "tokenizer";

    /// The name under which the text of tokenizer_config.json is kept.
    pub const TOKENIZER_CONFIG: &'static str = "tokenizer_config";
    /// The name under which the text of generation_config.json is kept.
    pub const GENERATION_CONFIG: &'static str = "generation_config";
    /// The name under which the chat template is kept.
    pub const CHAT_TEMPLATE: &'static str = "chat_template";

    /// The text of tokenizer.json.
    pub fn tokenizer(&self) -> Option<&str> {
        self.texts.get(Assets::TOKENIZER).map(String::as_str)
    }

    /// Adds a text, or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.texts.insert(name.into(), text.into());
    }
}
