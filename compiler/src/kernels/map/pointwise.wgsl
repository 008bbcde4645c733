// Map: out[m, n] = epilogue(m, n)
//
// out [M, N]. An invocation computes four columns of a row.

//# slot constants
const T: u32 = 64u; // invocations
const N4: u32 = 96u; // vec4s of a row
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> e0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn epilogue(m: u32, n4: u32, acc: vec4<f32>) -> vec4<f32> {
    return e0[m * N4 + n4];
}

fn kept(m: u32) -> bool {
    return m < step.x;
}

fn store(m: u32, n4: u32, value: vec4<f32>) {
    out[m * N4 + n4] = value;
}
//# end

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    let n4 = group.x * T + index;
    if (kept(m) && n4 < N4) {
        store(m, n4, epilogue(m, n4, vec4<f32>(0.0)));
    }
}
