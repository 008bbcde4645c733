// Four names of quantiles, the lowest bits of four words: the quantiles, found by halving.
fn levels_nf4(codes: vec4<u32>) -> vec4<f32> {
    let b0 = (codes & vec4<u32>(1u)) != vec4<u32>(0u);
    let b1 = (codes & vec4<u32>(2u)) != vec4<u32>(0u);
    let b2 = (codes & vec4<u32>(4u)) != vec4<u32>(0u);
    let l0 = select(vec4<f32>(-1.0), vec4<f32>(-0.6961928), b0);
    let l2 = select(vec4<f32>(-0.52507305), vec4<f32>(-0.3949175), b0);
    let l4 = select(vec4<f32>(-0.28444138), vec4<f32>(-0.18477343), b0);
    let l6 = select(vec4<f32>(-0.091050036), vec4<f32>(0.0), b0);
    let l8 = select(vec4<f32>(0.0795803), vec4<f32>(0.1609302), b0);
    let l10 = select(vec4<f32>(0.2461123), vec4<f32>(0.33791524), b0);
    let l12 = select(vec4<f32>(0.44070983), vec4<f32>(0.562617), b0);
    let l14 = select(vec4<f32>(0.72295684), vec4<f32>(1.0), b0);
    let lower = select(select(l0, l2, b1), select(l4, l6, b1), b2);
    let upper = select(select(l8, l10, b1), select(l12, l14, b1), b2);
    return select(lower, upper, (codes & vec4<u32>(8u)) != vec4<u32>(0u));
}
