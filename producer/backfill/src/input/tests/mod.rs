//! Files of every format, as they are read in a backfill.

mod plans;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{Int64Array, RecordBatch, StringArray, StructArray};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{DataType, Field, Fields, Schema};
use embed_testkit::S3Server;
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use proptest::prelude::*;
use serde_json::json;

use super::{find::Stores, *};
use crate::{
    Parameters, Position,
    row::{Along, Label, Row},
};

/// Endings of all formats.
const FORMATS: [&str; 9] = ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "tsv.zst", "parquet", "arrow", "arrows"];

fn lang(n: usize) -> &'static str {
    if n.is_multiple_of(3) { "de" } else { "en" }
}

/// A table of ids, texts, languages, and the texts once more within something.
fn table(texts: &[String]) -> RecordBatch {
    let text = Arc::new(StringArray::from_iter_values(texts));
    let inner = Fields::from(vec![Field::new("body", DataType::Utf8, true)]);
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("lang", DataType::Utf8, true),
        Field::new("doc", DataType::Struct(inner.clone()), true),
    ]);
    let ids = Int64Array::from_iter_values(0..texts.len() as i64);
    let langs = StringArray::from_iter_values((0..texts.len()).map(lang));
    let doc = StructArray::new(inner, vec![text.clone()], None);
    RecordBatch::try_new(schema.into(), vec![Arc::new(ids), text, Arc::new(langs), Arc::new(doc)]).unwrap()
}

/// A file of these texts, as its ending says.
fn content(ending: &str, texts: &[String]) -> Vec<u8> {
    let batch = table(texts);
    let slices = || (0..texts.len()).step_by(3).map(|at| batch.slice(at, 3.min(texts.len() - at)));
    let separated = |delimiter| {
        let mut writer = ::csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
        writer.write_record(["id", "text", "lang"]).unwrap();
        for (n, text) in texts.iter().enumerate() {
            writer.write_record([&n.to_string(), text, lang(n)]).unwrap();
        }
        writer.into_inner().unwrap()
    };
    let (format, compression) = ending.split_once('.').unwrap_or((ending, ""));
    let plain = match format {
        "csv" => separated(b','),
        "tsv" => separated(b'\t'),
        "parquet" => {
            let properties = WriterProperties::builder().set_max_row_group_row_count(Some(3)).build();
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.into_inner().unwrap()
        }
        "arrow" => {
            let mut writer = FileWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
            slices().for_each(|slice| writer.write(&slice).unwrap());
            writer.into_inner().unwrap()
        }
        "arrows" => {
            let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
            slices().for_each(|slice| writer.write(&slice).unwrap());
            writer.into_inner().unwrap()
        }
        _ => {
            let line =
                |(n, text)| json!({"id": n, "text": text, "lang": lang(n), "doc": {"body": text}}).to_string() + "\n";
            texts.iter().enumerate().map(line).collect::<String>().into_bytes()
        }
    };
    match compression {
        "gz" => {
            // Several members, as programs write that compress in parallel.
            let parts = plain.chunks(plain.len().div_ceil(2).max(1));
            parts.flat_map(gzip).collect()
        }
        "zst" => zstd::encode_all(&plain[..], 0).unwrap(),
        _ => plain,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("row {n}")).collect()
}

/// A folder with files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, content)| fs::write(folder.at(name), content).unwrap());
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn parameters(&self) -> Parameters {
        of(self.0.path())
    }
}

fn of(input: &Path) -> Parameters {
    Parameters { inputs: vec![input.to_str().unwrap().to_owned()], ..crate::tests::parameters() }
}

fn planned(parameters: &Parameters, carry: Carry) -> Result<Plan, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Plan::make(parameters, carry))
}

fn read_from(plan: &Plan, parameters: &Parameters, at: Position) -> Result<Vec<Row>, Error> {
    plan.rows(parameters, at).unwrap().collect()
}

fn read(parameters: &Parameters) -> Result<Vec<Row>, Error> {
    read_from(&planned(parameters, Carry::Json)?, parameters, Position::default())
}

fn shown(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.content.clone().unwrap_or_else(|error| error.message)).collect()
}

/// Without what only says how far a compressed file is.
type Same = (u64, Label, Result<String, String>, Along, u64);

fn same(rows: &[Row]) -> Vec<Same> {
    let of = |row: &Row| {
        let content = row.content.clone().map_err(|error| error.message);
        (row.number, row.label.clone(), content, row.along.clone(), row.end.lines)
    };
    rows.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// What is read is what was written, in every format; and reading on from any row gives what reading through gives.
    #[test]
    fn every_format_can_be_read_on_anywhere(
        texts in prop::collection::vec("[a ä\"\\n,]{1,5}x", 1..11),
        format in prop::sample::select(&FORMATS[..]),
        sample in prop::option::of(300_000u32..900_000),
        cut in 0usize..10,
    ) {
        let folder = Folder::new(&[(&format!("a.{format}"), content(format, &texts)), (&format!("b.{format}"), content(format, &texts))]);
        let sample = sample.map(|per_million| Sample { per_million, seed: 1 });
        let reading = Reading { sample, ..Reading::default() };
        let parameters = Parameters { keep: vec!["lang".into()], reading, ..folder.parameters() };
        let plan = planned(&parameters, Carry::Json).unwrap();
        let all = read_from(&plan, &parameters, Position::default()).unwrap();
        if sample.is_none() {
            prop_assert_eq!(shown(&all), [&texts[..], &texts].concat());
        }
        for (n, row) in (0..).zip(&all) {
            let at = row.content.as_ref().ok().and_then(|text| texts.iter().position(|known| known == text)).unwrap();
            let known = texts.iter().enumerate().filter(|(_, text)| **text == texts[at]);
            prop_assert!(known.clone().any(|(n, _)| row.along == Along::Json(format!(",\"lang\":\"{}\"", lang(n)))), "{:?}", row);
            prop_assert_eq!(row.number, n);
        }
        if let Some(row) = all.get(cut) {
            let rest = read_from(&plan, &parameters, row.end).unwrap();
            prop_assert_eq!(same(&rest), same(&all[cut + 1..]));
        }
    }
}

#[test]
fn rows_are_selected_alike_in_every_format() {
    for format in FORMATS {
        let folder = Folder::new(&[(&format!("a.{format}"), content(format, &texts(10)))]);
        let with = |reading| shown(&read(&Parameters { reading, ..folder.parameters() }).unwrap());
        let filtered = |filter: &str| with(Reading { filters: vec![filter.parse().unwrap()], ..Reading::default() });
        assert_eq!(filtered("lang=de"), ["row 0", "row 3", "row 6", "row 9"], "{format}");
        assert_eq!(filtered("id!=4").len(), 9, "{format}");
        assert_eq!(with(Reading { limit: Some(2), ..Reading::default() }), ["row 0", "row 1"], "{format}");
        let template = Some(r"{id}: {text}\n{lang}".into());
        assert_eq!(with(Reading { template, ..Reading::default() })[3], "3: row 3\nde", "{format}");
        let shards =
            (1..=3).map(|index| with(Reading { shard: Some(Shard { index, count: 3 }), ..Reading::default() }));
        let mut all: Vec<String> = shards.flatten().collect();
        all.sort();
        assert_eq!(all, texts(10), "{format}");
    }
}

#[test]
fn texts_within_others_and_columns_without_names_are_found() {
    for format in ["jsonl", "parquet", "arrow"] {
        let folder = Folder::new(&[(&format!("a.{format}"), content(format, &texts(4)))]);
        let parameters = Parameters { text_field: "doc.body".into(), ..folder.parameters() };
        assert_eq!(shown(&read(&parameters).unwrap()), texts(4), "{format}");
        let unnamed = Parameters { text_field: String::new(), id_field: String::new(), ..folder.parameters() };
        let rows = read(&unnamed).unwrap();
        assert_eq!((shown(&rows), rows[3].label.clone()), (texts(4), Label::Id("3".into())), "{format}");
    }
    let folder = Folder::new(&[("a.csv", b"Title,Body,_id\na,b,c\n".to_vec())]);
    let unnamed = Parameters { text_field: String::new(), id_field: String::new(), ..folder.parameters() };
    let plan = planned(&unnamed, Carry::Json).unwrap();
    assert!(plan.notes.iter().any(|note| note.contains("`Body` is taken for the text")), "{:?}", plan.notes);
    // What was decided is in the state.
    let plan: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    let rows = read_from(&plan, &unnamed, Position::default()).unwrap();
    assert_eq!((shown(&rows), rows[0].label.clone()), (vec!["b".to_owned()], Label::Id("\"c\"".into())));
}

#[test]
fn columns_come_along_with_their_types() {
    for (format, id, kept) in
        [("jsonl", "Int64", "id, lang, doc"), ("csv", "Utf8", "id, lang"), ("parquet", "Int64", "id, lang, doc")]
    {
        let folder = Folder::new(&[(&format!("a.{format}"), content(format, &texts(5)))]);
        let parameters = Parameters { keep: vec!["all".into()], ..folder.parameters() };
        let plan = planned(&parameters, Carry::Columns).unwrap();
        let columns = plan.columns.clone().unwrap();
        assert_eq!(columns.field(0).data_type().to_string(), id, "{format}");
        let mut names: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
        names[1..].sort_by_key(|name| *name != "lang");
        assert_eq!(names.join(", "), kept, "{format}");
        let plan: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(plan.columns, Some(columns.clone()), "{format}");
        for row in read_from(&plan, &parameters, Position::default()).unwrap() {
            let Along::Columns(batch, n) = &row.along else { panic!("{row:?}") };
            assert_eq!(batch.schema(), columns);
            let shown = |name| {
                let column = batch.column_by_name(name).unwrap();
                arrow_cast::display::array_value_to_string(column, *n).unwrap()
            };
            assert_eq!((shown("id"), shown("lang")), (row.number.to_string(), lang(row.number as usize).to_owned()));
        }
    }
    let folder = Folder::new(&[("a.jsonl", b"{\"text\":\"a\",\"digest\":1}\n".to_vec())]);
    let parameters = Parameters { keep: vec!["all".into()], ..folder.parameters() };
    let error = planned(&parameters, Carry::Columns).unwrap_err().to_string();
    assert!(error.contains("`digest` cannot come along") && error.contains("--keep"), "{error}");
}

/// A column of a table may be of a type that no line of text has.
#[test]
fn lines_behind_a_table_fill_its_columns_or_fail() {
    let folder = Folder::new(&[
        ("a.parquet", content("parquet", &texts(2))),
        ("b.jsonl", b"{\"id\":7,\"text\":\"a\"}\n".to_vec()),
    ]);
    let parameters = Parameters { keep: vec!["all".into()], ..folder.parameters() };
    let rows = || read_from(&planned(&parameters, Carry::Columns).unwrap(), &parameters, Position::default()).unwrap();
    let fine = rows();
    assert_eq!(fine.iter().map(|row| row.content.is_ok()).collect::<Vec<_>>(), [true; 3]);
    std::fs::write(folder.at("b.jsonl"), "{\"id\":7,\"text\":\"a\",\"doc\":{\"body\":\"b\"}}\n").unwrap();
    let error = rows()[2].content.clone().unwrap_err().message;
    assert!(error.contains("line 1: `doc` is a column of Struct") && error.contains("--keep"), "{error}");
}

#[test]
fn files_that_differ_are_put_into_the_same_columns_or_said() {
    let field = |name: &str, of| Field::new(name, of, true);
    let write = |folder: &Folder, name: &str, batch: &RecordBatch| {
        let mut writer = ArrowWriter::try_new(File::create(folder.at(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
    };
    let text = || Arc::new(StringArray::from(vec!["a", "b"]));
    let first = Schema::new(vec![field("text", DataType::Utf8), field("n", DataType::Int64)]);
    let first = RecordBatch::try_new(first.into(), vec![text(), Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
    let folder = Folder::new(&[]);
    write(&folder, "a.parquet", &first);
    let halves = arrow_array::Float64Array::from(vec![1.0, 1.5]);
    let second = Schema::new(vec![field("text", DataType::Utf8), field("n", DataType::Float64)]);
    write(&folder, "b.parquet", &RecordBatch::try_new(second.into(), vec![text(), Arc::new(halves)]).unwrap());
    write(&folder, "c.parquet", &first.project(&[0]).unwrap());
    let parameters = Parameters { keep: vec!["all".into()], id_field: String::new(), ..folder.parameters() };
    let plan = planned(&parameters, Carry::Columns).unwrap();
    let rows = read_from(&plan, &parameters, Position::default()).unwrap();
    // A number that would be rounded, and none of the others.
    assert_eq!(rows.iter().filter(|row| row.content.is_err()).count(), 1);
    assert!(shown(&rows)[3].contains("line 2: `n` is 1.5, and the output's column holds Int64"), "{:?}", shown(&rows));
    let third = Schema::new(vec![field("text", DataType::Utf8), field("more", DataType::Int64)]);
    write(&folder, "d.parquet", &RecordBatch::try_new(third.into(), first.columns().to_vec()).unwrap());
    let plan = planned(&parameters, Carry::Columns).unwrap();
    let error = read_from(&plan, &parameters, Position::default()).unwrap_err().to_string();
    assert!(error.contains("d.parquet: `more` is not among the columns"), "{error}");
}

#[test]
fn bad_files_are_said_with_their_place_and_can_be_left_out() {
    let parquet = content("parquet", &texts(10));
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 20].to_vec();
    let zipped = gzip("{\"text\":\"row\"}\n".repeat(50).as_bytes());
    let utf16 = "\u{feff}{}\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (name, bad, said, rows_before) in [
        ("b.parquet", cut(&parquet), "b.parquet: ", 0),
        ("b.parquet", Vec::new(), "b.parquet: ", 0),
        ("b.parquet", b"PAR1 and nothing else PAR1".to_vec(), "b.parquet: ", 0),
        ("b.arrow", cut(&content("arrow", &texts(10))), "b.arrow: ", 0),
        ("b.jsonl.gz", cut(&zipped), "it is cut short", 50),
        ("b.jsonl.gz", b"{\"text\":\"no gzip\"}\n".to_vec(), "compressed data cannot be read", 0),
        ("b.jsonl", utf16, "UTF-16", 0),
        ("b.csv", parquet.clone(), "it is a Parquet file", 0),
        ("b.csv", b"id,other\n1,2\n".to_vec(), "there is no column `text`: there are id, other", 0),
    ] {
        let folder = Folder::new(&[
            ("a.jsonl", content("jsonl", &texts(2))),
            (name, bad),
            ("c.jsonl", content("jsonl", &texts(2))),
        ]);
        let parameters = folder.parameters();
        let is_row = name == "b.csv" && said.contains("no column");
        if !is_row {
            let error = read(&parameters).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains(name), "{name}: {error}");
        }
        let reading = Reading { skip_bad_files: true, ..Reading::default() };
        let parameters = Parameters { reading, ..parameters };
        let rows = read(&parameters).unwrap();
        let shown = shown(&rows);
        let failed: Vec<&String> = shown.iter().filter(|text| !text.starts_with("row")).collect();
        assert_eq!(failed.len(), 1, "{shown:?}");
        assert!(failed[0].contains(said), "{failed:?}");
        assert!(shown.len() >= 5 && shown.len() <= 5 + rows_before, "{name}: {shown:?}");
        let at = rows.iter().position(|row| row.content.is_err()).unwrap();
        let plan = planned(&parameters, Carry::Json).unwrap();
        assert_eq!(same(&read_from(&plan, &parameters, rows[at].end).unwrap()), same(&rows[at + 1..]));
    }
}

#[test]
fn a_column_of_another_type_is_no_text() {
    let folder = Folder::new(&[("a.parquet", content("parquet", &texts(3)))]);
    let parameters = Parameters { text_field: "id".into(), id_field: "lang".into(), ..folder.parameters() };
    let error = read(&parameters).unwrap_err().to_string();
    assert!(error.contains("a.parquet: the column `id` holds Int64, no text"), "{error}");
}

#[test]
fn bytes_that_are_no_text_cost_their_row_only() {
    let folder = Folder::new(&[("a.jsonl", b"{\"text\":\"caf\xe9\"}\n{\"text\":\"row\"}\n".to_vec())]);
    assert_eq!(
        shown(&read(&folder.parameters()).unwrap()),
        ["line 1: not UTF-8, at byte 13: is it in another encoding?", "row"]
    );
}

fn bucket(server: &S3Server, name: &str, secret: Option<&str>) -> Arc<dyn ObjectStore> {
    let mut settings = S3Server::settings(&server.address());
    settings.extend(secret.map(|secret| ("AWS_SECRET_ACCESS_KEY".to_owned(), secret.to_owned())));
    let builder = settings.into_iter().fold(AmazonS3Builder::new().with_bucket_name(name), |builder, (key, value)| {
        builder.with_config(key.to_ascii_lowercase().parse().unwrap(), value)
    });
    Arc::new(builder.build().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_read_like_folders() {
    // Opening one chooses how TLS is done.
    drop(embed_registry::open_store("s3://any"));
    let server = S3Server::start();
    server.make_bucket("rows");
    let store = bucket(&server, "rows", None);
    for format in FORMATS {
        let path = format!("in/{format}/a.{format}").as_str().into();
        store.put(&path, content(format, &texts(10)).into()).await.unwrap();
    }
    store.put(&"in/_SUCCESS".into(), "".into()).await.unwrap();
    let stores = Stores::of("s3://rows", store.clone());
    let of = |input: &str| Parameters { inputs: vec![input.to_owned()], ..crate::tests::parameters() };
    let found = async |input: &str| Plan::make_from(&of(input), Carry::Json, stores.clone()).await;
    for (input, files) in [
        ("s3://rows/in", FORMATS.len()),
        ("s3://rows/in/", FORMATS.len()),
        ("s3://rows", FORMATS.len()),
        ("s3://rows/in/*/*.parquet", 1),
        ("s3://rows/in/*/a.jsonl*", 3),
        ("s3://rows/in/csv/a.csv", 1),
    ] {
        assert_eq!(found(input).await.unwrap().files.len(), files, "{input}");
    }
    assert!(found("s3://rows/no").await.unwrap_err().to_string().contains("no file to read"));
    let parameters = of("s3://rows/in");
    let plan = found("s3://rows/in").await.unwrap();
    plan.check_in(&stores).await.unwrap();
    let rows = async |at: Position| {
        let rows = plan.rows_from(&parameters, at, stores.clone()).unwrap();
        tokio::task::spawn_blocking(move || rows.collect::<Result<Vec<Row>, Error>>()).await.unwrap()
    };
    let all = rows(Position::default()).await.unwrap();
    assert_eq!(shown(&all), vec![texts(10); FORMATS.len()].concat());
    for cut in [5, 14, 27, 38, 49, 51, 67, 78, 80] {
        assert_eq!(same(&rows(all[cut].end).await.unwrap()), same(&all[cut + 1..]), "{cut}");
    }
    store.put(&"in/csv/a.csv".into(), content("csv", &texts(11)).into()).await.unwrap();
    for error in [plan.check_in(&stores).await.unwrap_err(), rows(Position::default()).await.unwrap_err()] {
        let error = error.to_string();
        assert!(
            error.contains("s3://rows/in/csv/a.csv") && error.contains("since the backfill began")
                || error.contains("holds something else"),
            "{error}"
        );
    }
    for (name, secret, said) in [("rows", Some("wrong"), "s3://rows/in: "), ("nowhere", None, "s3://nowhere/in: ")] {
        let root = format!("s3://{name}");
        let stores = Stores::of(&root, bucket(&server, name, secret));
        let error = Plan::make_from(&of(&format!("{root}/in")), Carry::Json, stores).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
