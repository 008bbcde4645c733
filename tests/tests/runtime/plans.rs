//! The runtime, on a plan written by hand and whatever adapter there is.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use warpweft_plan::{Assets, Dim, Groups, OutputKind, Plan, PlanFile, PlanWriter, Role, Source};
use warpweft_runtime::{
    AdapterChoice, Device, Fault, Model, Options, Progress, RuntimeError, StepClock, adapters, block_on, choose,
};

use crate::tiny;

fn model(options: &Options) -> Model {
    Model::from_plan(tiny::open(&tiny::plan()), options, &mut |_| ()).unwrap()
}

fn refusal(plan: &Plan, options: &Options) -> RuntimeError {
    Model::from_plan(tiny::open(plan), options, &mut |_| ()).err().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{a} is not {b}");
    }
}

#[test]
fn sequences_of_any_length_come_back_in_order() {
    let mut model = model(&Options::default());
    for lengths in [&[1][..], &[4], &[5], &[3, 1, 2], &[70, 1, 63, 64, 65, 7], &[1; 130]] {
        let sequences = tiny::sequences(lengths);
        let found = model.embed_ids(&sequences).unwrap();
        assert_eq!((found.rows, found.width), (sequences.len(), tiny::WIDTH));
        found.iter().zip(&sequences).for_each(|(row, ids)| assert_close(row, &tiny::embedding(ids)));
        let found = model.hidden_ids(&sequences).unwrap();
        let expected: Vec<f32> = sequences.iter().flat_map(|ids| tiny::hidden(ids)).flatten().collect();
        assert_close(&found.values, &expected);
    }
}

#[test]
fn steps_are_cut_at_the_row_limit() {
    let mut model = model(&Options { max_rows: Some(10), ..Options::default() });
    let sequences = tiny::sequences(&[4, 4, 4, 9, 1, 30, 2]);
    let found = model.embed_ids(&sequences).unwrap();
    found.iter().zip(&sequences).for_each(|(row, ids)| assert_close(row, &tiny::embedding(ids)));
    let cuts: Vec<_> = model.engine().submissions().iter().map(|s| (s.sequences, s.rows)).collect();
    assert_eq!(cuts, [(2, 8), (1, 4), (2, 10), (1, 30), (1, 2)]);
}

#[test]
fn nothing_in_nothing_out() {
    let mut model = model(&Options::default());
    let none: [Vec<u32>; 0] = [];
    let found = model.embed_ids(&none).unwrap();
    assert_eq!((found.rows, found.width, found.values.len()), (0, tiny::WIDTH, 0));
    assert!(model.embed::<&str>(&[]).unwrap().tokens.is_empty());
}

#[test]
fn texts_are_cut_and_never_padded() {
    let mut model = model(&Options::default());
    let texts = ["a b", "", "a b c d e a b c", "zzz"];
    let expected: [&[u32]; 4] = [&[1, 4, 5, 2], &[1, 2], &[1, 4, 5, 6, 7, 2], &[1, 3, 2]];
    assert_eq!(model.tokenize(&texts).unwrap(), expected);
    let found = model.embed(&texts).unwrap();
    assert_eq!(found.tokens, [4, 2, 6, 3]);
    found.vectors.iter().zip(expected).for_each(|(row, ids)| assert_close(row, &tiny::embedding(ids)));
    assert!(matches!(model.embed(&["a huge"]), Err(RuntimeError::Id { sequence: 0, id: 99, vocab_size: 11 })));
}

/// Bytes that remember which of them they were told of before they were read.
struct Watched {
    bytes: Vec<u8>,
    told: Mutex<Vec<Range<u64>>>,
    /// For each read behind the header: whether all of it had been told, and how many bytes from its beginning on.
    reads: Arc<Mutex<Vec<(bool, u64)>>>,
}

impl Source for Watched {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        into.copy_from_slice(&self.bytes[offset as usize..][..into.len()]);
        if offset > 0 {
            let told = self.told.lock().unwrap();
            let reach = told.iter().filter(|r| r.end > offset).map(|r| r.end - r.start.max(offset)).sum();
            self.reads.lock().unwrap().push((into.len() as u64 <= reach, reach));
        }
        Ok(())
    }

    fn expect(&self, offset: u64, bytes: u64) {
        self.told.lock().unwrap().push(offset..offset + bytes);
    }
}

#[test]
fn weights_are_expected_before_they_are_read_and_not_all_at_once() {
    let mut plan = tiny::plan();
    let rows = 1 << 20;
    let bytes = rows * 32;
    for tensor in 0..2 {
        plan.tensors[tensor].shape[0] = rows;
        plan.buffers[tensor].bytes = Dim::constant(bytes as i64);
        plan.buffers[tensor].role = Role::Weight { tensor, offset: 0 };
    }
    let mut writer = PlanWriter::new(Vec::new(), &plan, &Assets::default()).unwrap();
    for tensor in 0..2 {
        writer.tensor(tensor).unwrap();
        writer.write(&vec![0; bytes as usize]).unwrap();
    }
    let reads = Arc::default();
    let source = Watched { bytes: writer.into_inner().unwrap(), told: Mutex::default(), reads: Arc::clone(&reads) };
    Model::from_plan(PlanFile::from_source(source).unwrap(), &Options::default(), &mut |_| ()).unwrap();
    let reads = reads.lock().unwrap();
    assert!(reads.len() > 8 && reads.iter().all(|(told, _)| *told), "{reads:?}");
    assert!((16 << 20..48 << 20).contains(&reads[0].1), "{reads:?}");
}

#[test]
fn a_file_on_disk_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.weft");
    std::fs::write(&path, tiny::file(&tiny::plan())).unwrap();
    let mut weights = (0, 0);
    let mut kernels = 0;
    let progress = &mut |progress: Progress<'_>| match progress {
        Progress::Weights { done, total } => weights = (done, total),
        Progress::Kernels { total, .. } => kernels = total,
        _ => (),
    };
    let mut model = Model::open_with(&path, &Options::default(), progress).unwrap();
    assert_eq!((weights, kernels), ((352 + 32, 352 + 32), 2));
    assert_close(&model.embed_ids(&[[3]]).unwrap().values, &tiny::embedding(&[3]));
    for wrong in [folder.path().to_owned(), folder.path().join("none.weft")] {
        let error = Model::open(&wrong).err().unwrap();
        assert_eq!(error.fault(), Fault::Plan);
        assert!(error.to_string().contains(&wrong.display().to_string()), "{error}");
    }
}

#[test]
fn wrong_sequences_are_refused() {
    let mut model = model(&Options::default());
    let long = tiny::sequences(&[3, 71]);
    let error = model.embed_ids(&long).unwrap_err();
    assert!(matches!(error, RuntimeError::TooLong { sequence: 1, rows: 71, limit: 70, .. }), "{error}");
    let error = model.embed_ids(&[vec![1, 11]]).unwrap_err();
    assert!(matches!(error, RuntimeError::Id { sequence: 0, id: 11, vocab_size: 11 }), "{error}");
    assert!(matches!(model.embed_ids(&[vec![1], vec![]]), Err(RuntimeError::Empty { sequence: 1 })));
    let error = model.logits_ids(&[[1]]).unwrap_err();
    assert_eq!(error.to_string(), "the plan has no output logits; it has hidden, embedding");
    assert_eq!(error.fault(), Fault::Input);
    model.embed_ids(&[[1]]).unwrap();
}

#[test]
fn adapters_are_found_by_index_and_name() {
    let all = block_on(adapters());
    assert!(!all.is_empty(), "a Vulkan driver is needed; mesa-vulkan-drivers has one");
    for adapter in &all {
        assert_eq!(block_on(choose(&AdapterChoice::Index(adapter.index))).unwrap().name, adapter.name);
    }
    let name = AdapterChoice::from(all[0].name.to_uppercase().as_str());
    assert_eq!(block_on(choose(&name)).unwrap().index, 0);
    assert_eq!(AdapterChoice::from("4090"), AdapterChoice::Name("4090".into()));
    for wrong in [AdapterChoice::from("no such device"), AdapterChoice::from("99")] {
        let error = refusal(&tiny::plan(), &Options { adapter: wrong, ..Options::default() });
        assert!(error.to_string().contains(&all[0].name), "{error}");
        assert_eq!(error.fault(), Fault::Input);
    }
}

#[test]
fn the_best_tier_is_taken() {
    let adapter = block_on(choose(&AdapterChoice::Best)).unwrap();
    let expected = match adapter.subgroup_size {
        Some(size @ (4 | 8 | 32)) => format!("subgroup-{size}"),
        _ => "webgpu".into(),
    };
    let program = |model: &Model, rows| model.engine().program(OutputKind::Embedding, rows).unwrap().clone();
    let model = self::model(&Options::default());
    assert_eq!(program(&model, 1).target, expected);
    assert_eq!((program(&model, 4).min_rows, program(&model, 5).min_rows), (1, 5));
    let mut floor = self::model(&Options { target: Some("webgpu".into()), ..Options::default() });
    assert_eq!(program(&floor, 1).target, "webgpu");
    assert_close(&floor.embed_ids(&[[3, 4]]).unwrap().values, &tiny::embedding(&[3, 4]));
    let error = refusal(&tiny::plan(), &Options { target: Some("none".into()), ..Options::default() });
    assert_eq!(error.fault(), Fault::Device);
    let mut plan = tiny::plan();
    plan.programs.retain(|p| p.target == "webgpu");
    plan.programs.iter_mut().for_each(|p| p.tier.workgroup_bytes = 1 << 30);
    let error = refusal(&plan, &Options::default()).to_string();
    assert!(error.contains("webgpu needs 1073741824 bytes of workgroup memory"), "{error}");
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_its_numbers() {
    let error = refusal(&tiny::plan(), &Options { memory: Some(4096), ..Options::default() });
    let RuntimeError::Memory { weights, activations, transfers, limit, .. } = &error else { panic!("{error}") };
    let rows = 128;
    assert_eq!((*weights, *activations, *limit), (384, rows * 32, 4096));
    assert_eq!(*transfers, 2 * (rows * (4 + 16) + u64::from(tiny::POSITIONS) * (16 + 32) + 16));
    assert_eq!(error.fault(), Fault::Memory);
    let fits = weights + activations + transfers;
    let mut model = model(&Options { memory: Some(fits), ..Options::default() });
    let sequences = tiny::sequences(&[70, 70, 70]);
    let found = model.embed_ids(&sequences).unwrap();
    found.iter().zip(&sequences).for_each(|(row, ids)| assert_close(row, &tiny::embedding(ids)));
    assert_eq!(model.engine().account(OutputKind::Embedding, tiny::POSITIONS.into()).unwrap().total(), fits);
    let mut plan = tiny::plan();
    plan.buffers[6].bytes = plan.buffers[6].bytes * (1 << 28);
    assert!(refusal(&plan, &Options::default()).to_string().contains("above the device's limits"));
}

#[test]
fn refused_shaders_name_their_kernel() {
    for (from, to) in [("fn main", "fn other"), ("f32(", "nonsense("), ("@binding(3)", "@binding(9)")] {
        let mut plan = tiny::plan();
        plan.kernels[1].wgsl = plan.kernels[1].wgsl.replace(from, to);
        let error = refusal(&plan, &Options::default());
        assert!(matches!(&error, RuntimeError::Shader { kernel, .. } if kernel == "mean"), "{error}");
    }
    let mut plan = tiny::plan();
    plan.kernels[1].wgsl = "not WGSL".into();
    let hidden = Options { output: Some(OutputKind::Hidden), ..Options::default() };
    let mut model = Model::from_plan(tiny::open(&plan), &hidden, &mut |_| ()).unwrap();
    model.hidden_ids(&[[1]]).unwrap();
    assert!(matches!(model.embed_ids(&[[1]]), Err(RuntimeError::Shader { .. })));
    model.hidden_ids(&[[1]]).unwrap();
}

#[test]
fn a_grid_above_the_limit_cuts_the_steps() {
    let mut plan = tiny::plan();
    for program in &mut plan.programs {
        program.steps[0].grid[2] = Groups { dim: warpweft_plan::Dim::TOKENS * 900, per: 1 };
    }
    let mut model = Model::from_plan(tiny::open(&plan), &Options::default(), &mut |_| ()).unwrap();
    let sequences = tiny::sequences(&[40, 40, 40]);
    let found = model.embed_ids(&sequences).unwrap();
    found.iter().zip(&sequences).for_each(|(row, ids)| assert_close(row, &tiny::embedding(ids)));
    assert_eq!(model.engine().submissions().len(), 3);
}

#[test]
fn steps_can_be_timed() {
    for adapter in block_on(adapters()) {
        let options = Options { adapter: AdapterChoice::Index(adapter.index), ..Options::default() };
        let mut model = model(&options);
        let timestamps = match model.set_clock(Some(StepClock::Timestamps)) {
            Ok(()) => true,
            Err(error) => {
                assert!(!adapter.features.contains(wgpu::Features::TIMESTAMP_QUERY));
                assert!(error.to_string().contains("TIMESTAMP_QUERY"), "{error}");
                assert_eq!(error.fault(), Fault::Device);
                let options = Options { clock: Some(StepClock::Timestamps), ..options };
                assert!(matches!(refusal(&tiny::plan(), &options), RuntimeError::NoClock { .. }));
                false
            }
        };
        for clock in [StepClock::Timestamps, StepClock::Waits].into_iter().skip(usize::from(!timestamps)) {
            model.set_clock(Some(clock)).unwrap();
            let found = model.embed_ids(&[vec![3, 4], vec![5; 70], vec![1]]).unwrap();
            assert_close(&found.values[..tiny::WIDTH], &tiny::embedding(&[3, 4]));
            let submission = &model.engine().submissions()[0];
            assert_eq!((submission.clock, submission.context), (Some(clock), 70));
            assert!(submission.submitting <= submission.seconds);
            let steps: Vec<_> = model.engine().timed_steps().collect();
            assert_eq!(
                steps.iter().map(|s| (s.submission, s.step, s.kernel)).collect::<Vec<_>>(),
                [(0, 0, 0), (0, 1, 1)]
            );
            assert_eq!(
                (steps[0].layer, steps[0].program),
                (tiny::plan().programs[steps[0].program].steps[0].layer, submission.program)
            );
            let end = |i: usize| steps[i].time.start + steps[i].time.seconds;
            println!("{} ({}): {:?} of {:.6} s", adapter.name, clock.name(), submission.steps, submission.seconds);
            assert!(steps[0].time.start >= 0.0 && steps[1].time.start >= steps[0].time.start && end(1) > 0.0);
            assert!(end(1) <= submission.seconds * 1.1 + 1e-3, "{submission:?}");
        }
        model.set_clock(None).unwrap();
        model.embed_ids(&[[3, 4]]).unwrap();
        assert_eq!(model.engine().timed_steps().count(), 0);
    }
}

#[test]
fn kernels_run_alone() {
    let adapter = block_on(choose(&AdapterChoice::Best)).unwrap();
    let device = block_on(Device::open(&adapter)).unwrap();
    let kernel = &tiny::plan().kernels[1];
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let words = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let buffers = [floats(&x), words(&[0, 3, 0, 0]), words(&[3, 1, 0, 0]), vec![0; 32]];
    let found = block_on(device.run_kernel(kernel, [1, 1, 1], &buffers)).unwrap();
    assert_eq!(found, [floats(&x[8..16])]);
    let timed = block_on(device.time_kernel(kernel, [1, 1, 1], &buffers, 3)).unwrap();
    assert_eq!((timed.outputs, timed.seconds.len()), (found, 3));
    let wrong = [
        block_on(device.run_kernel(kernel, [70_000, 1, 1], &buffers)),
        block_on(device.run_kernel(kernel, [1; 3], &[])),
    ];
    wrong.into_iter().for_each(|result| assert!(matches!(result, Err(RuntimeError::Call { .. }))));
    let mut bad = kernel.clone();
    bad.wgsl = "@compute".into();
    assert!(matches!(block_on(device.run_kernel(&bad, [1; 3], &buffers)), Err(RuntimeError::Shader { .. })));
}

#[test]
fn a_model_and_its_calls_can_move_between_threads() {
    fn movable<T: Send>(value: T) -> T {
        value
    }
    let mut model = movable(model(&Options::default()));
    let ids = [[1u32, 2]];
    let found = block_on(movable(model.engine_mut().run(OutputKind::Embedding, &ids))).unwrap();
    assert_close(&found.values, &tiny::embedding(&ids[0]));
    let texts = ["a b"];
    assert_eq!(block_on(movable(model.engine_mut().embed(&texts))).unwrap().tokens, [4]);
}

#[test]
fn a_clock_is_tried_before_it_is_believed() {
    for adapter in block_on(adapters()) {
        let device = block_on(Device::open(&adapter)).unwrap();
        block_on(device.try_clock(StepClock::Waits)).unwrap();
        match block_on(device.try_clock(StepClock::Timestamps)) {
            Ok(()) => assert!(adapter.features.contains(wgpu::Features::TIMESTAMP_QUERY)),
            Err(RuntimeError::NoClock { missing, .. }) => assert_eq!(missing, "the feature TIMESTAMP_QUERY"),
            Err(RuntimeError::Clock { problem, .. }) => println!("{}: {problem}", adapter.name),
            Err(other) => panic!("{other}"),
        }
    }
}
