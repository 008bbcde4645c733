// Pool: out[s, n] = reduce over the rows m of sequence s of x[m, n]
//
// x [M, N], out [sequences, N]. An invocation walks four columns through the rows.

//# slot constants
const T: u32 = 64u; // invocations
const N4: u32 = 96u; // vec4s of a row
const CONTEXT: u32 = 512u; // the most rows of a sequence
//# end

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

//# slot functions
fn load_x(m: u32, n4: u32) -> vec4<f32> {
    return x[m * N4 + n4];
}

fn kept(m: u32) -> bool {
    return m < step.y;
}

fn store(m: u32, n4: u32, value: vec4<f32>) {
    out[m * N4 + n4] = value;
}
//# end

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let s = group.y;
    let n4 = group.x * T + index;
    if (!kept(s) || n4 >= N4) {
        return;
    }
    let first = sequences[s].x;
    let count = sequences[s].y;
    var acc = load_x(first, n4);
    //# slot reduce
    //# trips CONTEXT
    for (var m = first + 1u; m < first + count; m++) {
        acc += load_x(m, n4);
    }
    acc /= f32(count);
    //# end
    store(s, n4, acc);
}
