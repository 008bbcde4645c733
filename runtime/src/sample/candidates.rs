//! What the device says about the next token.

/// The greatest scores of a row over the vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// Logarithm of the sum of exponentials of all scores.
    pub log_sum: f32,
    /// The greatest scores, descending.
    pub scores: Vec<f32>,
    /// Their ids.
    pub ids: Vec<u32>,
}

impl Candidates {
    /// Reads a row of [`OutputKind::Candidates`](warpweft_plan::OutputKind::Candidates).
    pub fn of_row(row: &[f32]) -> Candidates {
        let (log_sum, rest) = row.split_first().map_or((f32::NAN, row), |(first, rest)| (*first, rest));
        let (scores, ids) = rest.split_at(rest.len() / 2);
        Candidates { log_sum, scores: scores.to_vec(), ids: ids.iter().map(|&id| id as u32).collect() }
    }

    /// All scores of a row over the vocabulary.
    pub fn of_all(scores: &[f32]) -> Candidates {
        let greatest = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = scores.iter().map(|&s| (f64::from(s) - greatest).exp()).sum();
        let mut ids: Vec<u32> = (0..scores.len() as u32).collect();
        ids.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
        let scores = ids.iter().map(|&id| scores[id as usize]).collect();
        Candidates { log_sum: (greatest + sum.ln()) as f32, scores, ids }
    }
}
