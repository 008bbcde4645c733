//! The page as one file: nothing in it asks for anything outside, and nothing from the plan becomes markup.

use serde::Serialize;

use crate::CliError;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 5] = [
    include_str!("page/base.js"),
    include_str!("page/graphs.js"),
    include_str!("page/kernel.js"),
    include_str!("page/charts.js"),
    include_str!("page/main.js"),
];
/// Lays graphs out: <https://github.com/dagrejs/dagre>, 3.1.3, `dist/dagre.min.js` without its reference to a source map.
const LIBRARY: &str = include_str!("vendor/dagre.min.js");
const LIBRARY_LICENSE: &str = include_str!("vendor/dagre.LICENSE");

/// The page of `data`, called `title`.
///
/// The page's policy allows its own scripts and styles by a number that is made of the data, so that text in the data,
/// whatever it is, cannot contain it, and forbids everything else: scripts in markup, and all requests.
///
/// # Errors
/// When the data cannot be written as JSON.
pub(super) fn html(title: &str, data: &impl Serialize) -> Result<String, CliError> {
    let json = serde_json::to_string(data).map_err(|e| CliError::Failed(format!("cannot write the report: {e}")))?;
    let nonce = blake3::hash(json.as_bytes()).to_hex();
    let library = format!("/*! dagre 3.1.3, https://github.com/dagrejs/dagre\n\n{LIBRARY_LICENSE}*/\n{LIBRARY}");
    let script = SCRIPTS.concat();
    let parts = [
        ("{nonce}", nonce.as_str()),
        ("{title}", &escaped(title)),
        ("{style}", STYLE),
        ("{data}", &embedded(&json)),
        ("{library}", &library),
        ("{script}", &script),
    ];
    Ok(filled(TEMPLATE, &parts))
}

/// The template with each slot replaced, in one pass: what stands in a part is not looked at again.
fn filled(template: &str, parts: &[(&str, &str)]) -> String {
    let mut page = String::with_capacity(template.len() + parts.iter().map(|(_, part)| part.len()).sum::<usize>());
    let mut rest = template;
    while let Some((at, (slot, part))) =
        parts.iter().filter_map(|part| Some((rest.find(part.0)?, part))).min_by_key(|(at, _)| *at)
    {
        page.push_str(&rest[..at]);
        page.push_str(part);
        rest = &rest[at + slot.len()..];
    }
    page + rest
}

/// JSON that can stand in a script element: `<` ends it or begins a comment in it only where it is written as itself.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Text that can stand in markup and in attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn data_never_becomes_markup() {
        let hostile = "</script><script>alert(1)</script><!--{script}{nonce}&quot;'\"";
        let page = html(hostile, &vec![hostile]).unwrap();
        assert_eq!(page.matches("alert(1)").count(), 2, "in the title and in the data");
        assert!(!page.contains("<script>alert"));
        assert_eq!(page.matches("</script>").count(), 3, "data, library, scripts");
        let line = page.lines().find(|line| line.contains("id=\"data\"")).unwrap();
        let json = line.split_once('>').unwrap().1.strip_suffix("</script>").unwrap();
        assert_eq!(serde_json::from_str::<Vec<String>>(json).unwrap(), [hostile]);
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = html("a", &0).unwrap();
        for (tag, attribute) in [("<script", "src="), ("<link", "http"), ("<img", "src="), ("<iframe", "")] {
            for found in page.split(tag).skip(1) {
                let head = found.split('>').next().unwrap();
                assert!(!attribute.is_empty() && !head.contains(attribute), "{tag}{head}>");
            }
        }
        assert!(page.contains("default-src 'none'") && !page.contains("unsafe"));
        assert!(page.contains("Permission is hereby granted"), "the library's license comes with it");
        for slot in ["{nonce}", "{title}", "{style}", "{data}", "{library}", "{script}"] {
            assert!(!page.contains(slot), "{slot}");
        }
    }
}
