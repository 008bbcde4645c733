// 1 / (1 + exp(-x)), without an infinity in between.
fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0f / (1.0f + exp(min(-x, vec4<f32>(80.0))));
}
