//! Results as JSON. Numbers are written as the shortest text that reads back as the same f32.

use serde::ser::{Serialize, SerializeMap, Serializer};
use warpweft_runtime::Matrix;

/// `{"NAME": [[…], …], "tokens": [n, …]}`: a row for each sequence, or one for each token of all sequences in order.
pub(crate) struct Document<'d> {
    /// The key of the rows.
    pub(crate) name: &'d str,
    pub(crate) rows: &'d Matrix,
    /// Tokens of each sequence.
    pub(crate) tokens: &'d [usize],
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.name, &Rows(self.rows))?;
        map.serialize_entry("tokens", self.tokens)?;
        map.end()
    }
}

struct Rows<'d>(&'d Matrix);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.0.rows).filter_map(|row| self.0.row(row)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_short() {
        let rows = Matrix { rows: 2, width: 2, values: vec![0.1, 2.0, 1e-20, 6.5] };
        let document = Document { name: "x", rows: &rows, tokens: &[2, 1] };
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(text, r#"{"x":[[0.1,2.0],[1e-20,6.5]],"tokens":[2,1]}"#);
    }
}
