//! Plans whose weights were rounded when they were packed.

use warpweft_plan::Plan;
use warpweft_tests::{fixture, says};

use crate::explain::changed;
use crate::{Built, run, text};

/// Elements of the matrices of the four layers: queries, keys, values, the result of attention, gate, up and down.
const ELEMENTS: u32 = 4 * (128 * 64 + 2 * 64 * 64 + 64 * 128 + 3 * 192 * 64);

/// A plan names the format of each rounded weight, holds its codes and scales alone, and says how far rounding moved it.
#[test]
fn plans_say_what_was_rounded() {
    let built = Built::of_fixture("qwen3");
    let weights = |options: &[&str]| {
        let plan = built.file("rounded.weft");
        let ran =
            run(&[&["build", text(&fixture("qwen3")), "-o", text(&plan), "--targets", "webgpu"], options].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        (run(&["inspect", text(&plan), "--json"]).json(), run(&["inspect", text(&plan), "--weights"]).out)
    };
    let plain = run(&["inspect", text(&built.plan()), "--json"]).json();
    assert!(plain["quantization"].is_null());
    // Half of a step relative to values that are spread over 255 or 15 of them: about 1 % and 10 %.
    for (name, bits, range) in [("int8", 8.0, 0.002..0.02), ("int4", 4.0, 0.02..0.2)] {
        let (report, table) = weights(&["--quantize", name]);
        let told = report["quantization"]["weights"].as_array().unwrap();
        assert!(!told.is_empty());
        let mut bytes = 0.0;
        for weight in told {
            let format = weight["format"].as_str().unwrap();
            let ends = name == "int4" && weight["name"].as_str().unwrap().contains("embed");
            assert!(format.starts_with(if ends { "int8" } else { name }), "{weight}");
            let error = weight["relative_error"].as_f64().unwrap();
            assert!(ends || range.contains(&error), "{weight}");
            assert!(table.contains(weight["name"].as_str().unwrap()), "{table}");
            bytes += if ends { 0.0 } else { weight["bytes"].as_f64().unwrap() };
        }
        for program in report["programs"].as_array().unwrap() {
            let lossy = program["proof_steps"]["lossy"].as_u64().unwrap();
            assert!(lossy >= 4 * 7, "each matrix of the layers is rounded where it is read: {program}");
        }
        let codes = f64::from(ELEMENTS) * bits / 8.0;
        assert!((codes..codes * 1.6).contains(&bytes), "{bytes} bytes for {codes} of codes");
    }
    let x = built.file("x.weft");
    let qwen3 = fixture("qwen3");
    let build = ["build", text(&qwen3), "-o", text(&x), "--activations", "int8"];
    run(&build).refuses(1, &["activations int8", "no contraction", "int8-row"]);
    run(&[&build[..], &["--quantize", "fp8"]].concat()).refuses(1, &["activations int8", "no contraction"]);
    run(&["build", text(&fixture("qwen3")), "-o", text(&x), "--activations", "int4"]).refuses(2, &["int4", "int8"]);
    run(&["logits", text(&built.plan()), "--ids", "1", "--activations", "int8"])
        .refuses(2, &["--activations int8", "compiled already"]);
    run(&["build", text(&fixture("qwen3")), "-o", text(&built.file("x.weft")), "--quantize", "int7"])
        .refuses(2, &["int7", "int8", "int4-g32", "mxfp4"]);
    assert!(!built.file("x.weft").exists());
}

/// Kernels that round activations say so, and how far that moves random ones; a plan that keeps it quiet is found out.
#[test]
fn rounded_activations_are_steps_of_proofs() {
    let built = Built::of_fixture("qwen3");
    let (plan, qwen3) = (built.file("integers.weft"), fixture("qwen3"));
    let build = ["build", text(&qwen3), "-o", text(&plan), "--targets", "webgpu", "--quantize", "int8"];
    let ran = run(&[&build[..], &["--activations", "int8"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let report = run(&["inspect", text(&plan), "--json"]).json();
    assert_eq!(report["quantization"]["activations"]["format"], "int8");
    // Of each layer what the norms make, attention and the gated product; and what the head reads.
    assert!(report["quantization"]["activations"]["inputs"].as_u64().unwrap() > 4 * 4);
    for program in report["programs"].as_array().unwrap() {
        let lossy = program["proof_steps"]["lossy"].as_u64().unwrap();
        assert!(lossy >= 4 * (7 + 4), "weights and activations: {program}");
    }
    let explain = |plan: &std::path::Path, more: &[&str]| {
        run(&[&["explain", text(plan), "--layer", "1", "--rows", "40"], more].concat())
    };
    let shown = explain(&plan, &[]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    says(&shown.out, &["round activations x0 to int8 (lossy): relative error", "in random values", "«quantize("]);
    let checked = explain(&plan, &["--check", "--json"]).json();
    assert_eq!(checked["faults"].as_array().unwrap().len(), 0, "{checked}");
    let steps = checked["proofs"].as_array().unwrap().iter().flat_map(|proof| proof["lossy"].as_array().unwrap());
    let steps: Vec<_> = steps.filter(|step| step["activations"].is_string()).collect();
    assert!(steps.len() >= 4, "{checked}");
    for step in steps {
        // Evenly spread random values are rounded to 127 steps on each side: √(1/3) / 127 / 2.
        let error = step["relative_error"].as_f64().unwrap();
        assert!((1e-3..1e-2).contains(&error), "{step}");
    }
    let quiet = built.file("quiet.weft");
    changed(&plan, &quiet, |plan| plan.quantization.as_mut().unwrap().activations = None);
    let ran = explain(&quiet, &["--check"]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    says(&ran.err, &["activations are rounded to", "found floats", "expected int8"]);
}

/// Proofs begin with the checkpoint's weights: each rounding is a step with its measured error, and can be replayed.
#[test]
fn roundings_are_steps_of_proofs() {
    let built = Built::of_fixture("qwen3");
    let plan = built.file("int4.weft");
    let ran = run(&["build", text(&fixture("qwen3")), "-o", text(&plan), "--targets", "webgpu", "--quantize", "int4"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let explain = |plan: &std::path::Path, more: &[&str]| {
        run(&[&["explain", text(plan), "--layer", "1", "--rows", "1", "--kernel", "linear"], more].concat())
    };
    let shown = explain(&plan, &[]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    says(&shown.out, &["round q_proj.weight to int4-g32 (lossy): relative error", "«dequantize(quantize("]);
    let checked = explain(&plan, &["--check", "--json"]).json();
    assert_eq!(checked["faults"].as_array().unwrap().len(), 0);
    let proofs = checked["proofs"].as_array().unwrap();
    let steps: Vec<_> = proofs.iter().flat_map(|proof| proof["lossy"].as_array().unwrap()).collect();
    assert!(steps.len() >= 4, "{checked}");
    for step in steps {
        assert!(step["weight"].as_str().unwrap().starts_with("model.layers.1."), "{step}");
        // Random values are spread evenly over 15 steps: 2/15/√12 of √(1/3), and the model's own weights, whose groups
        // have few large values, somewhat more.
        let random = step["relative_error"].as_f64().unwrap();
        assert!((0.04..0.09).contains(&random), "{step}");
        assert!((0.5..3.0).contains(&(step["told"][0].as_f64().unwrap() / random)), "{step}");
        assert!(step["error"].as_f64().unwrap() > 0.0, "{step}");
    }
    let lying = built.file("lying.weft");
    let understate = |plan: &mut Plan| {
        plan.quantization.as_mut().unwrap().weights.iter_mut().for_each(|weight| {
            weight.relative_error = weight.relative_error.map(|error| error / 2.0);
        });
    };
    changed(&plan, &lying, understate);
    // A plan has the weights as they are after rounding; what they were before takes the checkpoint.
    let checkpoint = fixture("qwen3");
    let against = |plan: &std::path::Path, of: &std::path::Path| explain(plan, &["--check", "--checkpoint", text(of)]);
    let unseen = explain(&lying, &["--check"]);
    assert_eq!(unseen.code, 0, "{}", unseen.err);
    says(&unseen.out, &["not verified: how far rounding moved", "--checkpoint"]);
    let seen = against(&lying, &checkpoint);
    assert_eq!(seen.code, 1, "{}", seen.out);
    says(&seen.err, &["the plan says that rounding", "to int4-g32 moves it by", "the checkpoint's is moved by"]);
    let honest = against(&plan, &checkpoint);
    assert_eq!(honest.code, 0, "{}", honest.err);
    assert!(!honest.out.contains("not verified"), "{}", honest.out);
    run(&["explain", text(&plan), "--checkpoint", text(&checkpoint)]).refuses(2, &["--check"]);
    let other = against(&plan, &fixture("llama"));
    assert_eq!(other.code, 1, "{}", other.out);
    changed(&plan, &lying, |plan| {
        plan.quantization.as_mut().unwrap().weights.iter_mut().for_each(|weight| weight.relative_error = Some(1.5));
    });
    let fails = |needles: &[&str]| {
        let ran = explain(&lying, &["--check"]);
        assert_eq!(ran.code, 1, "{}", ran.out);
        says(&ran.out, &["does not hold"]);
        says(&ran.err, needles);
    };
    fails(&["rounding", "int4-g32", "1.5e0", "1e0"]);
    changed(&plan, &lying, |plan| {
        let proofs = plan.provenance.as_mut().unwrap().bodies.iter_mut().flat_map(|body| &mut body.proofs);
        proofs.for_each(|proof| proof.lossy.clear());
    });
    fails(&["tells of these roundings: none", "to int4-g32"]);
}
