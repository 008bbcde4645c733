//! Trouble with a device, on whatever adapter there is.
#![allow(clippy::unwrap_used, clippy::panic)]

use warpweft_plan::{Access, Binding, Kernel};

use super::*;

fn device() -> Device {
    block_on(async { Device::open(&choose(&AdapterChoice::Best).await.unwrap()).await.unwrap() })
}

fn kernel(body: &str) -> Kernel {
    Kernel {
        name: "test".into(),
        wgsl: format!(
            "@group(0) @binding(0) var<storage, read_write> y: array<u32>;
             @compute @workgroup_size(1) fn main() {{ {body} }}"
        ),
        workgroup: [1, 1, 1],
        bindings: vec![Binding { name: "y".into(), access: Access::ReadWrite }],
        loop_trips: 1,
        cost: Default::default(),
        meaning: String::new(),
    }
}

#[test]
fn a_lost_device_is_a_value() {
    let device = device();
    let kernel = kernel("y[0] = 7u;");
    assert_eq!(block_on(device.run_kernel(&kernel, [1; 3], &[vec![0; 4]])).unwrap(), [[7, 0, 0, 0]]);
    device.gpu.destroy();
    for _ in 0..2 {
        let error = block_on(device.run_kernel(&kernel, [1; 3], &[vec![0; 4]])).unwrap_err();
        assert!(matches!(error, RuntimeError::DeviceLost { .. }), "{error}");
    }
}

#[test]
fn an_error_outside_of_any_call_is_reported_by_the_next() {
    let device = device();
    let absurd = wgpu::BufferDescriptor {
        label: None,
        size: u64::MAX / 2,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    };
    let _ = device.gpu.create_buffer(&absurd);
    assert!(matches!(device.healthy("testing"), Err(RuntimeError::Refused { .. })));
    assert!(device.healthy("testing").is_ok());
    let inside = block_on(device.guard("allocating", || device.gpu.create_buffer(&absurd)));
    assert!(matches!(inside, Err(RuntimeError::Refused { .. })));
    assert!(device.healthy("testing").is_ok());
}

#[test]
fn an_index_out_of_range_harms_nothing() {
    let device = device();
    let kernel = kernel("y[y[0]] = 9u; y[1] = y[y[2]];");
    let words = [1 << 30, 5, u32::MAX, 6].map(u32::to_le_bytes).concat();
    assert_eq!(block_on(device.run_kernel(&kernel, [1; 3], &[words])).unwrap()[0].len(), 16);
}
