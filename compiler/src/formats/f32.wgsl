// 32-bit floats stand as they are.
