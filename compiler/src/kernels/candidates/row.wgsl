// Candidates of rows that one workgroup can hold: logarithm of the sum of exponentials, the N greatest values, their columns
//
// x [M, WIDTH]; out [M, 1 + 2·N]. The N-th greatest (key, column) is found digit by digit, 8 bits at a time: how many have which
// digit, of those that agree with what is known, until all of these are wanted (digit.wgsl). Whatever is not less is kept; a
// kept value's place is the number of greater ones. A value's key is its bits, made so that keys compare as values do; of equal
// values the first comes first.

//# slot constants
const T: u32 = 256u; // invocations, one for each digit
const N: u32 = 256u; // greatest values
const WIDTH: u32 = 4096u; // columns
const V: u32 = 4u; // vec4s of columns of an invocation
const OUT_STRIDE: u32 = 520u; // of out
//# end
const PASSES: u32 = 7u; // digits of the key, then of the column
const LOWEST: f32 = -3.4e38;

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

var<workgroup> parts: array<f32, T>;
var<workgroup> counts: array<atomic<u32>, T>;
var<workgroup> sums: array<u32, 16>;
var<workgroup> found: vec2<u32>;
var<workgroup> missing: u32;
var<workgroup> complete: u32;
var<workgroup> kept_count: atomic<u32>;
var<workgroup> kept: array<vec2<u32>, T>;

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

fn is_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x < b.x || (a.x == b.x && a.y < b.y);
}

// The greater the sooner; 0 behind the last column.
fn column_key(i: u32, index: u32, j: u32) -> u32 {
    let column = 4u * (i * T + index) + j;
    return select(0u, 0xffffffu - column, column < WIDTH);
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    if (m >= row_count()) {
        return;
    }
    // Columns behind the last one have the least key, as negative NaNs do.
    var keys: array<vec4<u32>, V>;
    var top = LOWEST;
    //# unroll
    for (var i = 0u; i < V; i++) {
        let n4 = i * T + index;
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
    if (index == 0u) {
        out[m * OUT_STRIDE] = top + log(parts[0]);
        found = vec2<u32>(0u);
        missing = N;
        atomicStore(&kept_count, 0u);
    }
    var known = vec2<u32>(0u);
    var mask = vec2<u32>(0u);
    var unknown = true;
    //# trips PASSES
    for (var turn = 0u; turn < PASSES && unknown; turn++) {
        let high = turn < 4u;
        let shift = 8u * select(PASSES - 1u - turn, 3u - turn, high);
        atomicStore(&counts[index], 0u);
        workgroupBarrier();
        //# unroll
        for (var i = 0u; i < V; i++) {
            //# unroll
            for (var j = 0u; j < 4u; j++) {
                let key = vec2<u32>(keys[i][j], column_key(i, index, j));
                if (key.y > 0u && all((key & mask) == known)) {
                    atomicAdd(&counts[(select(key.y, key.x, high) >> shift) & 255u], 1u);
                }
            }
        }
        //# slot digit
        complete = 1u;
        //# end
    }
    //# unroll
    for (var i = 0u; i < V; i++) {
        //# unroll
        for (var j = 0u; j < 4u; j++) {
            let key = vec2<u32>(keys[i][j], column_key(i, index, j));
            if (key.y > 0u && !is_less(key, known)) {
                kept[min(atomicAdd(&kept_count, 1u), T - 1u)] = key;
            }
        }
    }
    workgroupBarrier();
    if (index < N) {
        let value = kept[index];
        var place = 0u;
        //# trips N
        for (var other = 0u; other < N; other++) {
            place += select(0u, 1u, is_less(value, kept[other]));
        }
        let bits = select(~value.x, value.x & 0x7fffffffu, value.x >= 0x80000000u);
        out[m * OUT_STRIDE + 1u + place] = bitcast<f32>(bits);
        out[m * OUT_STRIDE + 1u + N + place] = f32(0xffffffu - value.y);
    }
}
