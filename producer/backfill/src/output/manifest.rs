//! What an output in parts is: written last, so that whoever finds it finds all that it names.

use std::collections::BTreeSet;

use embed_schemas::{JobId, Slug};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    PartFormat, VectorType,
    columns::Columns,
    layout::{Layout, PartFile},
    names::MANIFEST,
    place::Place,
    target::location,
};
use crate::{Error, InputFile, Long, Served, State};

/// The layout of the manifest.
const FORMAT: u32 = 1;

/// What an output in parts is. `manifest.json` beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout of the manifest, 1. Fields may be added without a new number.
    pub format: u32,
    /// The backfill's id.
    pub id: JobId,
    /// The model.
    pub model: Slug,
    /// The variant that was asked for, if one was.
    #[serde(default)]
    pub variant: Option<Slug>,
    /// What made the vectors.
    pub served: BTreeSet<Served>,
    /// The embedding space of the vectors; `None` if there are none.
    pub space: Option<String>,
    /// Numbers of a vector; `None` if there are none.
    pub dimensions: Option<usize>,
    /// Those that were asked for, if they were.
    #[serde(default)]
    pub dimensions_asked: Option<u32>,
    /// A prompt of the model, if one was asked for.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Whether texts that were too long were cut.
    pub truncate: bool,
    /// What became of them instead, if anything was asked for.
    #[serde(default, skip_serializing_if = "Long::is_default")]
    pub long: Long,
    /// The form of the parts.
    pub parts_format: PartFormat,
    /// How the numbers of vectors are kept.
    pub vector_type: VectorType,
    /// What was read.
    pub inputs: Vec<InputFile>,
    /// Which of the columns says what a row is called, if one does.
    #[serde(default)]
    pub id_column: Option<String>,
    /// The columns of each part, where parts have columns.
    pub columns: Vec<Column>,
    /// How many rows there are.
    pub counts: Counts,
    /// The parts, in the order of the input.
    pub parts: Vec<PartFile>,
    /// Files of the rows that have no vector.
    pub failed: Vec<PartFile>,
}

/// A column of each part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as Arrow calls it.
    #[serde(rename = "type")]
    pub kind: String,
}

/// How many rows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// That were read.
    pub read: u64,
    /// That were embedded.
    pub stored: u64,
    /// That have a vector which was there before: of an equal row, or of an earlier backfill.
    #[serde(default)]
    pub reused: u64,
    /// That have none.
    pub failed: u64,
    /// Vectors: more than rows that have one if some rows have several.
    pub vectors: u64,
    /// Vectors whose text was cut.
    pub truncated: u64,
}

impl Manifest {
    /// Of a backfill of which everything is done.
    pub(super) fn new(state: &State, layout: &Layout) -> Self {
        let State { parameters, mark, .. } = state.clone();
        let Layout { format, vector_type, id_column, .. } = layout.clone();
        let along = layout.columns.as_deref().filter(|_| format.is_columnar());
        let columns = along.zip(mark.dimensions).and_then(|(along, of)| Columns::new(along, layout, of).ok());
        let has_id = columns.as_ref().is_some_and(|columns| columns.schema().index_of(&id_column).is_ok());
        let column =
            |field: &arrow_schema::Field| Column { name: field.name().clone(), kind: field.data_type().to_string() };
        Self {
            format: FORMAT,
            id: state.id.clone(),
            model: parameters.model,
            variant: parameters.variant,
            served: state.served.clone(),
            space: state.space.clone(),
            dimensions: mark.dimensions,
            dimensions_asked: parameters.dimensions,
            prompt: parameters.prompt,
            truncate: parameters.truncate,
            long: parameters.long,
            parts_format: format,
            vector_type,
            inputs: state.plan.files.clone(),
            id_column: has_id.then_some(id_column),
            columns: columns.iter().flat_map(|columns| columns.schema().fields()).map(|field| column(field)).collect(),
            counts: Counts {
                read: state.done.rows,
                stored: state.stored,
                reused: state.reused,
                failed: state.failed,
                vectors: mark.parts.iter().map(|part| part.rows).sum(),
                truncated: mark.parts.iter().map(|part| part.truncated).sum(),
            },
            parts: mark.parts,
            failed: mark.failed,
        }
    }

    /// Reads the manifest at a location: its own, or that of what it describes.
    ///
    /// # Errors
    /// If there is none, or it cannot be understood.
    pub async fn read(at: &str) -> Result<Self, Error> {
        let place = Self::place(at)?;
        let bytes = place.get(MANIFEST).await?;
        Self::parse(&bytes).map_err(|reason| Error::Backfill(format!("{}/{MANIFEST}: {reason}", place.location())))
    }

    /// Where a manifest and what it describes are.
    pub(super) fn place(at: &str) -> Result<Place, Error> {
        let location = location(at.as_ref());
        let place = location.strip_suffix(MANIFEST).map_or(&*location, |place| place.trim_end_matches('/'));
        Place::open(if place.is_empty() { "." } else { place })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        /// What is looked at first.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        match serde_json::from_slice(bytes).map_err(|error| error.to_string())? {
            Head { format: FORMAT } => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            Head { format } => Err(format!("format {format}, this version reads format {FORMAT}")),
        }
    }
}

/// SHA-256 in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
