//! How the input is read, beside where it is: its format, which of its rows are taken, what their text is made of.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::format::Format;

/// Parts of a whole in which a share is counted.
pub(super) const MILLION: u32 = 1_000_000;

/// How the input is read. Kept with a backfill's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reading {
    /// The format of every file. By its ending or first bytes if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// What the text is made of, such as `{title}\n\n{body}`, in place of one field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Rows that are taken: those for which all of these hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Most rows that are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Which share of the rows is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// Which part of the input is this backfill's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Whether a file that cannot be read becomes a failed row, rather than the end of the run.
    pub skip_bad_files: bool,
}

/// `COLUMN=VALUE` or `COLUMN!=VALUE`. What is null or not there has the empty value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter {
    /// The column, or a path to it.
    pub column: String,
    /// The value, as text.
    pub value: String,
    /// Whether rows with another value are taken, rather than those with this one.
    pub negated: bool,
}

impl Filter {
    /// Whether a row with such a value is taken.
    pub(super) fn takes(&self, value: &str) -> bool {
        (value == self.value) != self.negated
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (column, value) =
            text.split_once('=').ok_or_else(|| format!("`{text}`: write COLUMN=VALUE or COLUMN!=VALUE"))?;
        let (column, negated) = column.strip_suffix('!').map_or((column, false), |column| (column, true));
        if column.is_empty() {
            return Err(format!("`{text}`: the column is missing; write COLUMN=VALUE or COLUMN!=VALUE"));
        }
        Ok(Self { column: column.to_owned(), value: value.to_owned(), negated })
    }
}

impl TryFrom<String> for Filter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.to_string()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}={}", self.column, if self.negated { "!" } else { "" }, self.value)
    }
}

/// A share of the rows, the same ones whenever and wherever they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Of so many of a million.
    pub per_million: u32,
    /// Which ones: another number, other rows.
    #[serde(default)]
    pub seed: u64,
}

/// A fraction such as `0.01`.
impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fraction: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
        let per_million = (fraction * f64::from(MILLION)).round();
        if !(1.0..=f64::from(MILLION)).contains(&per_million) {
            return Err(format!("`{text}`: write a fraction from 0.000001 to 1"));
        }
        // It is a whole number from 1 to a million.
        Ok(Self { per_million: per_million as u32, seed: 0 })
    }
}

/// One of several parts of the input, which have nothing in common and are all of it together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Counted from 1.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

/// Such as `3/16`.
impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if 1 <= index && index <= count => Ok(Self { index, count }),
            _ => Err(format!("`{text}`: write a part and how many there are, such as 3/16; the first is 1")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let filter: Filter = "lang!=a=b".parse().unwrap();
        assert_eq!((filter.column.as_str(), filter.value.as_str(), filter.negated), ("lang", "a=b", true));
        assert!(filter.takes("") && !filter.takes("a=b"));
        assert_eq!(filter.to_string().parse::<Filter>().unwrap(), filter);
        assert!("lang=".parse::<Filter>().unwrap().takes(""));
        for wrong in ["lang", "=a", "!=a"] {
            assert!(wrong.parse::<Filter>().unwrap_err().contains("COLUMN=VALUE"), "{wrong}");
        }
        assert_eq!("0.01".parse::<Sample>().unwrap().per_million, 10_000);
        assert_eq!("3/16".parse::<Shard>().unwrap(), Shard { index: 3, count: 16 });
        for wrong in ["0", "1.5", "-1", "x", "NaN"] {
            wrong.parse::<Sample>().unwrap_err();
        }
        for wrong in ["0/2", "3/2", "1", "/", "1/0"] {
            wrong.parse::<Shard>().unwrap_err();
        }
    }

    #[test]
    fn what_says_nothing_reads_everything() {
        assert_eq!(serde_json::from_str::<Reading>("{}").unwrap(), Reading::default());
        let reading = Reading { filters: vec!["a=b".parse().unwrap()], limit: Some(3), ..Reading::default() };
        let text = serde_json::to_string(&reading).unwrap();
        assert_eq!(text, r#"{"filters":["a=b"],"limit":3,"skip_bad_files":false}"#);
        assert_eq!(serde_json::from_str::<Reading>(&text).unwrap(), reading);
    }
}
