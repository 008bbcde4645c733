// The next digit of the N-th greatest, from how many have which; one invocation finds it for all.
workgroupBarrier();
if (index < 16u) {
    var count = 0u;
    //# trips 16
    for (var i = 16u * index; i < 16u * index + 16u; i++) {
        count += atomicLoad(&counts[i]);
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
    complete = select(0u, 1u, left == atomicLoad(&counts[digit]));
    found |= select(vec2<u32>(0u, digit << shift), vec2<u32>(digit << shift, 0u), high);
}
unknown = workgroupUniformLoad(&complete) == 0u;
known = found;
mask |= select(vec2<u32>(0u, 255u << shift), vec2<u32>(255u << shift, 0u), high);
