//! The graphs under `tests/graphs`, their random inputs and their programs.

use std::fs;
use std::path::Path;

use egg::Id;
use rustc_hash::FxHashSet;
use warpweft_compiler::ROW_RANGES;
use warpweft_compiler::extract::{CostModel, extract};
use warpweft_compiler::graph::eval::{Tensor, Values};
use warpweft_compiler::graph::{Element, Graph, Shape};
use warpweft_compiler::rules::{Limits, RuleSet, Saturated, saturate};
use warpweft_compiler::target::Target;
use warpweft_plan::{CacheFormat, DType, Dim, Sizes};

use crate::random::{Magnitudes, Random};

/// A graph under `tests/graphs`.
pub struct Case {
    /// Its path there, without the extension: `merge/qkv`.
    pub name: String,
    /// What it says.
    pub graph: Graph,
}

/// All graphs under `tests/graphs`, by name.
pub fn graphs() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs");
    let mut cases = Vec::new();
    for topic in fs::read_dir(&root).unwrap() {
        for file in fs::read_dir(topic.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
            let text = fs::read_to_string(&path).unwrap();
            let graph = text.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
            cases.push(Case { name, graph });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// Everything that the table finds for a graph.
pub fn saturated(graph: &Graph) -> Saturated {
    saturate(graph, &RuleSet::all().unwrap(), Limits::default()).unwrap()
}

/// The cheapest program of a graph.
pub fn program(graph: &Graph, model: &CostModel<'_>) -> Graph {
    extract(&saturated(graph), model).unwrap().graph
}

/// Rates of a server's CPU and of a graphics card, at one row and at many.
pub fn cost_models() -> Vec<(&'static str, CostModel<'static>)> {
    cost_models_storing(None)
}

/// The same for a body some of whose weights are stored.
pub fn cost_models_storing(stored: Option<&FxHashSet<Id>>) -> Vec<(&'static str, CostModel<'_>)> {
    let model =
        |target: &str, rows| CostModel::new(Target::named(target).unwrap(), rows, CacheFormat::default(), true, stored);
    let [one, _, many] = ROW_RANGES;
    vec![
        ("cpu, 1 row", model("subgroup8", one)),
        ("cpu, 1024 rows", model("subgroup8", many)),
        ("gpu, 1 row", model("subgroup32", one)),
        ("gpu, 1024 rows", model("subgroup32", many)),
    ]
}

/// Rows that caches hold before the step.
const CACHED: usize = 3;

/// Random values for what a graph declares, at `tokens` rows of one sequence.
pub fn random_values(graph: &Graph, tokens: usize, magnitudes: Magnitudes, random: &mut Random) -> Values {
    let cached = if graph.declarations().caches.is_empty() { 0 } else { CACHED };
    let sizes = Sizes { tokens: tokens as u64, context: (cached + tokens) as u64, sequences: 1 };
    let mut tensor = |shape: &Shape, dtype: Element| {
        let shape: Vec<usize> = shape.iter().map(|d| d.eval(sizes).unwrap() as usize).collect();
        let element = |_| match dtype {
            Element::Plain(DType::U32) => random.below(2) as f32,
            Element::Plain(DType::F32 | DType::F16 | DType::BF16) | Element::Quantized(_) => random.element(magnitudes),
        };
        let data = (0..shape.iter().product()).map(element).collect();
        Tensor { shape, data }
    };
    let declarations = graph.declarations();
    let constant = |shape: &[u64]| shape.iter().map(|&n| Dim::constant(n as i64)).collect::<Shape>();
    let weights = declarations.weights.iter().map(|w| tensor(&constant(&w.shape), w.dtype)).collect();
    let args = declarations.args.iter().map(|a| tensor(&a.shape, a.dtype)).collect();
    let cache = |width: u32| vec![Dim::constant(CACHED as i64), i64::from(width).into()];
    let caches = declarations.caches.iter().map(|c| tensor(&cache(c.width), Element::F32));
    Values { weights, args, caches: caches.collect(), ids: (0..tokens as u32).map(|i| i * 7 % 13).collect() }
}

/// The greatest difference, in units of the largest element; infinite where one side alone is not finite.
pub fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape, b.shape);
    let finite = |t: &Tensor| t.data.iter().filter(|x| x.is_finite()).map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    let scale = finite(a).max(f64::MIN_POSITIVE);
    let off = |(x, y): (&f32, &f32)| match () {
        () if x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) => 0.0,
        () if x.is_finite() && y.is_finite() => f64::from((x - y).abs()) / scale,
        () => f64::INFINITY,
    };
    a.data.iter().zip(&b.data).map(off).fold(0.0, f64::max)
}
