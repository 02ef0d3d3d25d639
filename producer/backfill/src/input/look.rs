//! What a file has: the names of its columns, and which of them are the text and the id if nobody has said it.

use std::io::{self, BufRead};

use arrow_schema::{DataType, SchemaRef};

use super::{
    columns::{field_at, plain},
    csv::Header,
    fields::{Fields, ID, Map, TEXT, TextOf},
    format::Format,
    is_stream,
    lines::{MAX_LINE, read_line},
    source::Source,
    tables::{Input, Opened},
};
use crate::Parameters;

/// Rows that are looked at.
pub(super) const ROWS: usize = 1_000;
/// Names that a column of texts is likely to have, the likeliest first.
const TEXTS: [&str; 13] = [
    "text",
    "content",
    "body",
    "document",
    "sentence",
    "passage",
    "chunk",
    "paragraph",
    "abstract",
    "description",
    "title",
    "question",
    "query",
];
/// Names that a column of ids is likely to have, the likeliest first.
const IDS: [&str; 11] = ["id", "_id", "doc_id", "docid", "document_id", "uuid", "guid", "key", "pk", "url", "uri"];

/// What a file has.
pub(super) enum Look {
    /// A schema.
    Table(SchemaRef),
    /// Names of columns, which hold strings.
    Header(Vec<String>),
    /// Rows, each of which may have any fields.
    Rows(Vec<Map>),
}

impl Look {
    /// Looks at rows of a text. `None` if there are none.
    pub(super) fn at_text(mut text: impl BufRead, format: Format, rows: usize) -> io::Result<Option<Self>> {
        if format != Format::Jsonl {
            return Ok(Header::read(text, format)?.map(|(header, _)| Self::Header(header.names)));
        }
        let mut maps = Vec::new();
        // Lines that are no rows are told when they are read as such.
        for _ in 0..rows {
            match read_line(&mut text, MAX_LINE)? {
                (_, 0) => break,
                (line, _) => maps.extend(line.ok().and_then(|line| {
                    serde_json::from_slice::<Map>(line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line)).ok()
                })),
            }
        }
        Ok((!maps.is_empty()).then_some(Self::Rows(maps)))
    }

    /// Looks at a table.
    pub(super) fn at_table(source: Source, format: Format) -> io::Result<Self> {
        Ok(Self::Table(Opened::new(Input::Whole(source), format, None)?.schema()))
    }

    /// Names of columns, and whether they hold texts.
    fn columns(&self) -> Vec<(String, bool)> {
        match self {
            Self::Table(schema) => {
                let fields = schema.fields().iter();
                fields.map(|field| (field.name().clone(), is_text(field.data_type()))).collect()
            }
            Self::Header(names) => names.iter().map(|name| (name.clone(), true)).collect(),
            Self::Rows(rows) => {
                let mut columns: Vec<(String, bool)> = Vec::new();
                for (name, value) in rows.iter().flatten() {
                    let is_text = value.get().starts_with('"');
                    match columns.iter_mut().find(|(known, _)| known == name) {
                        Some((_, known)) => *known |= is_text,
                        None => columns.push((name.clone(), is_text)),
                    }
                }
                columns
            }
        }
    }

    /// Whether there is a column, by its name or by a path to it. Rows of JSON lines may have any.
    fn has(&self, path: &str) -> bool {
        match self {
            Self::Table(schema) => field_at(schema, path).is_some(),
            Self::Header(names) => names.iter().any(|name| name == path),
            Self::Rows(_) => true,
        }
    }
}

/// Looks at a stream of tables.
pub(super) fn at_stream(stream: Box<dyn io::Read + Send>) -> io::Result<Look> {
    Ok(Look::Table(Opened::new(Input::Stream(stream), Format::Arrow, None)?.schema()))
}

/// Whether a column of the type holds texts.
pub(super) fn is_text(of: &DataType) -> bool {
    matches!(plain(of), DataType::Utf8 | DataType::LargeUtf8)
}

/// What is chosen where nothing was said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) text: Option<String>,
    pub(super) id: Option<String>,
    pub(super) notes: Vec<String>,
}

/// Chooses the fields of text and id where the user has not, and makes sure that what is named is there.
pub(super) fn choose(look: &Look, parameters: &Parameters, location: &str) -> Result<Chosen, String> {
    let columns = look.columns();
    let fields = Fields::of(parameters)?;
    let names = || columns.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let filters = fields.filters.iter().map(|filter| filter.column.as_str());
    let is_guessed = parameters.text_field.is_empty() && matches!(fields.text, TextOf::Field(_));
    let texts = if is_guessed { Vec::new() } else { fields.texts() };
    let id = Some(parameters.id_field.as_str()).filter(|name| !name.is_empty());
    if let Some(name) = texts.into_iter().chain(fields.kept()).chain(filters).chain(id).find(|name| !look.has(name)) {
        return Err(format!("{location}: there is no column `{name}`: there are {}", names()));
    }
    let mut chosen = Chosen::default();
    if parameters.id_field.is_empty() {
        match guess(&IDS, &columns, |_| true) {
            Some(name) => chosen.id = Some(name),
            None => chosen.notes.push(format!(
                "{location}: no column is called as ids are: rows are called by their lines; name one with --id-field"
            )),
        }
    }
    if is_guessed {
        let is_id = |name: &str| chosen.id.as_deref() == Some(name);
        let candidates: Vec<&str> =
            columns.iter().filter(|(name, is_text)| *is_text && !is_id(name)).map(|(name, _)| name.as_str()).collect();
        let only = if let [only] = candidates[..] { Some(only.to_owned()) } else { None };
        // A column of that name is meant, whatever is wrong with it.
        let usual = columns.iter().any(|(name, _)| name == TEXT).then(|| TEXT.to_owned());
        let text = usual.or_else(|| guess(&TEXTS, &columns, |is_text| is_text)).or(only);
        // Later rows of a stream may have more than its first.
        if text.is_none() && !is_stream(location) {
            return Err(format!(
                "{location}: it cannot be told which column is the text: name it with --text-field; there are {}",
                names()
            ));
        }
        chosen.text = text;
    }
    for (what, name, usual, option) in
        [("text", &chosen.text, TEXT, "--text-field"), ("id", &chosen.id, ID, "--id-field")]
    {
        if let Some(name) = name.as_ref().filter(|name| *name != usual) {
            chosen.notes.push(format!("{location}: `{name}` is taken for the {what}; name another with {option}"));
        }
    }
    Ok(chosen)
}

fn guess(likely: &[&str], columns: &[(String, bool)], is_right: fn(bool) -> bool) -> Option<String> {
    let right = || columns.iter().filter(|(_, is_text)| is_right(*is_text)).map(|(name, _)| name);
    let as_written = likely.iter().find_map(|likely| right().find(|name| name == likely));
    as_written
        .or_else(|| likely.iter().find_map(|likely| right().find(|name| name.eq_ignore_ascii_case(likely))))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reading;

    fn unnamed() -> Parameters {
        Parameters { text_field: String::new(), id_field: String::new(), ..crate::tests::parameters() }
    }

    fn chosen(columns: &[&str], parameters: &Parameters) -> Result<Chosen, String> {
        choose(&Look::Header(columns.iter().map(ToString::to_string).collect()), parameters, "f")
    }

    #[test]
    fn likely_names_are_chosen() {
        let names = |columns: &[&str]| {
            let chosen = chosen(columns, &unnamed()).unwrap();
            (chosen.text.unwrap(), chosen.id, chosen.notes.len())
        };
        assert_eq!(names(&["id", "text", "title"]), ("text".into(), Some("id".into()), 0));
        assert_eq!(names(&["Title", "Body", "_id"]), ("Body".into(), Some("_id".into()), 2));
        assert_eq!(names(&["key", "stuff"]), ("stuff".into(), Some("key".into()), 2));
        assert_eq!(names(&["text"]), ("text".into(), None, 1));
        let error = chosen(&["a", "b"], &unnamed()).unwrap_err();
        assert!(error.contains("--text-field") && error.contains("`a`, `b`"), "{error}");
    }

    #[test]
    fn what_is_named_must_be_there() {
        let named = Parameters { text_field: "t".into(), ..unnamed() };
        assert_eq!(chosen(&["t", "text"], &named).unwrap().text, None);
        let filters = vec!["lang=de".parse().unwrap()];
        for (parameters, missing) in [
            (named, "`t`"),
            (Parameters { id_field: "i".into(), ..unnamed() }, "`i`"),
            (Parameters { keep: vec!["k".into()], ..unnamed() }, "`k`"),
            (Parameters { reading: Reading { filters, ..Reading::default() }, ..unnamed() }, "`lang`"),
            (
                Parameters { reading: Reading { template: Some("{a}".into()), ..Reading::default() }, ..unnamed() },
                "`a`",
            ),
        ] {
            let error = chosen(&["id", "text"], &parameters).unwrap_err();
            assert!(error.contains(&format!("no column {missing}: there are `id`, `text`")), "{error}");
        }
    }
}
