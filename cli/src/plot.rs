//! Vectors, for people.

use warpweft_runtime::Matrix;

use crate::report::{Table, clip};
use crate::texts::Batch;

/// Texts whose likeness to each other is shown.
const COMPARED: usize = 12;
/// Characters of a text that are shown.
const TEXT: usize = 48;

/// What to call each sequence.
pub(crate) fn labels(batch: &Batch) -> Vec<String> {
    match batch {
        Batch::Texts(texts) => texts.iter().map(|text| clip(text, TEXT)).collect(),
        Batch::Ids(ids) => {
            ids.iter().map(|ids| clip(&ids.iter().map(u32::to_string).collect::<Vec<_>>().join(","), TEXT)).collect()
        }
    }
}

/// One line for each vector, and for a few of them how alike they are.
pub(crate) fn vectors(labels: &[String], tokens: &[usize], vectors: &Matrix) -> String {
    let mut table = Table::new(&[">#", "text", ">tokens", "vector"]);
    for (i, ((label, tokens), vector)) in labels.iter().zip(tokens).zip(vectors.iter()).enumerate() {
        table.row([(i + 1).to_string(), label.clone(), tokens.to_string(), few(vector)]);
    }
    let mut text = table.text();
    if (2..=COMPARED).contains(&vectors.rows) {
        text.push_str("\n\n");
        text.push_str(&likeness(vectors));
    }
    text
}

/// One line for the first rows of each sequence.
pub(crate) fn rows(labels: &[String], tokens: &[usize], rows: &Matrix) -> String {
    let mut table = Table::new(&[">#", "text", ">row", "hidden state"]);
    let mut first = 0;
    for (i, (label, &count)) in labels.iter().zip(tokens).enumerate() {
        for row in 0..count {
            let vector = rows.row(first + row).unwrap_or_default();
            let (number, label) = if row == 0 { ((i + 1).to_string(), label.clone()) } else { Default::default() };
            table.row([number, label, row.to_string(), few(vector)]);
        }
        first += count;
    }
    table.text()
}

/// The ids with the highest scores at each token.
pub(crate) fn scores(tokens: &[usize], scores: &Matrix) -> String {
    let mut table = Table::new(&[">#", ">row", "best ids (score)"]);
    let places = tokens.iter().enumerate().flat_map(|(i, &count)| (0..count).map(move |row| (i, row)));
    for ((sequence, row), values) in places.zip(scores.iter()) {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let best = order.iter().take(5).map(|&id| format!("{id} ({:.3})", values[id])).collect::<Vec<_>>();
        let number = if row == 0 { (sequence + 1).to_string() } else { String::new() };
        table.row([number, row.to_string(), best.join("  ")]);
    }
    table.text()
}

fn few(vector: &[f32]) -> String {
    let values: Vec<String> = vector.iter().take(4).map(|value| format!("{value:+.4}")).collect();
    let more = if vector.len() > 4 { format!(" … ({} values)", vector.len()) } else { String::new() };
    format!("{}{more}", values.join(" "))
}

/// The cosine of the angle between each two vectors.
fn likeness(vectors: &Matrix) -> String {
    let numbers: Vec<String> = (1..=vectors.rows).map(|n| format!(">{n}")).collect();
    let titles: Vec<&str> = ["cosine"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    let mut table = Table::new(&titles);
    for (i, a) in vectors.iter().enumerate() {
        let cells = vectors.iter().map(|b| format!("{:.3}", cosine(a, b)));
        table.row([(i + 1).to_string()].into_iter().chain(cells));
    }
    table.text()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert!((cosine(&[1.0, 1.0], &[2.0, 2.0]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn vectors_are_listed() {
        let matrix = Matrix { rows: 2, width: 5, values: vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0] };
        let text = vectors(&["a".into(), "b".into()], &[3, 4], &matrix);
        assert!(text.contains("+1.0000 +0.0000 +0.0000 +0.0000 … (5 values)"), "{text}");
        assert!(text.contains("cosine      1      2"), "{text}");
    }
}
