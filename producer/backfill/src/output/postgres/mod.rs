//! A table of PostgreSQL with pgvector.
//!
//! Rows are known by their ids: writing one again changes nothing. So there is nothing to record of a table but how much of the input is in
//! it, and what was in doubt when a run or the server died is written again.
//!
//! | module | does |
//! |---|---|
//! | `target` | OUTPUT -> database, user, table |
//! | `passfile` | where the password comes from, beside PGPASSWORD |
//! | `link` | a connection, and its errors |
//! | `column` | a column that comes along -> its type and its values |
//! | `table` | the SQL: made, compared, mended, written |

mod column;
mod link;
mod passfile;
mod table;
mod target;
#[cfg(test)]
mod tests;

use std::{pin::pin, time::Duration};

use arrow_schema::{DataType, Field, Schema};
use embed_client::Backoff;
use embed_registry::masked;
use embed_schemas::{ErrorCode, WireError};
use pgvector::{HalfVector, Vector as PgVector};
use rustls::ClientConfig;
use tokio::time::Instant;
use tokio_postgres::{Client, binary_copy::BinaryCopyInWriter, types::ToSql};

pub(crate) use self::target::is_table;
use self::{
    column::{NO_NULL, Value},
    link::Link,
    table::{Found, STAGE, Table},
    target::{Target, VectorType},
};
use super::{
    LinesFile,
    line::{self, Files},
};
use crate::{
    Error,
    row::{Along, Done, Label, Vector},
};

/// Bytes of vectors that are written at once, whether it is time to or not.
const BATCH_BYTES: usize = 16 << 20;
/// For how long a server that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A table that rows are written to.
#[derive(Debug)]
pub(crate) struct Postgres {
    location: String,
    target: Target,
    table: Table,
    /// Whether rows have columns; otherwise, their id is known by what they are called.
    planned: bool,
    vector: VectorType,
    tls: Option<ClientConfig>,
    link: Link,
    /// Whether the table is there, with vectors of the right dimension.
    is_there: bool,
    /// Rows that are not written yet: the values of each, in the order of the columns of the table for the moment.
    batch: Vec<Vec<Value>>,
    dimension: usize,
    bytes: usize,
    /// Bytes from which on they are written before others are taken.
    batch_bytes: usize,
    /// Rows of an id that another row of the same transaction had, too: the last of them is in the table.
    duplicates: u64,
    /// Where rows without a vector go, if anywhere.
    failed: Option<(LinesFile, Files)>,
}

impl Postgres {
    /// Whether an output is a table.
    pub(crate) fn is_meant(location: &str) -> bool {
        is_table(location)
    }

    /// Connects, and compares the table, if there is one, with what comes: `columns`, the id first, or only
    /// the id, as text, and vectors, several of each row if
    /// `windows`.
    ///
    /// # Errors
    /// If it cannot be reached, or rows do not fit into the table; the message has the SQL that mends it.
    pub(crate) async fn open(
        location: &str,
        columns: Option<&Schema>,
        id_field: &str,
        windows: bool,
        failed: Option<(LinesFile, Files)>,
    ) -> Result<Self, Error> {
        if columns.is_some_and(|columns| columns.fields().first().is_none_or(|column| column.name() != id_field)) {
            return Err(Error::Backfill(format!(
                "{}: rows of a table need an id, and there is no column `{id_field}`: name one with --id-field",
                masked(location)
            )));
        }
        let variable = |name: &str| std::env::var(name).ok();
        let passwords = passfile::load(variable);
        let target = Target::read(location, variable, passwords.as_deref())
            .map_err(|reason| Error::Backfill(format!("{}: {reason}", masked(location))))?;
        Self::connect(location, target, columns, windows, failed).await
    }

    async fn connect(
        location: &str,
        target: Target,
        columns: Option<&Schema>,
        windows: bool,
        failed: Option<(LinesFile, Files)>,
    ) -> Result<Self, Error> {
        let only_id = Schema::new(vec![Field::new("id", DataType::Utf8, true)]);
        let planned = columns.is_some();
        let columns = columns.unwrap_or(&only_id);
        if columns.fields().is_empty() {
            return Err(Error::Backfill(format!(
                "{location}: rows of a table need an id: name the field with --id-field"
            )));
        }
        let failure = |error| Error::Backfill(format!("{location}: {}", link::describe(&error)));
        let tls = link::tls(&target).map_err(|reason| Error::Backfill(format!("{location}: {reason}")))?;
        let link = Link::open(&target.config, tls.clone()).await.map_err(failure)?;
        let table = Table::new(target.table.clone(), columns, windows);
        let vector = target.vector;
        let mut postgres = Self {
            location: location.to_owned(),
            target,
            table,
            planned,
            vector,
            tls,
            link,
            is_there: false,
            batch: Vec::new(),
            dimension: 0,
            bytes: 0,
            batch_bytes: BATCH_BYTES,
            duplicates: 0,
            failed,
        };
        let extension = "SELECT FROM pg_extension WHERE extname = 'vector'";
        if postgres.link.client.query_opt(extension, &[]).await.map_err(failure)?.is_none() {
            return Err(postgres.error("the database has no vectors yet: `CREATE EXTENSION vector;` makes them"));
        }
        if let Some(found) = postgres.find().await.map_err(failure)? {
            postgres.compare(&found, None)?;
        }
        Ok(postgres)
    }

    fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::Backfill(format!("{}: {reason}", self.location))
    }

    /// Looks at the table, if there is one.
    async fn find(&self) -> Result<Option<Found>, tokio_postgres::Error> {
        find(&self.link.client, &self.table.name).await
    }

    fn compare(&mut self, found: &Found, dimension: Option<usize>) -> Result<(), Error> {
        let mend = self.table.mend(found, self.vector, dimension);
        if !mend.is_empty() {
            let name = &self.table.name;
            return Err(self.error(format!("the table {name} has another shape; this mends it:\n{}", mend.join("\n"))));
        }
        self.vector = found.vector().unwrap_or(self.vector);
        Ok(())
    }

    /// Takes rows. One that the table cannot hold gets its reason, and is none with a vector any more.
    pub(crate) async fn write(&mut self, rows: &mut [Done]) -> Result<(), Error> {
        // First of all what can fail: of rows that are not recorded, since they could not be taken, nothing is to be in the file of failed rows.
        if self.bytes >= self.batch_bytes {
            self.flush().await?;
        }
        // The type of its vectors is known once the table is.
        self.prepare(rows).await?;
        let mut failed = Vec::new();
        for row in rows {
            if let Ok(vectors) = &row.content {
                match self.values(row, vectors) {
                    Ok(values) => {
                        self.bytes += vectors.iter().map(|vector| size_of_val(&*vector.values)).sum::<usize>();
                        self.batch.extend(values);
                    }
                    Err(reason) => row.content = Err(WireError::new(ErrorCode::InvalidRequest, reason)),
                }
            }
            if let (Err(error), Some((_, files))) = (&row.content, &self.failed) {
                line::write_rejected(&mut failed, row, files, error);
            }
        }
        self.failed.as_mut().map_or(Ok(()), |(file, _)| file.append(&failed))
    }

    /// Makes the table, or looks whether its vectors are of the right dimension, once there is one.
    async fn prepare(&mut self, rows: &[Done]) -> Result<(), Error> {
        let Some(vector) = rows.iter().flat_map(|row| row.content.iter().flatten()).next() else { return Ok(()) };
        if self.is_there {
            return Ok(());
        }
        self.dimension = vector.values.len();
        let create = self.table.create(self.vector, self.dimension);
        let mut tries = Tries::new();
        let found = loop {
            let found = async {
                if self.find().await?.is_none() {
                    self.link.client.batch_execute(&create).await?;
                }
                self.find().await
            };
            match found.await {
                Ok(found) => break found.unwrap_or_default(),
                Err(error) => self.again(&mut tries, error).await?,
            }
        };
        self.compare(&found, Some(self.dimension))?;
        self.is_there = true;
        Ok(())
    }

    /// The values of a row, for each of its vectors.
    fn values(&self, row: &Done, vectors: &[Vector]) -> Result<Vec<Vec<Value>>, String> {
        let no_id = || format!("line {}: the row has no id", row.origin.line);
        let batch = match &row.along {
            Along::Columns(batch, at) if self.planned => Some((batch, *at)),
            _ if self.planned => return Err("the row has no columns".into()),
            _ => None,
        };
        if let Some((batch, at)) = batch {
            if batch.num_columns() != self.table.columns.len() {
                return Err(format!("it has {} columns, and not {}", batch.num_columns(), self.table.columns.len()));
            }
            if batch.column(0).is_null(at) {
                return Err(no_id());
            }
        }
        let of = |vector: &Vector| -> Result<Vec<Value>, String> {
            // Row numbers are far below 2^63.
            let mut values: Vec<Value> = vec![Box::new(row.number.cast_signed())];
            match batch {
                Some((batch, at)) => {
                    let fields = batch.schema_ref().fields();
                    for ((column, field), array) in self.table.columns.iter().zip(fields).zip(batch.columns()) {
                        values.push(column.value(field, array, at)?);
                    }
                }
                None => {
                    let id = id(&row.label).ok_or_else(no_id)?;
                    if id.contains('\0') {
                        return Err(NO_NULL.into());
                    }
                    values.push(Box::new(id));
                }
            }
            values.push(self.embedding(&vector.values)?);
            values.push(Box::new(i32::try_from(vector.tokens).unwrap_or(i32::MAX)));
            values.push(Box::new(vector.truncated));
            if self.table.windows {
                let window = vector.window;
                values.push(Box::new(window.map_or(0, |window| i32::try_from(window.index).unwrap_or(i32::MAX))));
                values.push(Box::new(window.map_or(Some(0), |window| i64::try_from(window.start).ok())));
                values.push(Box::new(window.and_then(|window| i64::try_from(window.end).ok())));
            }
            Ok(values)
        };
        vectors.iter().map(of).collect()
    }

    fn embedding(&self, values: &[f32]) -> Result<Value, String> {
        let (is_finite, value): (bool, Value) = match self.vector {
            VectorType::Vector => {
                (values.iter().all(|value| value.is_finite()), Box::new(PgVector::from(values.to_vec())))
            }
            VectorType::Halfvec => {
                let halves = HalfVector::from_f32_slice(values);
                (halves.as_slice().iter().all(|value| value.is_finite()), Box::new(halves))
            }
        };
        if is_finite {
            Ok(value)
        } else {
            Err(format!("a number of the vector is none that a {} can hold", self.vector.sql()))
        }
    }

    /// Makes all that was written durable.
    pub(crate) async fn settle(&mut self) -> Result<(), Error> {
        self.flush().await?;
        self.failed.as_mut().map_or(Ok(()), |(file, _)| file.sync())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut tries = Tries::new();
        loop {
            // If the answer to the end of a transaction is lost, it is done twice, which changes nothing.
            match store(&mut self.link.client, &self.table, self.vector, &self.batch).await {
                Ok(duplicates) => {
                    self.duplicates += duplicates;
                    self.batch.clear();
                    self.bytes = 0;
                    return Ok(());
                }
                Err(error) => self.again(&mut tries, error).await?,
            }
        }
    }

    /// After an error: waits, and connects again if that is needed. The error that does not pass is ours.
    async fn again(&mut self, tries: &mut Tries, mut error: tokio_postgres::Error) -> Result<(), Error> {
        loop {
            if !link::passes(&error) || tries.since.elapsed() >= PATIENCE {
                return Err(self.error(link::describe(&error)));
            }
            tracing::warn!("{}: {}; trying again", self.location, link::describe(&error));
            tokio::time::sleep(tries.backoff.pause(None, rand::random())).await;
            if !self.link.client.is_closed() {
                return Ok(());
            }
            match Link::open(&self.target.config, self.tls.clone()).await {
                Ok(link) => {
                    self.link = link;
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
    }

    /// Goes on after what was recorded of the file of rows without a vector.
    pub(crate) fn go_on(&mut self, failed_bytes: u64) -> Result<(), Error> {
        self.failed.as_mut().map_or(Ok(()), |(file, _)| file.cut(failed_bytes))
    }

    /// Bytes of the file of rows without a vector.
    pub(crate) fn failed_bytes(&self) -> u64 {
        self.failed.as_ref().map_or(0, |(file, _)| file.bytes())
    }

    /// Says what cannot be seen in the table.
    pub(crate) fn finish(&self) {
        if self.duplicates > 0 {
            tracing::warn!(
                "{}: {} rows had the id of a later one: the last of each is in the table",
                self.location,
                self.duplicates
            );
        }
    }
}

/// How long something has been tried.
struct Tries {
    since: Instant,
    backoff: Backoff,
}

impl Tries {
    fn new() -> Self {
        Self { since: Instant::now(), backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)) }
    }
}

async fn find(client: &Client, table: &str) -> Result<Option<Found>, tokio_postgres::Error> {
    let columns = "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull AND NOT atthasdef AND attidentity = '' \
                   FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client.query(columns, &[&table]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let columns = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
    let columns = columns.collect::<Result<_, tokio_postgres::Error>>()?;
    let keys = "SELECT array(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey)) \
                FROM pg_index WHERE indrelid = to_regclass($1) AND indisunique AND indpred IS NULL AND indexprs IS NULL \
                AND indimmediate";
    let keys = client.query(keys, &[&table]).await?;
    let keys = keys.iter().map(|row| Ok(row.try_get::<_, Vec<String>>(0)?.into_iter().collect()));
    Ok(Some(Found { columns, keys: keys.collect::<Result<_, tokio_postgres::Error>>()? }))
}

/// Writes rows in one transaction. Returns how many had the id of a later one.
async fn store(
    client: &mut Client,
    table: &Table,
    vector: VectorType,
    rows: &[Vec<Value>],
) -> Result<u64, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(&table.create_stage(vector)).await?;
    let stage = transaction.prepare(&format!("SELECT * FROM {STAGE}")).await?;
    let types: Vec<_> = stage.columns().iter().map(|column| column.type_().clone()).collect();
    let sink = transaction.copy_in(&format!("COPY {STAGE} FROM STDIN (FORMAT binary)")).await?;
    let mut copy = pin!(BinaryCopyInWriter::new(sink, &types));
    for row in rows {
        copy.as_mut().write(&borrowed(row)).await?;
    }
    copy.finish().await?;
    let duplicates = transaction.execute(&table.drop_duplicates(), &[]).await?;
    if let Some(drop) = table.drop_former_windows() {
        transaction.execute(&drop, &[]).await?;
    }
    transaction.execute(&table.insert(vector), &[]).await?;
    transaction.commit().await?;
    Ok(duplicates)
}

/// The id of a row as text: that of a string, or the JSON of what else it is.
fn id(label: &Label) -> Option<String> {
    match label {
        Label::Id(json) if json != "null" => serde_json::from_str(json).ok().or_else(|| Some(json.clone())),
        _ => None,
    }
}

fn borrowed(row: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    row.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
}
