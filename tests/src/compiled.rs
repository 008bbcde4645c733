//! From an imported checkpoint to a plan in memory.

use std::path::Path;

use warpweft_compiler::lossy::{Activations, Quantization};
use warpweft_compiler::target::Target;
use warpweft_compiler::{Compiled, Options, WeightChoice, compile};
use warpweft_models::Imported;
use warpweft_plan::{Assets, CacheFormat, Plan, PlanError, PlanFile, PlanWriter};

/// Compiles for the named targets; all of them if none is named. Caches are exact, as those of references are.
pub fn compiled(model: &Imported, targets: &[&str], weights: WeightChoice) -> Compiled {
    compiled_caching(model, targets, weights, CacheFormat::F32)
}

/// The same with caches of a format.
pub fn compiled_caching(model: &Imported, targets: &[&str], weights: WeightChoice, cache: CacheFormat) -> Compiled {
    compiled_with(model, Options { targets: named(targets), weights, cache, ..Options::default() })
}

/// With exact caches and weights rounded as `--quantize` says.
pub fn quantized(model: &Imported, targets: &[&str], quantize: &str) -> Compiled {
    let quantize = Quantization::All(quantize.parse().unwrap());
    compiled_with(model, Options { targets: named(targets), quantize, cache: CacheFormat::F32, ..Options::default() })
}

/// The same with activations rounded to int8 too, for a target whose integers are so fast that every product which can be one
/// of integers is, or so slow that none is.
pub fn with_integers(model: &Imported, target: &str, quantize: &str, fast: bool) -> Compiled {
    let quantize = Quantization::All(quantize.parse().unwrap());
    let mut target = Target::named(target).unwrap().clone();
    target.rates.dot4 = if fast { 0.1 } else { 1e6 };
    // Few and small, and a target lives as long as the program.
    let targets = vec![&*Box::leak(Box::new(target))];
    let activations = Activations::Int8;
    compiled_with(model, Options { targets, quantize, activations, cache: CacheFormat::F32, ..Options::default() })
}

fn compiled_with(model: &Imported, options: Options) -> Compiled {
    compile(&model.graph, &model.info, &options, &mut |_| ()).unwrap()
}

fn named(targets: &[&str]) -> Vec<&'static Target> {
    match targets {
        [] => Target::all().iter().collect(),
        names => names.iter().map(|name| Target::named(name).unwrap()).collect(),
    }
}

/// The plan file of a compiled model.
pub fn plan_file(model: &Imported, compiled: &Compiled) -> PlanFile {
    PlanFile::from_bytes(packed(model, compiled, &model.assets)).unwrap()
}

/// Writes a compiled model where a plan file can be opened.
pub fn write_plan(model: &Imported, compiled: &Compiled, path: &Path) {
    std::fs::write(path, packed(model, compiled, &model.assets)).unwrap();
}

fn packed(model: &Imported, compiled: &Compiled, assets: &Assets) -> Vec<u8> {
    let mut writer = PlanWriter::new(Vec::new(), &compiled.plan, assets).unwrap();
    let mut begun = None;
    let mut sink = |tensor: usize, bytes: &[u8]| -> Result<(), PlanError> {
        if begun != Some(tensor) {
            writer.tensor(tensor)?;
            begun = Some(tensor);
        }
        writer.write(bytes)
    };
    compiled.packing.write(&model.weights, &mut sink).unwrap();
    writer.into_inner().unwrap()
}

/// The targets of a plan.
pub fn targets(plan: &Plan) -> Vec<&str> {
    let mut targets: Vec<&str> = plan.programs.iter().map(|p| p.target.as_str()).collect();
    targets.dedup();
    targets
}
