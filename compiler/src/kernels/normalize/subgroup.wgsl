// Normalize, a row for each subgroup: out[m] = epilogue((x - mean) · scale) with x = input(m)
//
// out [M, WIDTH]. The S lanes of a subgroup keep the whole row, V vec4s each; the mean is taken off before squares are
// summed.

//# slot constants
const S: u32 = 8u; // lanes of a subgroup
const V: u32 = 12u; // vec4s of a lane
const N4: u32 = 96u; // vec4s of a row
const WIDTH: u32 = 384u; // columns
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> e0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn input(m: u32, n4: u32, acc: vec4<f32>) -> vec4<f32> {
    return e0[m * N4 + n4];
}

fn epilogue(m: u32, n4: u32, acc: vec4<f32>) -> vec4<f32> {
    return acc;
}

fn kept(m: u32) -> bool {
    return m < step.x;
}

fn store(m: u32, n4: u32, value: vec4<f32>) {
    out[m * N4 + n4] = value;
}
//# end

fn inside(n4: u32) -> vec4<bool> {
    return 4u * n4 + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(WIDTH);
}

@compute @workgroup_size(S)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let m = group.x;
    var x: array<vec4<f32>, V>;
    //# unroll
    for (var i = 0u; i < V; i++) {
        let n4 = i * S + lane;
        x[i] = select(vec4<f32>(0.0), input(m, min(n4, N4 - 1u), vec4<f32>(0.0)), inside(n4));
    }
    //# slot mean
    var sum = vec4<f32>(0.0);
    //# unroll
    for (var i = 0u; i < V; i++) {
        sum += x[i];
    }
    var mean = (sum.x + sum.y) + (sum.z + sum.w);
    //# unroll
    for (var o = 1u; o < S; o *= 2) {
        mean += subgroupShuffleXor(mean, o);
    }
    mean /= f32(WIDTH);
    //# unroll
    for (var i = 0u; i < V; i++) {
        x[i] = select(vec4<f32>(0.0), x[i] - mean, inside(i * S + lane));
    }
    //# end
    var squares4 = vec4<f32>(0.0);
    //# unroll
    for (var i = 0u; i < V; i++) {
        squares4 = fma(x[i], x[i], squares4);
    }
    var squares = (squares4.x + squares4.y) + (squares4.z + squares4.w);
    //# unroll
    for (var o = 1u; o < S; o *= 2) {
        squares += subgroupShuffleXor(squares, o);
    }
    //# slot scale
    let scale = 1.0 / sqrt(squares / f32(WIDTH) + 1e-5);
    //# end
    //# slot end
    //# unroll
    for (var i = 0u; i < V; i++) {
        let n4 = i * S + lane;
        if (kept(m) && n4 < N4) {
            store(m, n4, epilogue(m, n4, x[i] * scale));
        }
    }
    //# end
}
