// Candidates, the chunks of a row together: logarithm of the sum of exponentials, the N greatest values, their columns
//
// x: for each row and chunk (top, sum, N keys, their columns), as candidates/chunk.wgsl leaves them; out [M, 1 + 2·N].
// The N-th greatest (key, column) is found digit by digit as there; a kept one's place is the number of greater ones.

//# slot constants
const T: u32 = 256u; // invocations, one for each digit
const N: u32 = 256u; // greatest values
const CHUNKS: u32 = 19u; // chunks
const E: u32 = 19u; // elements of an invocation
const STRIDE: u32 = 9768u; // of x
const OUT_STRIDE: u32 = 520u; // of out
//# end
const PASSES: u32 = 7u; // digits of the key, then of the column

//# slot bindings
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
//# end

var<workgroup> counts: array<atomic<u32>, T>;
var<workgroup> sums: array<u32, 16>;
var<workgroup> found: vec2<u32>;
var<workgroup> missing: u32;
var<workgroup> kept_count: atomic<u32>;
var<workgroup> kept: array<vec2<u32>, T>;

//# slot functions
fn row_count() -> u32 {
    return step.x;
}
//# end

// Key and column, the greater the sooner.
fn element(m: u32, i: u32) -> vec2<u32> {
    let inside = i < CHUNKS * N;
    let item = min(i, CHUNKS * N - 1u);
    let at = m * STRIDE + item / N * (2u * N + 2u) + 2u + item % N;
    return select(vec2<u32>(0u), vec2<u32>(x[at], 0xffffffu - x[at + N]), inside);
}

@compute @workgroup_size(T)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let m = group.y;
    if (m >= row_count()) {
        return;
    }
    if (index == 0u) {
        found = vec2<u32>(0u);
        missing = N;
        atomicStore(&kept_count, 0u);
        var top = bitcast<f32>(x[m * STRIDE]);
        //# trips CHUNKS
        for (var chunk = 1u; chunk < CHUNKS; chunk++) {
            top = max(top, bitcast<f32>(x[m * STRIDE + chunk * (2u * N + 2u)]));
        }
        var sum = 0.0;
        //# trips CHUNKS
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            let at = m * STRIDE + chunk * (2u * N + 2u);
            let below = bitcast<f32>(x[at]) - top;
            sum += select(0.0, exp(max(below, -100.0)) * bitcast<f32>(x[at + 1u]), below > -100.0);
        }
        out[m * OUT_STRIDE] = top + log(sum);
    }
    var known = vec2<u32>(0u);
    var mask = vec2<u32>(0u);
    //# trips PASSES
    for (var turn = 0u; turn < PASSES; turn++) {
        let high = turn < 4u;
        let shift = 8u * select(PASSES - 1u - turn, 3u - turn, high);
        atomicStore(&counts[index], 0u);
        workgroupBarrier();
        //# trips E
        for (var e = 0u; e < E; e++) {
            let key = element(m, e * T + index);
            if (e * T + index < CHUNKS * N && all((key & mask) == known)) {
                atomicAdd(&counts[(select(key.y, key.x, high) >> shift) & 255u], 1u);
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
    //# trips E
    for (var e = 0u; e < E; e++) {
        let key = element(m, e * T + index);
        if (e * T + index < CHUNKS * N && (key.x > known.x || (key.x == known.x && key.y >= known.y))) {
            // Only where several elements are no values at all are there more than N.
            let place = atomicAdd(&kept_count, 1u);
            if (place < N) {
                kept[place] = key;
            }
        }
    }
    workgroupBarrier();
    if (index < N) {
        let own = kept[index];
        var place = 0u;
        //# trips N
        for (var other = 0u; other < N; other++) {
            let key = kept[other];
            place += select(0u, 1u, key.x > own.x || (key.x == own.x && key.y > own.y));
        }
        let bits = select(~own.x, own.x & 0x7fffffffu, own.x >= 0x80000000u);
        out[m * OUT_STRIDE + 1u + place] = bitcast<f32>(bits);
        out[m * OUT_STRIDE + 1u + N + place] = f32(0xffffffu - own.y);
    }
}
