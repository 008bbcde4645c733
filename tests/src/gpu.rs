//! Runs single kernels.

use warpweft_compiler::kernels::{Composed, Slot};
use warpweft_plan::Sizes;
use warpweft_runtime::{Device, block_on};

/// What `out` holds after the kernel ran once; `contents` gives the bytes of each slot before.
pub fn run(device: &Device, composed: &Composed, sizes: Sizes, contents: impl Fn(Slot) -> Vec<u8>) -> Vec<u8> {
    let mut outputs = run_all(device, composed, sizes, contents);
    assert_eq!(outputs.len(), 1, "{} has one result", composed.name);
    outputs.remove(0)
}

/// What all results of the kernel hold, in the order of their bindings.
pub fn run_all(device: &Device, composed: &Composed, sizes: Sizes, contents: impl Fn(Slot) -> Vec<u8>) -> Vec<Vec<u8>> {
    let kernel = composed.kernel(String::new());
    let groups = composed.grid.map(|g| g.dim.eval(sizes).unwrap().div_ceil(u64::from(g.per)) as u32);
    let buffers: Vec<_> = composed.slots.iter().map(|&slot| contents(slot)).collect();
    block_on(device.run_kernel(&kernel, groups, &buffers)).unwrap()
}
