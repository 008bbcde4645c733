//! Fixtures compiled for all targets with all that models get unless something else is asked for, each once for all tests
//! that look at it.

use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

use warpweft_compiler::WeightChoice;
use warpweft_models::import;
use warpweft_plan::{CacheFormat, Plan};
use warpweft_tests::{DECODERS, ENCODERS, compiled_caching, fixture, plan_file};

/// A compiled fixture.
pub(crate) struct Made {
    /// Its plan, as its file has it.
    pub(crate) plan: Plan,
    /// E-nodes of the largest phase.
    pub(crate) e_nodes: usize,
}

/// All fixtures.
pub(crate) fn fixtures() -> impl Iterator<Item = (&'static str, &'static Made)> {
    ENCODERS.into_iter().chain(DECODERS).map(|name| (name, made(name)))
}

/// A fixture; whoever asks first compiles it.
pub(crate) fn made(name: &str) -> &'static Made {
    static ALL: LazyLock<BTreeMap<&str, OnceLock<Made>>> =
        LazyLock::new(|| ENCODERS.into_iter().chain(DECODERS).map(|name| (name, OnceLock::new())).collect());
    ALL[name].get_or_init(|| {
        let model = import(&fixture(name)).unwrap();
        let compiled = compiled_caching(&model, &[], WeightChoice::Keep, CacheFormat::default());
        let e_nodes = compiled.phases.iter().map(|report| report.e_nodes).max().unwrap();
        Made { plan: plan_file(&model, &compiled).plan().clone(), e_nodes }
    })
}
