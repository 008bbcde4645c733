const MOST: f32 = 448.0; // the greatest number

// Sixteen 8-bit floats (e4m3fn), four of them.
fn restored(p: vec4<u32>, h: u32) -> vec4<f32> {
    return levels_fp8(vec4<u32>(p[h]) >> vec4<u32>(0u, 8u, 16u, 24u));
}

// The nearest ones, of two the even one: above 2⁻⁶ by rounding twenty bits of the f32 away and moving the exponent's bias
// from 127 to 7, below as a multiple of 2⁻⁹.
fn stored(v: vec4<f32>) -> u32 {
    let a = min(abs(v), vec4<f32>(MOST));
    let bits = bitcast<vec4<u32>>(a);
    let even = (bits >> vec4<u32>(20u)) & vec4<u32>(1u);
    let normal = ((bits + vec4<u32>(0x7ffffu) + even) >> vec4<u32>(20u)) - vec4<u32>(120u << 3u);
    let subnormal = vec4<u32>(round(a * 512.0));
    let sign = (bitcast<vec4<u32>>(v) >> vec4<u32>(24u)) & vec4<u32>(0x80u);
    let code = select(normal, subnormal, a < vec4<f32>(0.015625)) | sign;
    return code.x | (code.y << 8u) | (code.z << 16u) | (code.w << 24u);
}

fn kept(v: vec4<f32>) -> vec4<f32> {
    return restored(vec4<u32>(stored(v), 0u, 0u, 0u), 0u);
}
