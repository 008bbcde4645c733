//! Rows times a gain, with the moments of what they were: what a norm behind a contraction needs, made by the kernel that makes
//! the rows.
//!
//! An RMS norm with a gain, contracted: `Σ_k (h_k g_k s) w_nk = s Σ_k (h_k g_k) w_nk` with `s = 1 / sqrt(Σ_k h_k² / K + ε)`.
//! So whoever makes h leaves `h ⊙ g` and sums of squares, and whoever contracts them only scales its result. A sum is of
//! [`GRANULE`] columns, since the columns of a row are made by many. Sums count by their magnitude:
//! those of a row are never negative, and so any numbers have a scale.

/// Columns whose squares are one sum: as many as four lanes beside each other make, which the narrowest subgroups have.
pub const GRANULE: u32 = 16;

/// Where the sums of a row of so many columns begin: behind its padding.
pub fn first(width: u32) -> u32 {
    width.next_multiple_of(warpweft_plan::PAD as u32)
}

/// How many sums such a row has.
pub fn count(width: u32) -> u32 {
    width.div_ceil(GRANULE)
}

/// The width of such a row with its sums.
pub fn width(columns: u32) -> u32 {
    first(columns) + count(columns)
}
