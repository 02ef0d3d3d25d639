//! A text that is made of several fields.

use std::borrow::Cow;

/// Texts and names of fields, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl Template {
    /// Reads `{title}\n\n{body}`. `{{` and `}}` are braces; `\n`, `\t` and `\\` are what they are in programs, since shells leave them alone.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| format!("--template: {reason}; write such as '{{title}}\\n\\n{{body}}'");
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\\' => match rest.next() {
                    Some('n') => plain.push('\n'),
                    Some('t') => plain.push('\t'),
                    Some('\\') => plain.push('\\'),
                    Some(other) => plain.extend(['\\', other]),
                    None => plain.push('\\'),
                },
                '{' if rest.next_if_eq(&'{').is_some() => plain.push('{'),
                '}' if rest.next_if_eq(&'}').is_some() => plain.push('}'),
                '}' => return Err(wrong("there is a } without a {")),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err(wrong("a { has no }")),
                        }
                    }
                    if name.is_empty() {
                        return Err(wrong("there is a {} without a name"));
                    }
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                    parts.push(Part::Field(name));
                }
                c => plain.push(c),
            }
        }
        parts.push(Part::Text(plain));
        parts.retain(|part| *part != Part::Text(String::new()));
        let template = Self(parts);
        if template.fields().next().is_none() {
            return Err(wrong("it names no field"));
        }
        Ok(template)
    }

    /// The fields that it names.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Field(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text of a row. A field that is null or not there is empty; if all are, there is no text.
    pub(super) fn fill<'a>(&self, value: impl Fn(&str) -> Option<Cow<'a, str>>) -> Result<String, String> {
        let mut text = String::new();
        let mut is_anything = false;
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Field(name) => {
                    if let Some(value) = value(name) {
                        is_anything = true;
                        text.push_str(&value);
                    }
                }
            }
        }
        if is_anything {
            return Ok(text);
        }
        let names: Vec<String> = self.fields().map(|name| format!("`{name}`")).collect();
        Err(format!("there is no field {}", names.join(" or ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_made_of_fields() {
        let template = Template::parse(r"{title}\n\n{a.b} {{x}}\d").unwrap();
        assert_eq!(template.fields().collect::<Vec<_>>(), ["title", "a.b"]);
        let fill = |known: &[(&str, &str)]| {
            template.fill(|name| {
                known.iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Owned((*value).to_owned()))
            })
        };
        assert_eq!(fill(&[("title", "T"), ("a.b", "B")]).unwrap(), "T\n\nB {x}\\d");
        assert_eq!(fill(&[("a.b", "B")]).unwrap(), "\n\nB {x}\\d");
        assert!(fill(&[]).unwrap_err().contains("`title` or `a.b`"));
        for wrong in ["", "text", "{", "{}", "}", "{a"] {
            assert!(Template::parse(wrong).unwrap_err().contains("--template"), "{wrong}");
        }
    }
}
