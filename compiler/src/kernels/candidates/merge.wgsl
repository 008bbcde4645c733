// Candidates, the chunks of a row together: logarithm of the sum of exponentials, the N greatest values, their columns
//
// x [M, WIDTH]; groups: for each row and chunk (top, sum, T keys, their columns), as candidates/chunk.wgsl leaves them;
// out [M, 1 + 2·N]. No value is among the N greatest whose group is not among the N with the greatest best ones: each of
// those has a greater value. So these groups are found first, then the values in them. The N-th greatest (key, column) is
// found digit by digit, 8 bits at a time: how many have which digit, of those that agree with what is known, until all of
// these are wanted (digit.wgsl). Whatever is not less is kept; a kept value's place is the number of greater ones.

//# slot constants
const T: u32 = 256u; // invocations, one for each digit
const N: u32 = 256u; // greatest values
const WIDTH: u32 = 151936u; // columns
const CHUNK: u32 = 8192u; // columns of a chunk
const CHUNKS: u32 = 19u; // chunks
const V: u32 = 8u; // vec4s of columns of a group
const STRIDE: u32 = 9768u; // of groups
const OUT_STRIDE: u32 = 520u; // of out
//# end
const PASSES: u32 = 7u; // digits of the key, then of the column

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> groups: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> step: vec4<u32>;
//# end

var<workgroup> counts: array<atomic<u32>, T>;
var<workgroup> sums: array<u32, 16>;
var<workgroup> found: vec2<u32>;
var<workgroup> missing: u32;
var<workgroup> complete: u32;
var<workgroup> group_count: atomic<u32>;
var<workgroup> kept_groups: array<u32, T>;
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

// Key and column of the best of the i-th group, the greater the sooner; the column is 0 where the group has none.
fn best_of(m: u32, i: u32) -> vec2<u32> {
    let at = m * STRIDE + i / T * (2u * T + 2u) + 2u + i % T;
    return vec2<u32>(groups[at], 0xffffffu - groups[at + T]);
}

fn is_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x < b.x || (a.x == b.x && a.y < b.y);
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    // The grid has one column. Drivers don't know that: loops that they can count they write out, which takes them long.
    let zero = group.x;
    if (m >= row_count()) {
        return;
    }
    if (index == 0u) {
        found = vec2<u32>(0u);
        missing = N;
        atomicStore(&group_count, 0u);
        atomicStore(&kept_count, 0u);
        var top = bitcast<f32>(groups[m * STRIDE]);
        //# trips CHUNKS
        for (var chunk = zero; chunk < CHUNKS; chunk++) {
            top = max(top, bitcast<f32>(groups[m * STRIDE + chunk * (2u * T + 2u)]));
        }
        var sum = 0.0;
        //# trips CHUNKS
        for (var chunk = zero; chunk < CHUNKS; chunk++) {
            let at = m * STRIDE + chunk * (2u * T + 2u);
            let below = bitcast<f32>(groups[at]) - top;
            sum += select(0.0, exp(max(below, -100.0)) * bitcast<f32>(groups[at + 1u]), below > -100.0);
        }
        out[m * OUT_STRIDE] = top + log(sum);
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
        //# trips CHUNKS
        for (var i = index; i < CHUNKS * T; i += T) {
            let key = best_of(m, i);
            if (all((key & mask) == known)) {
                atomicAdd(&counts[(select(key.y, key.x, high) >> shift) & 255u], 1u);
            }
        }
        //# slot digit
        complete = 1u;
        //# end
    }
    //# trips CHUNKS
    for (var i = index; i < CHUNKS * T; i += T) {
        let key = best_of(m, i);
        if (key.y > 0u && !is_less(key, known)) {
            kept_groups[min(atomicAdd(&group_count, 1u), T - 1u)] = i;
        }
    }
    workgroupBarrier();
    // Not before the barrier: others may not have read what was found.
    if (index == 0u) {
        found = vec2<u32>(0u);
        missing = N;
    }
    let least = known;
    var keys: array<vec4<u32>, V>;
    var columns: array<vec4<u32>, V>;
    let own = kept_groups[index];
    let taken = index < atomicLoad(&group_count);
    //# unroll
    for (var i = 0u; i < V; i++) {
        let n4 = own / T * (CHUNK / 4u) + i * T + own % T;
        let column = 4u * n4 + vec4<u32>(0u, 1u, 2u, 3u);
        keys[i] = order(bitcast<vec4<u32>>(load_x(m, min(n4, (WIDTH - 1u) / 4u))));
        columns[i] = select(vec4<u32>(0u), 0xffffffu - column, column < vec4<u32>(WIDTH) & vec4<bool>(taken));
    }
    known = vec2<u32>(0u);
    mask = vec2<u32>(0u);
    unknown = true;
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
                let key = vec2<u32>(keys[i][j], columns[i][j]);
                if (key.y > 0u && !is_less(key, least) && all((key & mask) == known)) {
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
            let key = vec2<u32>(keys[i][j], columns[i][j]);
            if (key.y > 0u && !is_less(key, least) && !is_less(key, known)) {
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
