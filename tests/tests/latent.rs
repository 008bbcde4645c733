//! Multi-head latent attention: which form is chosen, and what kernels there are for it.
#![allow(clippy::unwrap_used, clippy::panic)]

use warpweft_compiler::extract::{CostModel, extract};
use warpweft_compiler::graph::{Graph, Op};
use warpweft_compiler::kernels::spec::Operation;
use warpweft_compiler::kernels::{self, RowRange};
use warpweft_compiler::lower::{Bounds, LowerError, LoweredBody, lower};
use warpweft_compiler::target::Target;
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
    };
    lower(program, bounds)
}

/// One row does not make the keys and values of its whole context: the latent is what it attends to, with one head.
#[test]
fn one_row_absorbs_the_projections() {
    for (rates, model, program) in programs("latent/cached") {
        let absorbed = program.nodes().iter().filter(|n| matches!(n.op, Op::HeadLinear(_))).count();
        let heads = program.nodes().iter().find_map(|n| match n.op {
            Op::Attention([_, k, v, _, shared, _]) => Some((k == v, program.node(shared).fact.to_string())),
            _ => None,
        });
        let expected =
            if model.rows().typical() == 1 { (2, (true, "1".to_owned())) } else { (0, (false, "16".to_owned())) };
        assert_eq!((absorbed, heads.unwrap()), expected, "{rates}\n{program}");
    }
}

/// What one row needs has kernels on every target; many rows would need a contraction of a cache's rows, and that is said.
#[test]
fn what_has_no_kernel_is_said() {
    for (rates, model, program) in programs("latent/cached") {
        if model.rows().typical() > 1 {
            let error = lowered(&program, 1024).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("linear") && error.contains("rows of a cache"), "{error}");
            continue;
        }
        let body = lowered(&program, 1).unwrap();
        let per_head = body.calls.iter().filter(|call| matches!(call.operation, Operation::PerHead { .. })).count();
        assert_eq!(per_head, 2, "{rates}");
        for target in Target::all() {
            for call in &body.calls {
                let kernel = kernels::lower(&call.operation, target, RowRange { min: 1, max: Some(1) });
                assert!(kernel.is_ok(), "{}: {:?}: {kernel:?}", target.name, call.operation);
            }
        }
    }
    for (rates, _, program) in programs("latent/new-rows") {
        assert!(lowered(&program, 64).is_ok(), "{rates}\n{program}");
    }
}
