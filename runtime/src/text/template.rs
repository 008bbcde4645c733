//! A chat template as Hugging Face runs it.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value as Json;
use warpweft_plan::Assets;

use super::{Message, clock};
use crate::RuntimeError;

/// Operations that a template may take: enough for any conversation, too few to hang.
const FUEL: u64 = 50_000_000;
const NAME: &str = "chat template";

/// A template and the special tokens that it can name.
pub(crate) struct Template {
    environment: Environment<'static>,
    tokens: BTreeMap<String, String>,
}

impl Template {
    /// The template of a plan: its own asset, or what tokenizer_config.json says.
    pub(super) fn of(assets: &Assets) -> Result<Template, RuntimeError> {
        let refused = |e: &dyn std::fmt::Display| RuntimeError::Template(e.to_string());
        let text = assets.texts.get(Assets::TOKENIZER_CONFIG).map_or("{}", String::as_str);
        let config: Json = serde_json::from_str(text).map_err(|e| refused(&format!("tokenizer_config: {e}")))?;
        let source = assets.texts.get(Assets::CHAT_TEMPLATE).cloned().or_else(|| named(&config["chat_template"]));
        let source = source.ok_or_else(|| refused(&"it has none"))?;
        let mut environment = environment().map_err(|e| refused(&e))?;
        environment.add_template_owned(NAME, source).map_err(|e| refused(&e))?;
        let entries = config.as_object().into_iter().flatten();
        let tokens = entries.filter(|(key, _)| key.ends_with("_token")).filter_map(|(key, value)| {
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            Some((key.clone(), text.to_owned()))
        });
        Ok(Template { environment, tokens: tokens.collect() })
    }

    /// The text of a conversation.
    pub(super) fn render(&self, messages: &[Message], prompted: bool) -> Result<String, RuntimeError> {
        let list: Vec<Value> =
            messages.iter().map(|m| context! { role => m.role.clone(), content => m.content.clone() }).collect();
        let own = context! { messages => list, add_generation_prompt => prompted };
        let template = self.environment.get_template(NAME).map_err(|e| explained(&e))?;
        let tokens = Value::from_pairs(self.tokens.iter().map(|(name, text)| (name.clone(), text.clone())));
        template.render(context! { ..own, ..tokens }).map_err(|e| explained(&e))
    }
}

/// The template of tokenizer_config.json: a text, or a list of named ones.
fn named(templates: &Json) -> Option<String> {
    let list = templates.as_array().map(Vec::as_slice).unwrap_or_default();
    let default = list.iter().find(|entry| entry["name"] == "default").or(list.first());
    templates.as_str().or_else(|| default?["template"].as_str()).map(str::to_owned)
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| clock::now(&format));
    environment.add_filter("tojson", tojson);
    Ok(environment)
}

/// What a template says itself if it raises, else what is wrong with it and where.
fn explained(error: &Error) -> RuntimeError {
    let mut cause: &Error = error;
    while let Some(inner) = std::error::Error::source(cause).and_then(|source| source.downcast_ref()) {
        cause = inner;
    }
    match (cause.kind(), cause.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => RuntimeError::Template(detail.into()),
        _ => RuntimeError::Template(error.to_string()),
    }
}

/// Python's `json.dumps(value, ensure_ascii=False)`: unlike Jinja's own filter, nothing is escaped for HTML.
fn tojson(value: &Value, indent: Option<Value>, arguments: Kwargs) -> Result<String, Error> {
    let escaped = minijinja::filters::tojson(value, indent, arguments)?;
    let escaped = escaped.as_str().unwrap_or_default();
    let mut text = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (plain, length) = match rest.get(at..at + 6) {
            Some("\\u003c") => ("<", 6),
            Some("\\u003e") => (">", 6),
            Some("\\u0026") => ("&", 6),
            Some("\\u0027") => ("'", 6),
            _ => (&rest[at..at + 2], 2),
        };
        text.push_str(plain);
        rest = &rest[at + length..];
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn render(template: &str, messages: &[(&str, &str)]) -> Result<String, RuntimeError> {
        let mut assets = Assets::default();
        assets.insert(Assets::CHAT_TEMPLATE, template);
        assets.insert(
            Assets::TOKENIZER_CONFIG,
            r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": null}"#,
        );
        let messages: Vec<_> = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        Template::of(&assets)?.render(&messages, true)
    }

    #[test]
    fn what_templates_use_is_there() {
        let cases = [
            ("{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}", "<s></s>"),
            (
                "{% if messages %}\n  {% for m in messages[1:] -%}\n {{ m.content.strip() + '!' }}{% endfor %}\n{% endif %}",
                "b!",
            ),
            ("{{ messages[0]['content'].split('>')[-1].upper() | trim }}", "<A"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if loop.first %}{% continue %}{% endif %}{{ ns.n }}{% endfor %}",
                "2",
            ),
            ("{{ messages[0] | tojson }}", r#"{"role": "user", "content": " <a"}"#),
            ("{{ 'a\\\\u003c \" \\n é &\\'' | tojson }}", "\"a\\\\u003c \\\" \\n é &'\""),
            ("{{ [1, {'k': true}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"k\": true\n  }\n]"),
            ("{% if tools is defined and tools %}x{% endif %}{{ add_generation_prompt }}", "True"),
            ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('y') }}{{ 'abc'.startswith('a') }}\n", "[y]True"),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template, &[("user", " <a"), ("assistant", " b ")]).unwrap(), expected, "{template}");
        }
        assert_eq!(render("{{ strftime_now('%Y') }}", &[]).unwrap().len(), 4);
    }

    #[test]
    fn what_a_template_raises_is_its_own_message() {
        let nested = "{% macro f() %}{{ raise_exception('No.') }}{% endmacro %}{{ f() }}";
        for template in ["{{ raise_exception('No.') }}", nested] {
            assert_eq!(render(template, &[]).unwrap_err().to_string(), "the chat template: No.");
        }
        for broken in ["{% if %}", "{{ nothing.there.at.all }}", "{{ 1 | no_such_filter }}"] {
            assert!(matches!(render(broken, &[]), Err(RuntimeError::Template(_))), "{broken}");
        }
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
        assert!(render(endless, &[]).unwrap_err().to_string().contains("fuel"));
        let none = Template::of(&Assets::default()).err().unwrap();
        assert_eq!(none.to_string(), "the chat template: it has none");
    }

    #[test]
    fn templates_may_have_names() {
        let mut assets = Assets::default();
        let config = r#"{"chat_template": [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]}"#;
        assets.insert(Assets::TOKENIZER_CONFIG, config);
        assert_eq!(Template::of(&assets).unwrap().render(&[], false).unwrap(), "b");
    }
}
