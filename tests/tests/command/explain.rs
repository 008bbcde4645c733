//! Proofs as the command shows and checks them.

use std::path::Path;

use warpweft_plan::{Plan, PlanFile, PlanWriter};
use warpweft_tests::says;

use crate::{Built, run, text};

/// The same plan after a change, as a file of its own.
pub(crate) fn changed(from: &Path, to: &Path, change: impl FnOnce(&mut Plan)) {
    let file = PlanFile::open(from).unwrap();
    let mut plan = file.plan().clone();
    change(&mut plan);
    let mut writer = PlanWriter::new(Vec::new(), &plan, file.assets()).unwrap();
    for (i, tensor) in plan.tensors.iter().enumerate() {
        let mut bytes = vec![0; tensor.bytes().unwrap() as usize];
        file.read_tensor(i, 0, &mut bytes).unwrap();
        writer.tensor(i).unwrap();
        writer.write(&bytes).unwrap();
    }
    std::fs::write(to, writer.into_inner().unwrap()).unwrap();
}

#[test]
fn proofs_read_as_algebra() {
    let built = Built::of_fixture("bert");
    let plan = built.plan();
    let people = run(&["explain", text(&plan), "--layer", "1", "--rows", "40"]);
    assert_eq!(people.code, 0, "{}", people.err);
    says(
        &people.out,
        &[
            "layer 1, webgpu, 17 rows or more",
            "from outside",
            "query.weightᵀ",
            "merge-siblings (exact)",
            "[query.weight; key.weight; value.weight]",
            "attention (reassociates)",
            "from kernel 0",
            "«",
        ],
    );
    let one = run(&["explain", text(&plan), "--layer", "0", "--kernel", "attention_", "--json"]).json();
    let kernels = one["parts"][0]["kernels"].as_array().unwrap();
    assert_eq!((one["parts"].as_array().unwrap().len(), kernels.len()), (1, 1));
    let steps: Vec<&str> =
        kernels[0]["steps"].as_array().unwrap().iter().map(|s| s["rule"].as_str().unwrap()).collect();
    assert_eq!(steps.first(), Some(&"scores"));
    assert!(steps.contains(&"attention"), "{steps:?}");
    let number = kernels[0]["number"].to_string();
    let same = run(&["explain", text(&plan), "--layer", "0", "--kernel", &number, "--json"]).json();
    assert_eq!(same, one);
}

#[test]
fn proofs_are_replayed() {
    let built = Built::of_fixture("llama");
    let plan = built.plan();
    let ran = run(&["explain", text(&plan), "--check"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    says(
        &ran.out,
        &["linear-silu (exact): error 0", "attention-grouped (reassociates): error", "kernels mean what was proved"],
    );
    let document = run(&["explain", text(&plan), "--check", "--json"]).json();
    assert_eq!(document["faults"].as_array().unwrap().len(), 0);
    assert!(document["meanings"].as_u64().unwrap() > 10);
    let some = run(&["explain", text(&plan), "--check", "--layer", "0", "--rows", "1", "--json"]).json();
    let count = |d: &serde_json::Value| d["proofs"].as_array().unwrap().len();
    assert!((1..count(&document)).contains(&count(&some)));
    let report = run(&["inspect", text(&plan), "--json"]).json();
    for program in report["programs"].as_array().unwrap() {
        let steps = &program["proof_steps"];
        assert!(steps["reassociates"].as_u64().unwrap() > 0 && steps["lossy"] == 0, "{program}");
    }
}

#[test]
fn what_cannot_be_explained_is_said() {
    let built = Built::of_fixture("bert");
    let plan = built.plan();
    let plan = text(&plan);
    run(&["explain", plan, "--layer", "7"]).refuses(2, &["no layer 7", "0 to 2"]);
    run(&["explain", plan, "--kernel", "fft"]).refuses(1, &["\"fft\"", "--kernel"]);
    run(&["explain", plan, "--target", "cuda"]).refuses(1, &["cuda", "webgpu"]);
    run(&["explain", plan, "--rows", "0"]).refuses(2, &["0", "--rows"]);
    run(&["explain", "no such plan"]).refuses(1, &["no such file"]);
    let silent = built.file("silent.weft");
    changed(&built.plan(), &silent, |plan| plan.provenance = None);
    run(&["explain", text(&silent)]).refuses(1, &["does not tell", "compile the checkpoint again"]);
    assert_eq!(
        run(&["inspect", text(&silent), "--json"]).json()["programs"][0]["proof_steps"],
        serde_json::Value::Null
    );
    assert!(run(&["inspect", text(&silent)]).out.contains('?'));
}

/// A plan from a stranger who lies about a proof, or tells nonsense, is found out.
#[test]
fn lies_do_not_pass_the_check() {
    let built = Built::of_fixture("bert");
    let lying = built.file("lying.weft");
    changed(&built.plan(), &lying, |plan| {
        for text in &mut plan.provenance.as_mut().unwrap().texts {
            *text = text.replace("(gelu (add acc", "(relu (add acc");
        }
    });
    let ran = run(&["explain", text(&lying), "--check"]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    says(&ran.out, &["does not hold"]);
    says(&ran.err, &["is nothing that linear-gelu does"]);
    let nonsense = built.file("nonsense.weft");
    changed(&built.plan(), &nonsense, |plan| {
        let provenance = plan.provenance.as_mut().unwrap();
        let formula = provenance.bodies[1].formula;
        provenance.texts[formula] = provenance.texts[formula].replace("(softmax", "(hardmax");
    });
    let ran = run(&["explain", text(&nonsense), "--check"]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    says(&ran.err, &["formula is no graph", "hardmax"]);
}
