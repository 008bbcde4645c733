//! Loading a model takes the model's size and little more. Alone in its process, because it measures the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "runtime/tiny/mod.rs"]
mod tiny;

use warpweft_plan::{Assets, Dim, PlanWriter, Role};
use warpweft_runtime::Model;

const ROWS: u64 = 3 << 20;
const BYTES: u64 = ROWS * 32;

/// Most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn weights_are_held_once() {
    let mut plan = tiny::plan();
    for (tensor, buffer) in [(0, 0), (1, 1)] {
        plan.tensors[tensor].shape[0] = ROWS;
        plan.buffers[buffer].bytes = Dim::constant(BYTES as i64);
        plan.buffers[buffer].role = Role::Weight { tensor, offset: 0 };
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.weft");
    let mut writer = PlanWriter::create(&path, &plan, &Assets::default()).unwrap();
    let piece: Vec<u8> = (0..1u32 << 18).flat_map(|i| ((i % 97) as f32).to_le_bytes()).collect();
    for tensor in 0..2 {
        writer.tensor(tensor).unwrap();
        (0..BYTES / piece.len() as u64).for_each(|_| writer.write(&piece).unwrap());
    }
    writer.finish().unwrap();
    let before = peak();
    assert!(before < 64 << 20, "writing took {before} bytes");
    let mut model = Model::open(&path).unwrap();
    assert_eq!(model.embed_ids(&[[0, 10]]).unwrap().values[..2], [(0.0 + 160.0) / 2.0, (2.0 + 163.0) / 2.0]);
    let most = 2 * BYTES + (150 << 20);
    assert!(peak() < most, "{} bytes at the peak, {most} allowed", peak());
    println!("before {before}, peak {}, weights {}", peak(), 2 * BYTES);
}
