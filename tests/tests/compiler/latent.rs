//! Multi-head latent attention: which form is chosen, and what kernels there are for it.

use warpweft_compiler::extract::{CostModel, extract};
use warpweft_compiler::graph::{Graph, Op};
use warpweft_compiler::kernels::spec::Operation;
use warpweft_compiler::kernels::{self, RowRange};
use warpweft_compiler::lower::{Bounds, LowerError, LoweredBody, lower};
use warpweft_compiler::target::Target;
use warpweft_plan::CacheFormat;
use warpweft_tests::{cost_models, graphs, saturated};

fn programs(name: &str) -> Vec<(&'static str, CostModel<'static>, Graph)> {
    let case = graphs().into_iter().find(|case| case.name == name).unwrap();
    let saturated = saturated(&case.graph);
    let program = |(rates, model): (&'static str, CostModel<'static>)| {
        let program = extract(&saturated, &model).unwrap().graph;
        (rates, model, program)
    };
    cost_models().into_iter().map(program).collect()
}

fn lowered(program: &Graph, rows: u32) -> Result<LoweredBody, LowerError> {
    let limits = &Target::all()[0].limits;
    let bounds = Bounds {
        max_context: 4096,
        binding_bytes: limits.binding_bytes,
        storage_buffers: limits.storage_buffers,
        rows: RowRange { min: rows, max: Some(rows) },
        cache: CacheFormat::F16,
        uncut: Target::all()[0].uncut(),
    };
    lower(program, bounds)
}

/// Nothing makes the keys and values of a whole context: the latent is what rows attend to, with one head.
#[test]
fn rows_of_a_cache_absorb_the_projections() {
    for (rates, _, program) in programs("latent/cached") {
        let absorbed = program.nodes().iter().filter(|n| matches!(n.op, Op::HeadLinear(_))).count();
        let heads = program.nodes().iter().find_map(|n| match n.op {
            Op::Attention([_, k, v, _, shared, _]) => Some((k == v, program.node(shared).fact.to_string())),
            _ => None,
        });
        assert_eq!((absorbed, heads.unwrap()), (2, (true, "1".to_owned())), "{rates}\n{program}");
    }
}

/// That has kernels on every target, at one row and at many; a contraction of a cache's rows has none, and that is said.
#[test]
fn both_forms_have_kernels() {
    for (rates, model, program) in programs("latent/cached") {
        let rows = model.rows().typical();
        let body = lowered(&program, rows).unwrap();
        let per_head = body.calls.iter().filter(|call| matches!(call.operation, Operation::PerHead { .. })).count();
        assert_eq!(per_head, 2, "{rates}");
        for target in Target::all() {
            for call in &body.calls {
                let kernel = kernels::lower(&call.operation, target, RowRange { min: rows, max: Some(rows) });
                assert!(kernel.is_ok(), "{}: {:?}: {kernel:?}", target.name, call.operation);
            }
        }
    }
    for (rates, _, program) in programs("latent/new-rows") {
        assert!(lowered(&program, 64).is_ok(), "{rates}\n{program}");
    }
    let contracted = "cache &0 32\nweight @0 \"keys\" f16[64, 32]\narg $0 f32[tokens, 32]\n%0 = (append &0 $0)
%1 = (linear %0 @0 acc)\noutput y %1\n";
    let error = lowered(&contracted.parse().unwrap(), 1024).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("linear") && error.contains("rows of a cache"), "{error}");
}
