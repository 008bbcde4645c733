//! Every kernel of encoders' and decoders' plans, where their turn is, against its meaning.

use compile_model::doctor::{builtin_plans, check_plan};
use warpweft_compiler::WeightChoice;
use warpweft_models::import;
use warpweft_plan::{CacheFormat, Plan};
use warpweft_runtime::{Device, block_on};
use warpweft_tests::{compiled, compiled_caching, fixture, runners, runners_of};

fn check(plan: &Plan, device: &Device) -> usize {
    let checks = check_plan(device, plan, &mut |_, _| ()).unwrap();
    for check in &checks {
        assert_eq!(check.problem, None, "{} on {}", check.kernel, device.adapter.name);
        assert!(check.error <= check.tolerance);
    }
    checks.len()
}

fn every_kernel_of(name: &str, weights: WeightChoice) {
    let model = import(&fixture(name)).unwrap();
    for runner in runners_of(name) {
        let device = block_on(Device::open(&runner.adapter)).unwrap();
        let plan = compiled(&model, &[&runner.target.name], weights).plan;
        let checked = check(&plan, &device);
        // Parts of operators mean nothing by themselves.
        let whole = plan.kernels.iter().filter(|kernel| !kernel.meaning.is_empty()).count();
        assert_eq!(checked, whole, "{name} for {runner}");
    }
}

#[test]
fn bert_in_bf16() {
    every_kernel_of("bert", WeightChoice::Bf16);
}

#[test]
fn bert_with_a_head() {
    every_kernel_of("bert-mlm", WeightChoice::Keep);
}

#[test]
fn roberta() {
    every_kernel_of("roberta", WeightChoice::Keep);
}

#[test]
fn xlm_roberta() {
    every_kernel_of("xlm-roberta", WeightChoice::Keep);
}

#[test]
fn distilbert_in_f16() {
    every_kernel_of("distilbert", WeightChoice::F16);
}

#[test]
fn modernbert() {
    every_kernel_of("modernbert", WeightChoice::Keep);
}

#[test]
fn llama() {
    every_kernel_of("llama", WeightChoice::Keep);
}

#[test]
fn qwen3_in_f16() {
    every_kernel_of("qwen3", WeightChoice::F16);
}

#[test]
fn gemma2() {
    every_kernel_of("gemma2", WeightChoice::Keep);
}

#[test]
fn caches_of_each_format() {
    let model = import(&fixture("qwen3")).unwrap();
    let runners = runners();
    let formats = [CacheFormat::F16, CacheFormat::Int8, CacheFormat::Fp8];
    for (format, runner) in formats.into_iter().zip(runners.iter().cycle()) {
        let device = block_on(Device::open(&runner.adapter)).unwrap();
        let plan = compiled_caching(&model, &[&runner.target.name], WeightChoice::Keep, format).plan;
        assert!(check(&plan, &device) > 0);
    }
}

/// Each on one target, in turns; the command's own test has all of them on the target that it chooses.
#[test]
fn built_in_models() {
    let runners = runners();
    for (i, runner) in runners.iter().enumerate() {
        let device = block_on(Device::open(&runner.adapter)).unwrap();
        for plan in builtin_plans(runner.target).unwrap().iter().skip(i).step_by(runners.len()) {
            assert!(check(plan, &device) > 0);
        }
    }
}

#[test]
fn a_wrong_kernel_is_found() {
    let model = import(&fixture("bert")).unwrap();
    let mut plan = compiled(&model, &["webgpu"], WeightChoice::Keep).plan;
    let runner = &runners()[0];
    let device = block_on(Device::open(&runner.adapter)).unwrap();
    let last = plan.kernels.len() - 1;
    let wgsl = plan.kernels[last].wgsl.clone();
    // A result that is off by half, one that writes past its rows, and a shader that is refused.
    let store = wgsl.find("fn store(").unwrap();
    let body = store + wgsl[store..].find('{').unwrap() + 1;
    for (insert, problem) in [("out[0] = vec4<f32>(0.5);", "found 0.5"), ("nonsense;", "refused")] {
        plan.kernels[last].wgsl = format!("{}{insert}{}", &wgsl[..body], &wgsl[body..]);
        let checks = check_plan(&device, &plan, &mut |_, _| ()).unwrap();
        let wrong: Vec<_> = checks.iter().filter(|check| check.problem.is_some()).collect();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        warpweft_tests::says(wrong[0].problem.as_deref().unwrap(), &[problem]);
    }
}
