//! A plan with everything in it, and its file.

use super::*;

pub(super) fn binding(name: &str, access: Access) -> Binding {
    Binding { name: name.into(), access }
}

/// Rows of a cache of 32 bytes.
pub(super) const ROWS: CacheRows = CacheRows { format: CacheFormat::F32, heads: 1, columns: 8 };

/// A plan with every role, two ranges and two tiers.
pub(super) fn sample() -> Plan {
    let groups = |dim| Groups { dim, per: 64 };
    let kernel = |name: &str, bindings| Kernel {
        name: name.into(),
        wgsl: format!("// {name} \"quoted\" é\n"),
        workgroup: [64, 1, 1],
        bindings,
        loop_trips: 12,
        cost: Default::default(),
        meaning: "(gather table ids)".into(),
    };
    let step = |kernel, buffers, dim| Step {
        kernel,
        buffers,
        grid: [groups(dim), Groups::ONE, Groups::ONE],
        layer: None,
        bytes: Dim::TOKENS * 64,
        flops: Dim::TOKENS * 3,
        live: Dim::TOKENS * 32,
    };
    let steps = vec![step(0, vec![0, 1, 2, 3], Dim::TOKENS * 8), step(1, vec![4, 5, 3, 2, 6], Dim::SEQUENCES * 8)];
    let tier = |subgroup_size| Tier {
        subgroup_size,
        int64: false,
        workgroup_bytes: 16_384,
        workgroup_invocations: 256,
        binding_bytes: 1 << 27,
        storage_buffers: 8,
        images: u32::from(subgroup_size.is_some()),
    };
    let program = |target: &str, size, min_rows, max_rows| Program {
        target: target.into(),
        tier: tier(size),
        min_rows,
        max_rows,
        output: Output { kind: OutputKind::Embedding, buffer: 6, rows: Dim::SEQUENCES, width: 5, stride: 8 },
        taps: Vec::new(),
        steps: steps.clone(),
        tunings: Vec::new(),
    };
    let buffer = |name: &str, role, bytes| Buffer { name: name.into(), role, bytes };
    Plan {
        model: Model {
            name: "sample".into(),
            family: "bert".into(),
            layers: 1,
            vocab_size: 11,
            max_positions: 64,
            max_text_tokens: 32,
            eos_ids: Vec::new(),
        },
        tensors: vec![
            Tensor { name: "table".into(), dtype: DType::F32, shape: vec![11, 8], format: None },
            Tensor { name: "a \"b\" ü".into(), dtype: DType::BF16, shape: vec![3, 8], format: None },
        ],
        buffers: vec![
            buffer("table", Role::Weight { tensor: 0, offset: 32 }, Dim::constant(320)),
            buffer("ids", Role::Input(Input::Ids), Input::Ids.bytes()),
            buffer("step", Role::Input(Input::Step), Input::Step.bytes()),
            buffer("rows", Role::Scratch, Dim::TOKENS * 32),
            buffer("gain", Role::Weight { tensor: 1, offset: 4 }, Dim::constant(16)),
            buffer("sequences", Role::Input(Input::Sequences), Input::Sequences.bytes()),
            buffer("vectors", Role::Output, Dim::SEQUENCES * 32),
        ],
        kernels: vec![
            kernel(
                "gather",
                vec![
                    binding("table", Access::Read),
                    binding("ids", Access::Read),
                    binding("step", Access::Uniform),
                    binding("y", Access::ReadWrite),
                ],
            ),
            kernel(
                "pool",
                vec![
                    binding("gain", Access::Read),
                    binding("sequences", Access::Read),
                    binding("x", Access::Read),
                    binding("step", Access::Uniform),
                    binding("y", Access::ReadWrite),
                ],
            ),
        ],
        programs: vec![
            program("webgpu", None, 5, None),
            program("webgpu", None, 1, Some(4)),
            program("subgroup-8", Some(8), 1, None),
        ],
        provenance: Some(provenance()),
        quantization: Some(quantization()),
    }
}

pub(super) fn quantization() -> Quantization {
    let weight = |name: &str, format: Option<&str>| RoundedWeight {
        name: name.into(),
        format: format.map(Into::into),
        bytes: 320,
        error: Some(0.25),
        relative_error: None,
        loss: Some(1e-3),
    };
    Quantization {
        calibration: Some(Calibration { text: "bundled".into(), tokens: 1000, measured_tokens: 100 }),
        weights: vec![weight("table", Some("int4-g32")), weight("head", None)],
        activations: Some(RoundedActivations { format: "int8-row".into(), inputs: 4 }),
        predicted_loss: Some(1e-3),
        measured_loss: Some(1.1e-3),
    }
}

/// One body whose second call is part of the first one's proof.
pub(super) fn provenance() -> Provenance {
    let call = |kernel, proof, within: &[usize]| Call {
        kernel: Some(kernel),
        nodes: vec![0],
        formula: vec![1],
        seconds: 1e-6,
        proof,
        within: within.to_vec(),
        operands: proof.map(|_| 3),
        columns: proof.map(|_| (4, 8)),
    };
    let variant = |target: &str, min_rows, max_rows| Variant {
        target: target.into(),
        min_rows,
        max_rows,
        extracted: 1,
        seconds: 2.5e-6,
        calls: vec![call(0, Some(0), &[]), call(1, None, &[0])],
    };
    Provenance {
        texts: vec!["%0 = a\n%1 = b\n".into(), "%0 = \"ü\"\n".into(), String::new(), "output x $0\n".into()],
        rules: vec![
            Rule { name: "fuse".into(), class: Class::Exact },
            Rule { name: "fold".into(), class: Class::Reassociates },
        ],
        bodies: vec![Body {
            formula: 0,
            stages: vec![Stage {
                name: "fuse".into(),
                e_nodes: 5,
                classes: 4,
                rounds: vec![Round { e_nodes: 9, classes: 8, applied: vec![(1, 3)] }],
                stop: Stop::Saturated,
            }],
            variants: vec![variant("webgpu", 5, None), variant("webgpu", 1, Some(4)), variant("subgroup-8", 1, None)],
            proofs: vec![Proof {
                declarations: 2,
                arguments: vec![vec![FormulaValue::Line(0), FormulaValue::Arg(0)]],
                results: vec![FormulaValue::Line(1)],
                lossy: vec![
                    LossyStep::Weight { weight: 0, format: "int4-g32".into(), stored: false },
                    LossyStep::Weight { weight: 1, format: "int8".into(), stored: true },
                    LossyStep::Activations { line: 1, format: "int8".into() },
                ],
                start: 0,
                steps: vec![
                    ProofStep { rule: 0, backward: false, after: 1 },
                    ProofStep { rule: 1, backward: true, after: 0 },
                ],
            }],
        }],
        regions: vec![Region { body: 0, layer: None, weights: vec!["a".into(), "b \"c\"".into()] }],
        origins: vec![Origins { regions: vec![0, 0], calls: vec![0, 1] }; 3],
    }
}

pub(super) fn weights() -> Vec<Vec<u8>> {
    [352u32, 48].iter().map(|n| (0..*n).map(|i| (i % 251) as u8).collect()).collect()
}

pub(super) fn assets() -> Assets {
    let mut assets = Assets::default();
    assets.insert(Assets::TOKENIZER, "{\"model\": \"…\"}");
    assets.insert("license", "Apache-2.0");
    assets
}

pub(super) fn fill<W: std::io::Write>(writer: &mut PlanWriter<W>) {
    for (i, bytes) in weights().iter().enumerate() {
        writer.tensor(i).unwrap();
        bytes.chunks(7).for_each(|piece| writer.write(piece).unwrap());
    }
}

pub(super) fn bytes() -> Vec<u8> {
    let mut writer = PlanWriter::new(Vec::new(), &sample(), &assets()).unwrap();
    fill(&mut writer);
    writer.into_inner().unwrap()
}

pub(super) fn refusal(change: impl FnOnce(&mut Plan)) -> String {
    let mut plan = sample();
    change(&mut plan);
    plan.check().unwrap_err().to_string()
}
