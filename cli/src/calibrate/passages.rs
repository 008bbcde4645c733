//! A text as an encoder would read it: passages of many lengths, each with what the tokenizer puts around a text.
//!
//! An encoder's rows depend on how long the text is and on the special tokens, which are a good part of a short one: rounded
//! by pieces of 512 tokens without them, MiniLM loses a third more on sentences than rounded by passages.

use warpweft_runtime::{Engine, RuntimeError};

/// Tokens of the passages that go together, special ones included: from a few words to a paragraph, and not more rows in all
/// than a first submission takes.
const LENGTHS: [usize; 5] = [8, 16, 32, 64, 128];
/// A text to see what is put around it.
const SAMPLE: &str = "a";

/// What a tokenizer puts around a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Around {
    /// As the engine's tokenizer does it.
    ///
    /// # Errors
    /// When the plan has no tokenizer.
    pub(super) fn of(engine: &mut Engine) -> Result<Around, RuntimeError> {
        Ok(Around::between(&engine.encode(SAMPLE, false)?, &engine.encode(SAMPLE, true)?))
    }

    /// What the second list of ids has around the first.
    fn between(inner: &[u32], outer: &[u32]) -> Around {
        let at = outer.windows(inner.len().max(1)).position(|window| window == inner);
        at.map_or_else(Around::default, |at| Around {
            before: outer[..at].to_vec(),
            after: outer[at + inner.len()..].to_vec(),
        })
    }

    /// All ids in order, as passages of at most `longest` tokens, in groups that go together.
    pub(super) fn passages(&self, ids: &[u32], longest: usize) -> Vec<Vec<Vec<u32>>> {
        let special = self.before.len() + self.after.len();
        let (mut groups, mut rest) = (Vec::new(), ids);
        while !rest.is_empty() {
            let mut group = Vec::new();
            for length in LENGTHS {
                let own = length.min(longest).saturating_sub(special).max(1);
                let (passage, tail) = rest.split_at(own.min(rest.len()));
                if !passage.is_empty() {
                    group.push([&self.before[..], passage, &self.after[..]].concat());
                }
                rest = tail;
            }
            groups.push(group);
        }
        groups
    }
}

/// For each row of some passages, by how much it is multiplied, so that in second moments each passage counts as much as
/// the others, whatever its length, as it does for who compares their vectors; together they count as many rows as they have.
pub(super) fn balance(passages: &[Vec<u32>]) -> Vec<f32> {
    let rows: usize = passages.iter().map(Vec::len).sum();
    let mean = rows as f32 / passages.len().max(1) as f32;
    let of = |passage: &Vec<u32>| std::iter::repeat_n((mean / passage.len() as f32).sqrt(), passage.len());
    passages.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_text_is_around_each_passage() {
        let around = Around::between(&[7, 8], &[101, 7, 8, 102]);
        assert_eq!(around, Around { before: vec![101], after: vec![102] });
        let ids: Vec<u32> = (0..300).collect();
        let groups = around.passages(&ids, 512);
        let lengths: Vec<Vec<usize>> = groups.iter().map(|group| group.iter().map(Vec::len).collect()).collect();
        assert_eq!(lengths, [vec![8, 16, 32, 64, 128], vec![8, 16, 32, 14]]);
        let all: Vec<u32> =
            groups.concat().iter().flat_map(|passage| &passage[1..passage.len() - 1]).copied().collect();
        assert_eq!(all, ids, "each id stands in one passage");
        assert!(groups.concat().iter().all(|passage| (passage[0], passage[passage.len() - 1]) == (101, 102)));
        let short = around.passages(&ids[..9], 5).concat();
        assert_eq!(short.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5]);
        assert_eq!(Around::between(&[7], &[7]), Around::default());
        assert_eq!(Around::between(&[], &[1, 2]), Around::default());
        assert!(around.passages(&[], 512).is_empty());
    }

    #[test]
    fn passages_count_alike() {
        let scales = balance(&[vec![0; 4], vec![0; 16]]);
        let sums = [&scales[..4], &scales[4..]].map(|part| part.iter().map(|s| s * s).sum::<f32>());
        assert!(sums.iter().all(|sum| (sum - 10.0).abs() < 1e-4), "{sums:?}");
    }
}
