// Attention, the chunks of a row's context together: out[m] = Σ_s f_s acc_s / Σ_s f_s total_s with f_s = exp(top_s - top)
//
// x: for each row, chunk and head the DV4 vec4s of acc and one of (top, total, 0, 0); out [M, H·DV]. top is the greatest
// top_s. An invocation makes a vec4 of one row.

//# slot constants
const T: u32 = 64u; // invocations
const H: u32 = 4u; // heads
const DV4: u32 = 8u; // vec4s of columns of a head
const CHUNK: u32 = 512u; // keys of a chunk
const CHUNKS: u32 = 16u; // the most chunks
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn first_key(m: u32) -> u32 {
    return 0u;
}

fn end_key(m: u32) -> u32 {
    return rows[m].x + 1u;
}

fn store(m: u32, head: u32, d4: u32, value: vec4<f32>) {
    out[m * H * DV4 + head * DV4 + d4] = value;
}
//# end

fn part(m: u32, chunk: u32, head: u32) -> u32 {
    return ((m * CHUNKS + chunk) * H + head) * (DV4 + 1u);
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    let item = group.x * T + index;
    if (m >= step.x || item >= H * DV4) {
        return;
    }
    let head = item / DV4;
    let chunks = (end_key(m) - 1u) / CHUNK - first_key(m) / CHUNK + 1u;
    var top = x[part(m, 0u, head) + DV4].x;
    //# trips CHUNKS
    for (var chunk = 1u; chunk < chunks; chunk++) {
        top = max(top, x[part(m, chunk, head) + DV4].x);
    }
    var acc = vec4<f32>(0.0);
    var total = 0.0;
    //# trips CHUNKS
    for (var chunk = 0u; chunk < chunks; chunk++) {
        let sums = x[part(m, chunk, head) + DV4];
        let factor = exp(sums.x - top);
        acc += factor * x[part(m, chunk, head) + item % DV4];
        total += factor * sums.y;
    }
    store(m, head, item % DV4, acc / total);
}
