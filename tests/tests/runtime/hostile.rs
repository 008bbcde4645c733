//! Plans that pass every check and still mean harm get an error, never a crash.

use warpweft_plan::Plan;
use warpweft_runtime::{Model, Options, RuntimeError};

use crate::tiny;

fn refusal(change: impl FnOnce(&mut Plan)) -> RuntimeError {
    let mut plan = tiny::plan();
    change(&mut plan);
    Model::from_plan(tiny::open(&plan), &Options::default(), &mut |_| ()).err().unwrap()
}

#[test]
fn shaders_that_nest_without_end() {
    let count = 80_000;
    for (open, close) in [("(", ")"), ("{", "}"), ("-", ""), ("if (true) {", "}"), ("array<", ",1>"), ("&", "")] {
        let body = match open {
            "array<" => format!("var x: {}f32{};", open.repeat(count), close.repeat(count)),
            "{" | "if (true) {" => format!("{}{}", open.repeat(count), close.repeat(count)),
            _ => format!("let x = {}1{};", open.repeat(count), close.repeat(count)),
        };
        let error = refusal(|p| p.kernels[0].wgsl = format!("@compute @workgroup_size(1) fn main() {{ {body} }}"));
        assert!(matches!(&error, RuntimeError::Shader { .. } | RuntimeError::Plan(_)), "{open}: {error}");
    }
}
