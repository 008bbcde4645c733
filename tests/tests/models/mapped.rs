//! Weights that are pages of the plan file, where a driver on the CPU can bind those.

use std::fs;
use std::path::Path;

use warpweft_compiler::{Compiled, WeightChoice};
use warpweft_models::{Imported, import};
use warpweft_plan::{OutputKind, Plan};
use warpweft_runtime::{Model, Options, block_on};
use warpweft_tests::{Runner, compiled, demo, quantized, runners, write_plan};

const IDS: [u32; 24] = [1, 17, 400, 3, 3, 250, 8, 99, 1000, 2, 5, 77, 1, 17, 400, 3, 3, 250, 8, 99, 1000, 2, 5, 77];

/// The driver that is known to take a file's pages.
const TAKES: &str = "Mesa 22.3";

fn open(path: &Path, runner: &Runner, copy_weights: bool) -> Model {
    let options = Options { copy_weights, output: Some(OutputKind::Logits), ..runner.options() };
    Model::open_with(path, &options, &mut |_| ()).unwrap()
}

fn logits(model: &mut Model) -> Vec<f32> {
    let all = model.logits_ids(&[&IDS[..]]).unwrap().values;
    let one = model.logits_ids(&[&IDS[..1]]).unwrap().values;
    [all, one].concat()
}

/// What is an image is mapped, and what comes out is the same to the last bit.
fn same(model: &Imported, made: &Compiled, runner: &Runner) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.weft");
    write_plan(model, made, &path);
    let mut copied = open(&path, runner, true);
    assert_eq!(copied.engine().device().mapped(), 0, "{runner}");
    let expected = logits(&mut copied);
    drop(copied);

    let mut mapped = open(&path, runner, false);
    let (bytes, held) = (mapped.engine().device().mapped(), mapped.engine().held().weights);
    println!("{runner}: {bytes} of {held} bytes are mapped");
    let all = bytes as f64 > 0.9 * held as f64;
    match runner.target.images > 0 && runner.adapter.is_software() {
        // Other versions may not take the pages; then all is copied.
        true => assert!(all || bytes == 0 && !runner.adapter.driver.contains(TAKES), "{runner}: {bytes} of {held}"),
        false => assert_eq!(bytes, 0, "{runner}"),
    }
    assert_eq!(logits(&mut mapped), expected, "{runner}");
    // Who replaces or removes a file leaves those alone who have it.
    fs::remove_file(&path).unwrap();
    assert_eq!(logits(&mut mapped), expected, "{runner}");
    let pages = || fs::read_to_string("/proc/self/maps").unwrap().contains(path.to_str().unwrap());
    assert_eq!(pages(), bytes > 0, "{runner}");
    drop(mapped);
    assert!(!pages(), "{runner}: pages of the file are left");
}

#[test]
fn mapped_weights_are_those_of_the_file() {
    let model = import(&demo().join("model")).unwrap();
    for runner in runners() {
        let target = runner.target.name.as_str();
        same(&model, &compiled(&model, &[target], WeightChoice::Keep), &runner);
        same(&model, &quantized(&model, &[target], "int4"), &runner);
    }
}

#[test]
fn replacing_a_weight_leaves_the_file_and_its_other_users_alone() {
    let model = import(&demo().join("model")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.weft");
    let runner = runners().into_iter().max_by_key(|r| (r.target.images, r.target.subgroup_size)).unwrap();
    write_plan(&model, &compiled(&model, &[&runner.target.name], WeightChoice::Keep), &path);
    let before = fs::read(&path).unwrap();
    let [mut one, mut other] = [0, 1].map(|_| open(&path, &runner, false));
    let expected = logits(&mut one);
    let largest = largest(one.engine().plan());
    let bytes = one.engine().plan().tensors[largest].bytes().unwrap();
    block_on(one.engine_mut().replace_tensor(largest, &vec![0; bytes as usize])).unwrap();
    assert_ne!(logits(&mut one), expected);
    assert_eq!(logits(&mut other), expected);
    assert!(fs::read(&path).unwrap() == before, "the file changed");
    // And the plan that is opened next is the one in the file.
    drop(one);
    assert_eq!(logits(&mut open(&path, &runner, false)), expected);
}

/// The largest tensor.
fn largest(plan: &Plan) -> usize {
    (0..plan.tensors.len()).max_by_key(|&tensor| plan.tensors[tensor].bytes()).unwrap()
}
