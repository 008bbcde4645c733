// Columns: out[m, n] = x[m, index[n]]
//
// x [M, K], index [N] as floats, out [M, N]. An invocation moves four columns of a row. Indices are clamped to the columns
// that there are.

//# slot constants
const T: u32 = 64u; // invocations
const N4: u32 = 96u; // vec4s of a row
const K: u32 = 384u; // columns of x
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> columns: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn load_x(m: u32, n4: u32) -> vec4<f32> {
    return x[m * 96u + n4];
}

fn kept(m: u32) -> bool {
    return m < step.x;
}

fn store(m: u32, n4: u32, value: vec4<f32>) {
    out[m * N4 + n4] = value;
}
//# end

fn column(m: u32, k: u32) -> f32 {
    return load_x(m, k / 4u)[k % 4u];
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    let n4 = group.x * T + index;
    if (!kept(m) || n4 >= N4) {
        return;
    }
    let k = vec4<u32>(clamp(columns[n4], vec4<f32>(0.0), vec4<f32>(f32(K - 1u))));
    store(m, n4, vec4<f32>(column(m, k.x), column(m, k.y), column(m, k.z), column(m, k.w)));
}
