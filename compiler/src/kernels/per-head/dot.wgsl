// Linear per head: out[m, h·N + n] = Σ_k x[m, h·K + k] · w[h·N + n, k]
//
// x [M, heads · K], w [heads · N, K], out [M, heads · N]. An invocation computes four columns of a row, which need
// not be of one head.

//# slot constants
const T: u32 = 64u; // invocations
const COLUMNS4: u32 = 64u; // vec4s of a row of out
const ROWS_W: u32 = 256u; // rows of w
const N: u32 = 64u; // columns of a head of out
const K4: u32 = 8u; // vec4s of a head of x
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn load_x(m: u32, n4: u32) -> vec4<f32> {
    return x[m * 32u + n4];
}

fn load_w(n: u32, k4: u32) -> vec4<f32> {
    let first = n / 4u * 128u + n % 4u + 16u * k4;
    return vec4<f32>(w[first], w[first + 4u], w[first + 8u], w[first + 12u]);
}

fn kept(m: u32) -> bool {
    return m < step.x;
}

fn store(m: u32, n4: u32, value: vec4<f32>) {
    out[m * COLUMNS4 + n4] = value;
}
//# end

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    let column4 = group.x * T + index;
    if (!kept(m) || column4 >= COLUMNS4) {
        return;
    }
    let n = min(4u * column4 + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(ROWS_W - 1u));
    let first = n / N * K4;
    var acc = vec4<f32>(0.0);
    //# trips K4
    for (var k4 = 0u; k4 < K4; k4++) {
        acc.x += dot(load_x(m, first.x + k4), load_w(n.x, k4));
        acc.y += dot(load_x(m, first.y + k4), load_w(n.y, k4));
        acc.z += dot(load_x(m, first.z + k4), load_w(n.z, k4));
        acc.w += dot(load_x(m, first.w + k4), load_w(n.w, k4));
    }
    store(m, column4, acc);
}
