//! The shape of a table, and the SQL that makes it, compares it, mends it, and brings rows into it.

use std::collections::BTreeSet;

use arrow_schema::Schema;

use super::{
    column::Column,
    target::{VectorType, quoted},
};

/// The table for the moment that rows are copied into.
pub(super) const STAGE: &str = "embed_backfill_stage";
/// Its column of the numbers of rows.
const NUMBER: &str = "\"row number\"";

/// The shape of a table, but for the dimension of its vectors.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name, quoted.
    pub(super) name: String,
    /// Those that come along, the id first.
    pub(super) columns: Vec<Column>,
    /// Whether a row can have several vectors, of parts of its text.
    pub(super) windows: bool,
}

/// A table that is there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its columns, each with its type, and whether a row needs a value for it.
    pub(super) columns: Vec<(String, String, bool)>,
    /// The columns of each unique index.
    pub(super) keys: Vec<BTreeSet<String>>,
}

impl Found {
    fn column(&self, name: &str) -> Option<&str> {
        self.columns.iter().find(|(found, ..)| quoted(found) == name).map(|(_, kind, _)| kind.as_str())
    }

    /// The type of its vectors, which may be another than what would be made.
    pub(super) fn vector(&self) -> Option<VectorType> {
        let kind = self.column("\"embedding\"")?;
        kind.split('(').next().unwrap_or(kind).parse().ok()
    }
}

impl Table {
    /// For columns that come along, of which the first is the id.
    pub(super) fn new(name: String, columns: &Schema, windows: bool) -> Self {
        let columns = columns.fields().iter().map(|field| Column::of(field)).collect();
        Self { name, columns, windows }
    }

    /// What says which row it is.
    fn key(&self) -> Vec<&str> {
        let id = self.columns.first().map(|column| column.name.as_str());
        id.into_iter().chain(self.windows.then_some("\"window\"")).collect()
    }

    /// What stands beside what comes along: names, types, and whether there is always a value.
    fn others(&self, vector: &str) -> Vec<(&'static str, String, bool)> {
        let mut others = vec![
            ("\"embedding\"", vector.to_owned(), true),
            ("\"tokens\"", "integer".to_owned(), true),
            ("\"truncated\"", "boolean".to_owned(), true),
        ];
        if self.windows {
            others.push(("\"window\"", "integer".to_owned(), true));
            others.push(("\"start\"", "bigint".to_owned(), false));
            others.push(("\"end\"", "bigint".to_owned(), false));
        }
        others
    }

    /// Makes it.
    pub(super) fn create(&self, vector: VectorType, dimension: usize) -> String {
        let along = self.columns.iter().map(|column| format!("{} {}", column.name, column.types()[0]));
        let others = self.others(&format!("{}({dimension})", vector.sql()));
        let others = others
            .iter()
            .map(|(name, kind, always)| format!("{name} {kind}{}", if *always { " NOT NULL" } else { "" }));
        let key = format!("PRIMARY KEY ({})", self.key().join(", "));
        let all: Vec<String> = along.chain(others).chain([key]).collect();
        format!("CREATE TABLE IF NOT EXISTS {} ({})", self.name, all.join(", "))
    }

    /// Makes the table for the moment.
    pub(super) fn create_stage(&self, vector: VectorType) -> String {
        let along = self.columns.iter().map(|column| format!("{} {}", column.name, column.staged()));
        let others = self.others(vector.sql());
        let others = others.iter().map(|(name, kind, _)| format!("{name} {kind}"));
        let all: Vec<String> = std::iter::once(format!("{NUMBER} bigint")).chain(along).chain(others).collect();
        format!("CREATE TEMPORARY TABLE {STAGE} ({}) ON COMMIT DROP", all.join(", "))
    }

    /// Of rows with the same id, the last stays.
    pub(super) fn drop_duplicates(&self) -> String {
        let id = self.key()[0];
        format!(
            "DELETE FROM {STAGE} USING (SELECT {id} AS id, max({NUMBER}) AS last FROM {STAGE} GROUP BY {id}) AS kept \
             WHERE {STAGE}.{id} = kept.id AND {STAGE}.{NUMBER} < kept.last"
        )
    }

    /// Rows that are of windows of these texts as they were before, if they were longer then.
    pub(super) fn drop_former_windows(&self) -> Option<String> {
        let (table, id) = (&self.name, self.key()[0]);
        self.windows.then(|| {
            format!(
                "DELETE FROM {table} AS t WHERE EXISTS (SELECT FROM {STAGE} AS s WHERE s.{id} = t.{id}) AND NOT EXISTS \
                 (SELECT FROM {STAGE} AS s WHERE s.{id} = t.{id} AND s.\"window\" = t.\"window\")"
            )
        })
    }

    /// Brings the rows into the table. A row that is there as it is stays untouched. Always in the same order, so that two that write
    /// the same rows wait for each other, and not each for the other.
    pub(super) fn insert(&self, vector: VectorType) -> String {
        let (table, key) = (&self.name, self.key().join(", "));
        let others = self.others(vector.sql());
        let others: Vec<&str> = others.iter().map(|(name, ..)| *name).collect();
        let names: Vec<&str> =
            self.columns.iter().map(|column| column.name.as_str()).chain(others.iter().copied()).collect();
        let values: Vec<String> =
            self.columns.iter().map(Column::cast).chain(others.iter().map(ToString::to_string)).collect();
        let changing: Vec<&str> = names.iter().copied().filter(|name| !self.key().contains(name)).collect();
        let of = |table: &str| changing.iter().map(|name| format!("{table}.{name}")).collect::<Vec<_>>().join(", ");
        let set: Vec<String> = changing.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
        format!(
            "INSERT INTO {table} AS t ({}) SELECT {} FROM {STAGE} ORDER BY {key} ON CONFLICT ({key}) DO UPDATE SET {} \
             WHERE ({}) IS DISTINCT FROM ({})",
            names.join(", "),
            values.join(", "),
            set.join(", "),
            of("t"),
            of("EXCLUDED"),
        )
    }

    /// What has to be done to a table before rows can be brought into it; nothing, if it has the right shape. Vectors of which the
    /// dimension is not known yet fit all.
    pub(super) fn mend(&self, found: &Found, made: VectorType, dimension: Option<usize>) -> Vec<String> {
        let table = &self.name;
        let mut mend = Vec::new();
        let mut wanted: Vec<(&str, Vec<String>)> = self
            .columns
            .iter()
            .map(|column| (column.name.as_str(), column.types().iter().map(ToString::to_string).collect()))
            .collect();
        let vector = found.vector().unwrap_or(made).sql();
        let others = self.others(vector);
        wanted.extend(others.iter().map(|(name, kind, _)| (*name, vec![kind.clone()])));
        for (name, types) in wanted {
            let is_vector = name == "\"embedding\"";
            let wanted = match dimension {
                Some(dimension) if is_vector => format!("{vector}({dimension})"),
                _ => types[0].clone(),
            };
            let Some(kind) = found.column(name) else {
                mend.push(format!("ALTER TABLE {table} ADD COLUMN {name} {wanted};"));
                continue;
            };
            let base = kind.split('(').next().unwrap_or(kind);
            let fits = if is_vector && dimension.is_some() {
                // Without a dimension, it takes vectors of any.
                kind == wanted || kind == vector
            } else {
                // `numeric(5,2)` and `character varying(9)` hold less than may come.
                types.iter().any(|fitting| fitting == kind) || is_vector && base == vector
            };
            match fits {
                true => {}
                // No vector becomes one of another dimension.
                false if is_vector => {
                    mend.push(format!("ALTER TABLE {table} DROP COLUMN {name}, ADD COLUMN {name} {wanted};"));
                }
                false => {
                    mend.push(format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {wanted} USING {name}::{wanted};"));
                }
            }
        }
        let known: BTreeSet<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .chain(others.iter().map(|(name, ..)| *name))
            .collect();
        for (name, _, needed) in &found.columns {
            let name = quoted(name);
            if *needed && !known.contains(name.as_str()) {
                mend.push(format!("ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL;"));
            }
        }
        let key: BTreeSet<&str> = self.key().into_iter().collect();
        let is_key = |found: &BTreeSet<String>| {
            found.len() == key.len() && found.iter().all(|name| key.contains(quoted(name).as_str()))
        };
        if !found.keys.iter().any(is_key) {
            mend.push(format!("ALTER TABLE {table} ADD UNIQUE ({});", self.key().join(", ")));
        }
        mend
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;

    fn table(windows: bool) -> Table {
        let fields = vec![Field::new("id", DataType::Int64, true), Field::new("a b", DataType::Utf8, true)];
        Table::new("\"t\"".into(), &Schema::new(fields), windows)
    }

    fn found(columns: &[(&str, &str, bool)], keys: &[&[&str]]) -> Found {
        let text = ToString::to_string;
        Found {
            columns: columns.iter().map(|(name, kind, needed)| (text(name), text(kind), *needed)).collect(),
            keys: keys.iter().map(|key| key.iter().map(text).collect()).collect(),
        }
    }

    #[test]
    fn a_table_is_made_with_its_key() {
        assert_eq!(
            table(true).create(VectorType::Halfvec, 3),
            "CREATE TABLE IF NOT EXISTS \"t\" (\"id\" bigint, \"a b\" text, \"embedding\" halfvec(3) NOT NULL, \"tokens\" \
             integer NOT NULL, \"truncated\" boolean NOT NULL, \"window\" integer NOT NULL, \"start\" bigint, \"end\" \
             bigint, PRIMARY KEY (\"id\", \"window\"))"
        );
    }

    #[test]
    fn a_table_of_the_wrong_shape_is_mended() {
        let good = [
            ("id", "bigint", true),
            ("a b", "character varying", false),
            ("embedding", "halfvec(3)", true),
            ("tokens", "integer", true),
            ("truncated", "boolean", false),
            ("other", "text", false),
        ];
        let mend = |found: &Found, dimension| table(false).mend(found, VectorType::Vector, dimension);
        assert_eq!(mend(&found(&good, &[&["other"], &["id"]]), Some(3)), [""; 0]);
        assert_eq!(mend(&found(&good, &[&["id"]]), None), [""; 0]);
        let bad = [
            ("id", "integer", true),
            ("embedding", "vector(4)", true),
            ("tokens", "integer", true),
            ("truncated", "boolean", true),
            ("other", "text", true),
        ];
        assert_eq!(
            mend(&found(&bad, &[&["id", "other"]]), Some(3)),
            [
                "ALTER TABLE \"t\" ALTER COLUMN \"id\" TYPE bigint USING \"id\"::bigint;",
                "ALTER TABLE \"t\" ADD COLUMN \"a b\" text;",
                "ALTER TABLE \"t\" DROP COLUMN \"embedding\", ADD COLUMN \"embedding\" vector(3);",
                "ALTER TABLE \"t\" ALTER COLUMN \"other\" DROP NOT NULL;",
                "ALTER TABLE \"t\" ADD UNIQUE (\"id\");",
            ]
        );
    }
}
