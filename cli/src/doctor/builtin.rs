//! Small models that together have every kind of kernel, for a doctor without a plan.

use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::graph::{Graph, TextError};
use warpweft_compiler::lossy::{Activations, Quantization, Scheme};
use warpweft_compiler::target::Target;
use warpweft_compiler::{Options, WeightChoice, compile};
use warpweft_plan::{Model, Plan};

use crate::CliError;

/// One layer each: the names and the texts of the graphs.
const MODELS: [(&str, &str); 2] =
    [("bert", include_str!("graphs/bert.graph")), ("modernbert", include_str!("graphs/modernbert.graph"))];

/// How weights of each model are rounded: together a format for each way to unpack and to scale, each once, since a driver
/// takes longer to compile a kernel than to run it.
const QUANTIZED: [&[(&str, Scheme)]; 2] = [
    &[
        ("int8", everywhere(Format::Int8(Group::Row))),
        ("fp8", everywhere(Format::Fp8(Group::Of(128)))),
        ("nf4", everywhere(Format::Nf4(Group::Of(64)))),
    ],
    &[("int4", everywhere(Format::Int4 { group: Group::Of(32), zeros: true })), ("mxfp4", everywhere(Format::Mxfp4))],
];

const fn everywhere(format: Format) -> Scheme {
    Scheme { matrices: format, ends: Some(format) }
}

/// The built-in models, compiled for one target with weights in each format.
///
/// # Errors
/// When the compiler refuses one.
pub fn builtin_plans(target: &'static Target) -> Result<Vec<Plan>, CliError> {
    let mut plans = Vec::new();
    for ((name, text), rounded) in MODELS.into_iter().zip(QUANTIZED) {
        let refused = |e: TextError| CliError::Failed(format!("the built-in model {name} cannot be read: {e}"));
        let graph: Graph = text.parse().map_err(refused)?;
        let floats = [WeightChoice::F32, WeightChoice::F16, WeightChoice::Bf16];
        let with = |weights, quantize| Options { targets: vec![target], weights, quantize, ..Options::default() };
        let stored = floats.map(|weights| (weights.name(), with(weights, Quantization::None)));
        let rounded = rounded.iter().map(|(kind, scheme)| (*kind, with(WeightChoice::F32, Quantization::All(*scheme))));
        let integers = Quantization::All(everywhere(Format::Int8(Group::Of(32))));
        let integers = Options { activations: Activations::Int8, ..with(WeightChoice::F32, integers) };
        for (kind, options) in stored.into_iter().chain(rounded).chain([("integers", integers)]) {
            let model = Model {
                name: format!("{name}-{kind}"),
                family: name.into(),
                layers: 1,
                vocab_size: 509,
                max_positions: 64,
                max_text_tokens: 64,
                eos_ids: Vec::new(),
            };
            plans.push(compile(&graph, &model, &options, &mut |_| ())?.plan);
        }
    }
    Ok(plans)
}
