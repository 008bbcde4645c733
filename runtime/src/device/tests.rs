//! Trouble with a device, on whatever adapter there is.
#![allow(clippy::unwrap_used, clippy::panic)]

use warpweft_plan::{Access, Binding, IMAGE_WIDTH, Kernel, Tier};

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

#[test]
fn an_image_holds_the_bytes_of_a_weight_in_their_order() {
    let device = device();
    let texels = 2 * IMAGE_WIDTH as u32 + 1;
    let read = |texel: u32| (texel % IMAGE_WIDTH as u32, texel / IMAGE_WIDTH as u32);
    let asked = [0, 1, texels / 2, texels - 2, texels - 1];
    let body: String = (0..)
        .zip(asked.map(read))
        .map(|(i, (x, y))| format!("y[{i}] = textureLoad(w, vec2<u32>({x}u, {y}u)).z; "))
        .collect();
    let mut kernel = kernel(&body);
    kernel.wgsl.insert_str(0, "@group(0) @binding(1) var w: texture_storage_2d<rgba32uint, read>;\n");
    kernel.bindings.push(Binding { name: "w".into(), access: Access::Image });
    let bytes = (0..4 * texels).flat_map(u32::to_le_bytes).collect();
    let found = block_on(device.run_kernel(&kernel, [1; 3], &[vec![0; 4 * asked.len()], bytes])).unwrap();
    let expected = asked.map(|texel| (4 * texel + 2).to_le_bytes()).concat();
    assert_eq!(found, [expected]);
}

#[test]
fn what_webgpu_promises_is_enough_for_images() {
    let tier = Tier {
        subgroup_size: None,
        int64: false,
        workgroup_bytes: 16_384,
        workgroup_invocations: 256,
        binding_bytes: 1 << 27,
        storage_buffers: 8,
        images: 4,
    };
    let lacks = |limits: wgpu::Limits| tier::lacks(&tier, &limits, wgpu::Features::empty(), None);
    assert_eq!(lacks(wgpu::Limits::default()), None);
    let few = wgpu::Limits { max_storage_textures_per_shader_stage: 3, ..Default::default() };
    assert_eq!(lacks(few).unwrap(), "4 storage images in a shader (has 3)");
    let small = wgpu::Limits { max_texture_dimension_2d: 4096, ..Default::default() };
    assert_eq!(lacks(small).unwrap(), "8192 texels along an image (has 4096)");
}
