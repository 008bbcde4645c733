//! Kernel files with slots.

use super::KernelError;

/// Replaces the slots of a kernel file; those without a text keep what the file has.
///
/// A slot is what stands between a line `//# slot NAME` and a line `//# end`.
///
/// # Errors
/// A text for a slot that the file does not have, and a slot that does not end.
pub(crate) fn fill(source: &str, texts: &[(&str, String)]) -> Result<String, KernelError> {
    let mut out = String::with_capacity(source.len() * 2);
    let mut filled = vec![false; texts.len()];
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.trim().strip_prefix("//# slot ") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let text = texts.iter().position(|(slot, _)| *slot == name);
        if let Some(i) = text {
            filled[i] = true;
            for line in texts[i].1.lines() {
                out.push_str(if line.is_empty() { "" } else { indent });
                out.push_str(line);
                out.push('\n');
            }
        }
        loop {
            let line = lines.next().ok_or_else(|| KernelError::Slot(name.to_owned()))?;
            if line.trim() == "//# end" {
                break;
            }
            if text.is_none() {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    match filled.iter().position(|f| !f) {
        Some(i) => Err(KernelError::Slot(texts[i].0.to_owned())),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fills_slots_and_keeps_defaults() {
        let source = "a\n  //# slot one\n  b\n  //# end\n//# slot two\nc\n//# end\nd\n";
        assert_eq!(fill(source, &[("one", "x\n\ny".to_owned())]).unwrap(), "a\n  x\n\n  y\nc\nd\n");
        assert_eq!(fill(source, &[]).unwrap(), "a\n  b\nc\nd\n");
        assert!(matches!(fill(source, &[("three", String::new())]), Err(KernelError::Slot(s)) if s == "three"));
        assert!(matches!(fill("//# slot one\n", &[]), Err(KernelError::Slot(_))));
    }
}
