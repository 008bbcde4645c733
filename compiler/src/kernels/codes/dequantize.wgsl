// Dequantize: out[m, n] = code[m, n] · scale[m]
//
// x [M] rows of codes, sixteen to a load, and behind them a scale; out [M, N]. An invocation makes four columns of a row.

//# slot constants
const T: u32 = 64u; // invocations
const N4: u32 = 96u; // vec4s of a row
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn levels_int8(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(codes << vec4<u32>(24u)) >> vec4<u32>(24u));
}

fn load_x(m: u32, k: u32) -> vec4<u32> {
    return x[m * 26u + k];
}

fn scale_x(m: u32) -> f32 {
    return bitcast<f32>(x[m * 26u + 24u].x);
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
    if (!kept(m) || n4 >= N4) {
        return;
    }
    let codes = load_x(m, n4 / 4u);
    store(m, n4, levels_int8(vec4<u32>(codes[n4 % 4u]) >> vec4<u32>(0u, 8u, 16u, 24u)) * scale_x(m));
}
