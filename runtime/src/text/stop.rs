//! Texts that end an answer, wherever the borders of tokens are.

/// Looks for stop texts and holds back what may become one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    stops: Vec<String>,
    held: String,
}

impl Stop {
    pub(crate) fn new(stops: &[String]) -> Stop {
        Stop { stops: stops.to_vec(), held: String::new() }
    }

    /// The text that can be shown now, and whether a stop text follows on it.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begun = |&at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let at = self.held.char_indices().map(|(at, _)| at).find(begun).unwrap_or(self.held.len());
        let rest = self.held.split_off(at);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::Stop;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stop = Stop::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, ends) = stop.push(piece);
            shown.push(text);
            if ends {
                return (shown, true);
            }
        }
        shown.push(stop.finish());
        (shown, false)
    }

    #[test]
    fn stops_are_found_across_pieces() {
        let expected = |texts: &[&str], ends| (texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), ends);
        assert_eq!(run(&["###"], &["a#", "#", "# b"]), expected(&["a", "", ""], true));
        assert_eq!(run(&["###"], &["a#", "#b", "c"]), expected(&["a", "##b", "c", ""], false));
        assert_eq!(run(&["ab", "bc"], &["xa", "c", "bc"]), expected(&["x", "ac", ""], true));
        assert_eq!(run(&["aab"], &["aa", "ab"]), expected(&["", "a"], true));
        assert_eq!(run(&["end"], &["e", "n"]), expected(&["", "", "en"], false));
        assert_eq!(run(&[], &["é", "日"]), expected(&["é", "日", ""], false));
        assert_eq!(run(&["日本"], &["x日", "曜"]), expected(&["x", "日曜", ""], false));
    }
}
