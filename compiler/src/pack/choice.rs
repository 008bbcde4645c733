//! Which format the weights are kept in.

use std::fmt;
use std::str::FromStr;

use warpweft_plan::DType;

use crate::graph::{Declarations, Element, FactError, Graph, WeightDecl};
use crate::phases::UnknownName;

/// What the user asked for. Vectors (biases, gains) are f32 whatever is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightChoice {
    /// As the checkpoint stores them.
    #[default]
    Keep,
    /// 32-bit floats.
    F32,
    /// 16-bit floats; a value out of their range is an error.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
}

impl WeightChoice {
    /// All choices.
    pub const ALL: [WeightChoice; 4] = [WeightChoice::Keep, WeightChoice::F32, WeightChoice::F16, WeightChoice::Bf16];

    /// The name in options.
    pub fn name(self) -> &'static str {
        match self {
            WeightChoice::Keep => "keep",
            WeightChoice::F32 => "f32",
            WeightChoice::F16 => "f16",
            WeightChoice::Bf16 => "bf16",
        }
    }

    fn dtype(self, stored: Element) -> Element {
        match self {
            // What is quantized already stays so.
            _ if stored.is_quantized() => stored,
            WeightChoice::Keep => stored,
            WeightChoice::F32 => Element::F32,
            WeightChoice::F16 => Element::Plain(DType::F16),
            WeightChoice::Bf16 => Element::Plain(DType::BF16),
        }
    }
}

impl fmt::Display for WeightChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightChoice {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<WeightChoice, UnknownName> {
        let names = || WeightChoice::ALL.map(WeightChoice::name).join(", ");
        WeightChoice::ALL
            .into_iter()
            .find(|c| c.name() == text)
            .ok_or_else(|| UnknownName { found: text.into(), expected: names() })
    }
}

/// The graph with its weight matrices in the chosen format; weights keep their numbers.
///
/// # Errors
/// None in practice: formats are all floats.
pub fn choose_formats(graph: &Graph, choice: WeightChoice) -> Result<Graph, FactError> {
    let decl = |w: &WeightDecl| {
        let dtype = if w.shape.len() == 2 { choice.dtype(w.dtype) } else { w.dtype };
        WeightDecl { dtype, ..w.clone() }
    };
    let weights = graph.declarations().weights.iter().map(decl).collect();
    graph.redeclared(Declarations { weights, ..graph.declarations().clone() })
}
