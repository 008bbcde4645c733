// Candidates, a chunk of a row: greatest value, sum of exponentials above it, and the N greatest values
//
// x [M, WIDTH]; out: for each row and chunk of CHUNK columns (top, sum, N values as bits, their columns), unordered.
// A value's key is its bits, made so that keys compare as values do; of equal values the first comes first. The N-th
// greatest (key, column) is found digit by digit, 8 bits at a time: how many have which digit, of those that agree
// with what is known. Whatever is not less than that is kept. Each invocation reads its columns once and keeps their keys.

//# slot constants
const T: u32 = 256u; // invocations, one for each digit
const N: u32 = 256u; // greatest values
const WIDTH: u32 = 151936u; // columns
const CHUNK: u32 = 8192u; // columns of a chunk
const V: u32 = 8u; // vec4s of columns of an invocation
const OUT_STRIDE: u32 = 9768u; // of out
//# end
const PASSES: u32 = 6u; // digits of the key, then of the column in the chunk
const LOWEST: f32 = -3.4e38;

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

var<workgroup> counts: array<atomic<u32>, T>;
var<workgroup> sums: array<u32, 16>;
var<workgroup> parts: array<f32, T>;
var<workgroup> found: vec2<u32>;
var<workgroup> missing: u32;
var<workgroup> kept_count: atomic<u32>;

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
    if (index == 0u) {
        found = vec2<u32>(0u);
        missing = N;
        atomicStore(&kept_count, 0u);
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
    let at = m * OUT_STRIDE + group.x * (2u * N + 2u);
    if (index == 0u) {
        out[at] = bitcast<u32>(top);
        out[at + 1u] = bitcast<u32>(parts[0]);
    }
    var known = vec2<u32>(0u);
    var mask = vec2<u32>(0u);
    //# trips PASSES
    for (var turn = 0u; turn < PASSES; turn++) {
        let high = turn < 4u;
        let shift = 8u * select(PASSES - 1u - turn, 3u - turn, high);
        atomicStore(&counts[index], 0u);
        workgroupBarrier();
        //# unroll
        for (var i = 0u; i < V; i++) {
            //# unroll
            for (var j = 0u; j < 4u; j++) {
                let key = vec2<u32>(keys[i][j], 0xffffu - (4u * (i * T + index) + j));
                if (all((key & mask) == known)) {
                    atomicAdd(&counts[(select(key.y, key.x, high) >> shift) & 255u], 1u);
                }
            }
        }
        workgroupBarrier();
        if (index < 16u) {
            var count = 0u;
            //# unroll
            for (var i = 0u; i < 16u; i++) {
                count += atomicLoad(&counts[index * 16u + i]);
            }
            sums[index] = count;
        }
        workgroupBarrier();
        if (index == 0u) {
            var left = missing;
            var digit = 15u;
            //# trips 16
            while (digit > 0u && sums[digit] < left) {
                left -= sums[digit];
                digit--;
            }
            digit = digit * 16u + 15u;
            //# trips 16
            while (digit % 16u > 0u && atomicLoad(&counts[digit]) < left) {
                left -= atomicLoad(&counts[digit]);
                digit--;
            }
            missing = left;
            found |= select(vec2<u32>(0u, digit << shift), vec2<u32>(digit << shift, 0u), high);
        }
        workgroupBarrier();
        known = found;
        mask |= select(vec2<u32>(0u, 255u << shift), vec2<u32>(255u << shift, 0u), high);
    }
    //# unroll
    for (var i = 0u; i < V; i++) {
        //# unroll
        for (var j = 0u; j < 4u; j++) {
            let column = 4u * (i * T + index) + j;
            let key = vec2<u32>(keys[i][j], 0xffffu - column);
            if (key.x > known.x || (key.x == known.x && key.y >= known.y)) {
                let place = atomicAdd(&kept_count, 1u);
                out[at + 2u + place] = key.x;
                out[at + 2u + N + place] = select(0xffffffu, first + column, first + column < WIDTH);
            }
        }
    }
}
