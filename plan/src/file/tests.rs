//! Round trips, damage and hostile files.
#![allow(clippy::unwrap_used, clippy::panic)]

mod sample;

use proptest::prelude::*;

use super::*;
use crate::provenance::*;
use crate::*;
use sample::*;

#[test]
fn reads_what_was_written() {
    let file = PlanFile::from_bytes(bytes()).unwrap();
    assert_eq!((file.plan(), file.assets()), (&sample(), &assets()));
    for (i, expected) in weights().into_iter().enumerate() {
        let mut found = vec![0; expected.len() - 4];
        file.read_tensor(i, 4, &mut found).unwrap();
        assert_eq!(found, expected[4..]);
        assert!(file.read_tensor(i, 8, &mut found).is_err());
    }
    assert!(file.read_tensor(2, 0, &mut [0]).is_err());
    assert!(file.read_tensor(0, u64::MAX, &mut [0]).is_err());
    assert!(file.expect_tensor(0, 0, 4).is_ok() && file.expect_tensor(0, 4, u64::MAX - 4).is_err());
}

#[test]
fn is_a_safetensors_file() {
    let bytes = bytes();
    let (length, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((length + 8) % 64, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["license"], "Apache-2.0");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 2);
    assert_eq!(tensors.tensor("a \"b\" ü").unwrap().data(), weights()[1]);
}

#[test]
fn a_file_appears_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.weft");
    let entries = || std::fs::read_dir(folder.path()).unwrap().count();
    let writer = PlanWriter::create(&path, &sample(), &assets()).unwrap();
    assert!(!path.exists());
    assert!(writer.finish().unwrap_err().to_string().contains("0 of 2"));
    assert_eq!(entries(), 0);
    drop(PlanWriter::create(&path, &sample(), &assets()).unwrap());
    assert_eq!(entries(), 0);
    let mut writer = PlanWriter::create(&path, &sample(), &assets()).unwrap();
    fill(&mut writer);
    assert!(!path.exists());
    std::fs::write(&path, "an older file").unwrap();
    writer.finish().unwrap();
    assert_eq!(entries(), 1);
    assert_eq!(PlanFile::open(&path).unwrap().plan(), &sample());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions();
    let ordinary = folder.path().join("ordinary");
    std::fs::write(&ordinary, "").unwrap();
    assert_eq!(mode(&path), mode(&ordinary));
    for wrong in [folder.path().to_owned(), folder.path().join("none").join("m.weft")] {
        assert!(matches!(PlanWriter::create(&wrong, &sample(), &assets()), Err(PlanError::Io { .. })));
        let text = PlanFile::open(&wrong).unwrap_err().to_string();
        assert!(text.contains(&wrong.display().to_string()), "{text}");
    }
}

#[test]
fn the_writer_keeps_count() {
    let mut writer = PlanWriter::new(Vec::new(), &sample(), &assets()).unwrap();
    assert!(writer.write(&[0]).is_err());
    assert!(writer.tensor(1).is_err());
    let mut writer = PlanWriter::new(Vec::new(), &sample(), &assets()).unwrap();
    writer.tensor(0).unwrap();
    assert!(writer.write(&[0; 353]).unwrap_err().to_string().contains("needs 352 more"));
    assert!(writer.tensor(1).unwrap_err().to_string().contains("needs 352 more"));
    let mut reserved = Assets::default();
    reserved.insert("wgsl/x", "");
    assert!(PlanWriter::new(Vec::new(), &sample(), &reserved).is_err());
}

#[test]
fn every_flipped_header_byte_is_found() {
    let good = bytes();
    let end = good.len() - 400;
    for at in 0..end {
        for mask in [0x01, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= mask;
            assert!(PlanFile::from_bytes(bad).is_err(), "byte {at} ^ {mask}");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_found() {
    let good = bytes();
    for end in 0..good.len() {
        assert!(PlanFile::from_bytes(good[..end].to_vec()).is_err(), "{end}");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(PlanFile::from_bytes(longer), Err(PlanError::Length { .. })));
    let mut absurd = good;
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(PlanFile::from_bytes(absurd), Err(PlanError::NotAPlan(_))));
}

#[test]
fn another_version_is_named() {
    let mut bytes = bytes();
    let at = bytes.windows(3).position(|w| w == b"\"1\"").unwrap() + 1;
    bytes[at] = b'7';
    let error = PlanFile::from_bytes(bytes).unwrap_err();
    assert!(matches!(&error, PlanError::Version { found, expected } if found == "7" && expected == "1"), "{error}");
}

/// The second kernel gets a cache in place of its gain and a page table in place of its sequences.
fn cache_bound_with(plan: &mut Plan, table: Input, window: Option<u32>) {
    plan.buffers[4] =
        Buffer { name: "cache".into(), role: Role::Cache { window, rows: ROWS }, bytes: Dim::CONTEXT * 32 };
    plan.buffers[5] = Buffer { name: "pages".into(), role: Role::Input(table), bytes: table.bytes() };
}

#[test]
fn caches_go_with_their_own_pages() {
    for (table, window) in [(Input::Pages, None), (Input::WindowPages, Some(0)), (Input::WindowPages, Some(63))] {
        let mut plan = sample();
        cache_bound_with(&mut plan, table, window);
        plan.check().unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }
}

#[test]
fn lies_are_named() {
    type Change = Box<dyn FnOnce(&mut Plan)>;
    fn rounded(change: impl FnOnce(&mut Quantization) + 'static) -> Change {
        Box::new(|p| change(p.quantization.as_mut().unwrap()))
    }
    fn rounding(step: LossyStep) -> Change {
        Box::new(move |p| p.provenance.as_mut().unwrap().bodies[0].proofs[0].lossy[0] = step)
    }
    fn tap(buffer: usize) -> Tap {
        Tap { buffer, width: 5, stride: 8 }
    }
    let cases: Vec<(&str, Change)> = vec![
        ("vocab_size", Box::new(|p| p.model.vocab_size = 0)),
        ("max_text_tokens: found 65", Box::new(|p| p.model.max_text_tokens = 65)),
        ("found f32 [4294967295, 4294967295]", Box::new(|p| p.tensors[0].shape = vec![0xffff_ffff; 2])),
        ("unique names", Box::new(|p| p.tensors[1].name = "table".into())),
        ("unique names", Box::new(|p| p.kernels[1].name = "gather".into())),
        ("found 320 bytes at offset 36", Box::new(|p| p.buffers[0].role = Role::Weight { tensor: 0, offset: 36 })),
        ("found 33", Box::new(|p| p.buffers[0].role = Role::Weight { tensor: 0, offset: 33 })),
        (
            "at offset 18446744073709551612",
            Box::new(|p| p.buffers[0].role = Role::Weight { tensor: 0, offset: u64::MAX - 3 }),
        ),
        ("tensor 2, expected below 2", Box::new(|p| p.buffers[0].role = Role::Weight { tensor: 2, offset: 0 })),
        ("expected 4*tokens for Ids", Box::new(|p| p.buffers[1].bytes = Dim::TOKENS * 8)),
        ("found -32*tokens", Box::new(|p| p.buffers[3].bytes = Dim::TOKENS * -32)),
        ("found 2*tokens, expected multiples of 4", Box::new(|p| p.buffers[3].bytes = Dim::TOKENS * 2)),
        (
            "32*context for 1 heads of 8 columns in f32",
            Box::new(|p| p.buffers[3].role = Role::Cache { window: None, rows: ROWS }),
        ),
        (
            "window: found 64, expected a window below 64",
            Box::new(|p| {
                let role = Role::Cache { window: Some(64), rows: ROWS };
                p.buffers.push(Buffer { name: "cache".into(), role, bytes: Dim::CONTEXT * 32 });
            }),
        ),
        ("both those with and without a window", Box::new(|p| cache_bound_with(p, Input::Pages, Some(3)))),
        ("both those with and without a window", Box::new(|p| cache_bound_with(p, Input::WindowPages, None))),
        ("workgroup: found [0, 1, 1]", Box::new(|p| p.kernels[0].workgroup[0] = 0)),
        ("workgroup: found 512", Box::new(|p| p.kernels[0].workgroup[0] = 512)),
        ("loop_trips: found 65536, expected at most 65535", Box::new(|p| p.kernels[0].loop_trips = 65_536)),
        ("cost: found -1", Box::new(|p| p.kernels[0].cost.once.loads = -1.0)),
        ("cost: found inf", Box::new(|p| p.kernels[0].cost.key.fmas = f64::INFINITY)),
        ("cost: found NaN", Box::new(|p| p.kernels[0].cost.disorder = f64::NAN)),
        ("a family that is empty", Box::new(|p| p.programs[0].tunings = vec![tuning("", 0, 0)])),
        ("there twice", Box::new(|p| p.programs[0].tunings = vec![tuning("a", 0, 0), tuning("a", 0, 0)])),
        ("kernel 9 in place of 0", Box::new(|p| p.programs[0].tunings = vec![tuning("a", 0, 9)])),
        ("which has other bindings", Box::new(|p| p.programs[0].tunings = vec![tuning("a", 0, 1)])),
        (
            "grid.x: per",
            Box::new(|p| {
                p.programs[0].tunings = vec![tuning("a", 0, 0)];
                p.programs[0].tunings[0].swaps[0].grid[0].per = 0;
            }),
        ),
        ("wgsl: found 1048577", Box::new(|p| p.kernels[0].wgsl = " ".repeat((1 << 20) + 1))),
        ("\"ids\" twice", Box::new(|p| p.kernels[0].bindings[0].name = "ids".into())),
        ("kernel: found 2, expected below 2", Box::new(|p| p.programs[0].steps[0].kernel = 2)),
        ("binding ids: found buffer 9", Box::new(|p| p.programs[0].steps[0].buffers[1] = 9)),
        ("buffers: found 3, expected 4", Box::new(|p| p.programs[0].steps[0].buffers.truncate(3))),
        ("found ReadWrite of a buffer", Box::new(|p| p.kernels[0].bindings[0].access = Access::ReadWrite)),
        ("found Uniform of a buffer", Box::new(|p| p.kernels[0].bindings[0].access = Access::Uniform)),
        (
            "images: found 1, expected at most the tier's 0",
            Box::new(|p| p.kernels[0].bindings[0].access = Access::Image),
        ),
        (
            "an image of 312 bytes, expected a multiple of 16",
            Box::new(|p| {
                p.programs.drain(..2);
                p.programs[0].min_rows = 1;
                p.kernels[0].bindings[0].access = Access::Image;
                p.buffers[0].bytes = Dim::constant(312);
            }),
        ),
        (
            "found Image of buffer 3, expected an image in all steps or in none",
            Box::new(|p| {
                p.programs.drain(..2);
                p.programs[0].min_rows = 1;
                p.kernels[1].bindings[2].access = Access::Image;
            }),
        ),
        (
            "images: found 2, expected at most the tier's 1",
            Box::new(|p| {
                p.programs.drain(..2);
                p.programs[0].min_rows = 1;
                p.kernels[0].bindings[0].access = Access::Image;
                p.kernels[0].bindings[3].access = Access::ImageWrite;
            }),
        ),
        (
            "found ImageWrite of a buffer with the role Output",
            Box::new(|p| {
                p.programs.drain(..2);
                p.programs[0].min_rows = 1;
                p.kernels[1].bindings[4].access = Access::ImageWrite;
            }),
        ),
        ("which no step before wrote", Box::new(|p| p.programs[0].steps.swap(0, 1))),
        ("written and bound twice", Box::new(|p| p.programs[0].steps[1].buffers[4] = 3)),
        ("grid.x: per", Box::new(|p| p.programs[0].steps[0].grid[0].per = 0)),
        ("at most 65535", Box::new(|p| p.programs[0].steps[0].grid[1].dim = Dim::constant(70_000))),
        ("layer: found Some(1)", Box::new(|p| p.programs[0].steps[0].layer = Some(1))),
        ("subgroup_size: found 7", Box::new(|p| p.programs[2].tier.subgroup_size = Some(7))),
        ("a weight of 320 bytes", Box::new(|p| p.programs[2].tier.binding_bytes = 319)),
        ("storage bindings: found 4", Box::new(|p| p.programs[2].tier.storage_buffers = 3)),
        ("expected the role Output", Box::new(|p| p.programs[0].output.buffer = 3)),
        ("output: buffer: found 7", Box::new(|p| p.programs[0].output.buffer = 7)),
        ("rows: found tokens", Box::new(|p| p.programs[0].output.rows = Dim::TOKENS)),
        ("width 5 and stride 4", Box::new(|p| p.programs[0].output.stride = 4)),
        ("at least 36*sequences", Box::new(|p| p.programs[0].output.stride = 9)),
        ("quantization: predicted_loss: found NaN", rounded(|q| q.predicted_loss = Some(f64::NAN))),
        ("weight 0 (table): error: found -2", rounded(|q| q.weights[0].error = Some(-2.0))),
        ("relative_error: found inf", rounded(|q| q.weights[1].relative_error = Some(f64::INFINITY))),
        ("weight 1 (table): found a name that another", rounded(|q| q.weights[1].name = "table".into())),
        ("weight 1 (head): format: found 61 bytes", rounded(|q| q.weights[1].format = Some("x".repeat(61)))),
        ("text: found 0 bytes", rounded(|q| q.calibration.as_mut().unwrap().text.clear())),
        (
            "region 0: rounded weight: found 2, expected below 2",
            rounding(LossyStep::Weight { weight: 2, format: "int8".into(), stored: false }),
        ),
        (
            "lossy step 0: format: found a name of 0 bytes",
            rounding(LossyStep::Activations { line: 0, format: String::new() }),
        ),
        (
            "lossy step 0: line: found 2, expected below 2",
            rounding(LossyStep::Activations { line: 2, format: "int8".into() }),
        ),
        ("tap 0: buffer: found 9", Box::new(|p| p.programs[0].taps = vec![tap(9)])),
        ("tap 0: buffer: found Scratch, expected the role Output", Box::new(|p| p.programs[0].taps = vec![tap(3)])),
        ("tap 0: bytes of the buffer: found 32*sequences", Box::new(|p| p.programs[0].taps = vec![tap(6)])),
        ("found a program from 4 rows, expected one from 5", Box::new(|p| p.programs[0].min_rows = 4)),
        ("none from 9 rows", Box::new(|p| p.programs[0].max_rows = Some(8))),
        ("none after an open range", Box::new(|p| p.programs[1].max_rows = None)),
        ("programs that differ", Box::new(|p| p.programs[1].tier.binding_bytes = 4096)),
        ("programs: found none", Box::new(|p| p.programs.clear())),
    ];
    for (expected, change) in cases {
        let text = refusal(change);
        assert!(text.contains(expected), "{text:?} does not contain {expected:?}");
    }
}

/// Where a plan comes from is checked like the rest.
#[test]
fn lies_about_provenance_are_named() {
    type Change = fn(&mut Provenance);
    let cases: [(&str, Change); 24] = [
        ("text 2: found 1048577 bytes", |p| p.texts[2] = " ".repeat((1 << 20) + 1)),
        ("rule 1: found \"fuse\" twice", |p| p.rules[1].name = "fuse".into()),
        ("rule 0: found a name of 0 bytes", |p| p.rules[0].name.clear()),
        ("body 0: formula: found 4, expected below 4", |p| p.bodies[0].formula = 4),
        ("stage 0: found a name of 201", |p| p.bodies[0].stages[0].name = "x".repeat(201)),
        ("stage 0: rule: found 2", |p| p.bodies[0].stages[0].rounds[0].applied[0].0 = 2),
        ("variant 1: found webgpu, 2 to Some(4)", |p| p.bodies[0].variants[1].min_rows = 2),
        ("variant 1: found the target and rows of another", |p| {
            p.bodies[0].variants[1] = p.bodies[0].variants[0].clone();
        }),
        ("extracted: found 9", |p| p.bodies[0].variants[0].extracted = 9),
        ("seconds: found NaN", |p| p.bodies[0].variants[0].seconds = f64::NAN),
        ("call 1: seconds: found -1", |p| p.bodies[0].variants[0].calls[1].seconds = -1.0),
        ("call 0: kernel: found 2", |p| p.bodies[0].variants[0].calls[0].kernel = Some(2)),
        ("call 0: line: found 1, expected below 1", |p| p.bodies[0].variants[0].calls[0].nodes[0] = 1),
        ("call 0: line: found 2, expected below 2", |p| p.bodies[0].variants[0].calls[0].formula[0] = 2),
        ("call 0: proof: found 1", |p| p.bodies[0].variants[0].calls[0].proof = Some(1)),
        ("call 1: call: found 2", |p| p.bodies[0].variants[0].calls[1].within[0] = 2),
        ("columns: found 1 from 18446744073709551615", |p| {
            p.bodies[0].variants[0].calls[0].columns = Some((u64::MAX, 1));
        }),
        ("proof 0: step 1: after: found 7", |p| p.bodies[0].proofs[0].steps[1].after = 7),
        ("proof 0: line: found 3", |p| p.bodies[0].proofs[0].results[0] = FormulaValue::Line(3)),
        ("proof 0: results: found none", |p| p.bodies[0].proofs[0].results.clear()),
        ("region 0: body: found 1", |p| p.regions[0].body = 1),
        ("step 0: layer: found Some(0), expected None", |p| p.regions[0].layer = Some(0)),
        ("program 2: found 1 regions and 2 calls", |p| p.origins[2].regions.truncate(1)),
        ("step 1: kernel: found Some(0), expected 1", |p| p.origins[0].calls[1] = 0),
    ];
    for (expected, change) in cases {
        let text = refusal(|plan| change(plan.provenance.as_mut().unwrap()));
        assert!(text.contains(expected), "{text:?} does not contain {expected:?}");
    }
}

/// A plan without a word about where it comes from is a plan.
#[test]
fn provenance_is_optional() {
    let plan = Plan { provenance: None, ..sample() };
    let mut writer = PlanWriter::new(Vec::new(), &plan, &assets()).unwrap();
    fill(&mut writer);
    let file = PlanFile::from_bytes(writer.into_inner().unwrap()).unwrap();
    assert_eq!((file.plan(), file.assets()), (&plan, &assets()));
}

#[test]
fn class_counts_follow_programs() {
    let plan = sample();
    let provenance = plan.provenance.as_ref().unwrap();
    assert_eq!(provenance.class_counts(&plan, 0), ClassCounts { exact: 1, reassociates: 1, lossy: 2 });
    assert_eq!(provenance.class_counts(&plan, 3), ClassCounts::default());
}

#[test]
fn a_header_that_contradicts_the_plan_is_refused() {
    let good = bytes();
    let text = String::from_utf8(good[8..good.len() - 400].to_vec()).unwrap();
    for (from, to, expected) in [
        ("\"data_offsets\":[0,352]", "\"data_offsets\":[0,351]", "351"),
        ("\"dtype\":\"F32\"", "\"dtype\":\"F16\"", "F16"),
        ("\"shape\":[3, 8]", "\"shape\":[8, 3]", "[8, 3]"),
        ("\"license\":", "\"wgsl/no\":", "shader of no kernel"),
        ("\"wgsl/pool\":", "\"wgsl/loop\":", "has no \"wgsl/pool\""),
        ("\"license\":\"Ap", "\"tokenizer\":\"", "twice"),
        ("\"table\":{", "\"tablf\":{", "table"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = PlanFile::from_bytes(resealed(&text.replacen(from, to, 1))).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
}

/// A build that is killed cannot clean up, so there must be nothing to clean.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_writer_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let writer = PlanWriter::create(folder.path().join("m.weft"), &sample(), &assets()).unwrap();
    std::mem::forget(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A file with the given header text, a right length and a right checksum: what an attacker would write.
fn resealed(header: &str) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    header::seal(&mut bytes);
    bytes.extend(weights().concat());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 512 }))]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(PlanFile::from_bytes(bytes).is_err());
    }

    #[test]
    fn random_bytes_behind_a_true_length_are_refused(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [&(tail.len() as u64).to_le_bytes()[..], &tail].concat();
        prop_assert!(PlanFile::from_bytes(bytes).is_err());
    }

    /// Sealed anew after any change of digits, signs and letters, a file is refused or holds a plan that passes the check.
    #[test]
    fn sealed_lies_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12), 1..6)) {
        let good = bytes();
        let mut text = good[8..good.len() - 400].to_vec();
        for (index, what) in changes {
            let start = text.iter().position(|&b| b == b',').unwrap() + 40;
            let at = start + index.index(text.len() - start);
            text[at] = b"0149-+\",:[} "[what];
        }
        let Ok(text) = String::from_utf8(text) else { return Ok(()) };
        if let Ok(file) = PlanFile::from_bytes(resealed(&text)) {
            prop_assert!(file.plan().check().is_ok());
        }
    }

    /// The same for numbers: each may become any other.
    #[test]
    fn sealed_numbers_never_panic(index in any::<prop::sample::Index>(), value in any::<i64>()) {
        let json = serde_json::to_string(&sample()).unwrap();
        let numbers: Vec<_> = json.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
        let at = numbers[index.index(numbers.len())];
        let changed = format!("{}{value}{}", &json[..at], &json[at + 1..]);
        if let Ok(plan) = serde_json::from_str::<Plan>(&changed) {
            let _ = plan.check();
        }
    }
}

fn tuning(family: &str, kernel: usize, with: usize) -> Tuning {
    Tuning { family: family.into(), swaps: vec![Swap { kernel, with, grid: [Groups::ONE; 3] }] }
}

#[test]
fn a_family_gets_its_kernels() {
    let mut plan = sample();
    plan.kernels.push(Kernel { name: "faster".into(), ..plan.kernels[0].clone() });
    let mut tuning = tuning("nvidia 10de", 0, 2);
    tuning.swaps[0].grid[0].per = 7;
    plan.programs[0].tunings = vec![tuning];
    let mut writer = PlanWriter::new(Vec::new(), &plan, &Assets::default()).unwrap();
    for (index, tensor) in plan.tensors.iter().enumerate() {
        writer.tensor(index).unwrap();
        writer.write(&vec![0; tensor.bytes().unwrap() as usize]).unwrap();
    }
    let mut file = PlanFile::from_bytes(writer.into_inner().unwrap()).unwrap();
    assert_eq!(file.tune("amd 1002"), 0);
    assert_eq!(*file.plan(), plan);
    assert_eq!(file.tune("nvidia 10de"), 1);
    let steps = &file.plan().programs[0].steps;
    assert_eq!((steps[0].kernel, steps[0].grid[0].per, &steps[1]), (2, 7, &plan.programs[0].steps[1]));
    assert_eq!(file.plan().programs[1], plan.programs[1]);
    file.plan().check().unwrap();
}
