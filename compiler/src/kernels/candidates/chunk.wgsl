// Candidates, a chunk of a row: greatest value, sum of exponentials above it, and the greatest value of each group
//
// x [M, WIDTH]; out: for each row and chunk of CHUNK columns (top, sum, T keys, their columns). A group is the columns of an
// invocation. A value's key is its bits, made so that keys compare as values do; of equal values the first comes first.

//# slot constants
const T: u32 = 256u; // invocations
const WIDTH: u32 = 151936u; // columns
const CHUNK: u32 = 8192u; // columns of a chunk
const V: u32 = 8u; // vec4s of columns of an invocation
const OUT_STRIDE: u32 = 9768u; // of out
//# end
const LOWEST: f32 = -3.4e38;

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

var<workgroup> parts: array<f32, T>;

//# slot functions
fn load_x(m: u32, n4: u32) -> vec4<f32> {
    return x[m * (WIDTH / 4u) + n4];
}

fn row_count() -> u32 {
    return step.x;
}
//# end

fn order(bits: vec4<u32>) -> vec4<u32> {
    return select(bits | vec4<u32>(0x80000000u), ~bits, bits >= vec4<u32>(0x80000000u));
}

// The value whose key that is.
fn value_of(key: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(select(~key, key & vec4<u32>(0x7fffffffu), key >= vec4<u32>(0x80000000u)));
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    let first = group.x * CHUNK;
    if (m >= row_count()) {
        return;
    }
    // Columns behind the last one have the least key, as negative NaNs do.
    var keys: array<vec4<u32>, V>;
    var top = LOWEST;
    //# unroll
    for (var i = 0u; i < V; i++) {
        let n4 = first / 4u + i * T + index;
        let inside = 4u * n4 + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(WIDTH);
        let value = load_x(m, min(n4, (WIDTH - 1u) / 4u));
        keys[i] = select(vec4<u32>(0u), order(bitcast<vec4<u32>>(value)), inside);
        let greatest = select(vec4<f32>(LOWEST), value, inside);
        top = max(top, max(max(greatest.x, greatest.y), max(greatest.z, greatest.w)));
    }
    parts[index] = top;
    workgroupBarrier();
    //# trips 8
    for (var o = 1u; o < T; o += o) {
        if (index % (2u * o) == 0u) {
            parts[index] = max(parts[index], parts[index + o]);
        }
        workgroupBarrier();
    }
    top = parts[0];
    workgroupBarrier();
    var sum = 0.0;
    //# unroll
    for (var i = 0u; i < V; i++) {
        let less = max(value_of(keys[i]), vec4<f32>(LOWEST)) - top;
        let counted = keys[i] > vec4<u32>(0u) & less > vec4<f32>(-100.0);
        sum += dot(select(vec4<f32>(0.0), exp(max(less, vec4<f32>(-100.0))), counted), vec4<f32>(1.0));
    }
    parts[index] = sum;
    workgroupBarrier();
    //# trips 8
    for (var o = 1u; o < T; o += o) {
        if (index % (2u * o) == 0u) {
            parts[index] += parts[index + o];
        }
        workgroupBarrier();
    }
    let at = m * OUT_STRIDE + group.x * (2u * T + 2u);
    if (index == 0u) {
        out[at] = bitcast<u32>(top);
        out[at + 1u] = bitcast<u32>(parts[0]);
    }
    var best = keys[0].x;
    var column = first + 4u * index;
    //# unroll
    for (var i = 0u; i < V; i++) {
        //# unroll
        for (var j = 0u; j < 4u; j++) {
            let greater = keys[i][j] > best;
            best = select(best, keys[i][j], greater);
            column = select(column, first + 4u * (i * T + index) + j, greater);
        }
    }
    out[at + 2u + index] = best;
    out[at + 2u + T + index] = select(0xffffffu, column, column < WIDTH);
}
