//! Against a real server.

use std::{path::Path, sync::Arc};

use arrow_array::{
    ArrayRef, BooleanArray, Int64Array, ListArray, RecordBatch, StringArray, TimestampNanosecondArray, UInt64Array,
    types::Int32Type,
};
use embed_client::ConnectSettings;
use embed_schemas::removal::RemovalKey;
use embed_testkit::{NatsServer, PostgresServer};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    Pace, Plan, State,
    output::Output,
    queue::Finished,
    row::{Found, Label, Origin, Position, Row, Window},
    writer::Books,
};

fn batch() -> Arc<RecordBatch> {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4), Some(5)]));
    let titles: ArrayRef =
        Arc::new(StringArray::from(vec![Some("a'\"\\\n"), None, Some("c"), Some("d\0d"), Some("é")]));
    let seen = TimestampNanosecondArray::from(vec![Some(1_700_000_000_123_456_789); 5]).with_timezone("UTC");
    let big: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1, 2, 3]));
    let list = [Some(vec![Some(1), None]), None, None, None, Some(vec![])];
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list));
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, None, None, Some(false)]));
    let columns: [(&str, ArrayRef); 6] =
        [("id", ids), ("title", titles), ("seen", Arc::new(seen)), ("big", big), ("list", list), ("flag", flags)];
    // The first row of most would not do for a column that may be null.
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    Arc::new(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

fn vector(values: &[f32], window: Option<Window>) -> Vector {
    Vector { values: values.to_vec(), tokens: 3, truncated: false, window }
}

/// Row `at` of a batch.
fn row(batch: &Arc<RecordBatch>, number: u64, at: usize, content: Result<Vec<Vector>, WireError>) -> Done {
    let end = Position { rows: number + 1, lines: number + 1, ..Position::default() };
    Row {
        number,
        label: Label::Line(number + 1),
        content,
        along: Along::Columns(batch.clone(), at),
        digest: None,
        origin: Origin { file: 0, line: number + 1 },
        end,
        reused: false,
    }
}

async fn open(server: &PostgresServer, query: &str, windows: bool) -> Result<Postgres, Error> {
    let location = format!("{}?{query}", server.url());
    let password = |name: &str| (name == "PGPASSWORD").then(|| server.password().to_owned());
    let target = Target::read(&location, password, None).unwrap();
    Postgres::connect(&location, target, Some(batch().schema_ref()), windows, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_known_by_their_ids() {
    let server = PostgresServer::start();
    let folder = tempfile::tempdir().unwrap();
    let batch = batch();
    let mut output = open(&server, "table=public.docs", false).await.unwrap();
    output.failed = Some((LinesFile::create(&folder.path().join("failed"), false).unwrap(), Files::default()));
    let of = |x: f32| Ok(vec![vector(&[x, 0.5], None)]);
    let mut rows: Vec<Done> = (0..5).map(|at| row(&batch, at as u64, at, of(at as f32))).collect();
    rows[4].content = of(f32::NAN);
    // The same id once more.
    rows.push(row(&batch, 5, 0, of(9.0)));
    rows.push(row(&batch, 6, 4, Err(WireError::invalid("no"))));
    output.write(&mut rows).await.unwrap();
    output.settle().await.unwrap();
    let select = "SELECT id, title, seen AT TIME ZONE 'UTC', big, list, flag, embedding, tokens, truncated FROM docs ORDER BY id";
    let expected = "1|a'\"\\\n|2023-11-14 22:13:20.123456|18446744073709551615|[1, null]|t|[9,0.5]|3|f\n\
                    2||2023-11-14 22:13:20.123456|0|||[1,0.5]|3|f";
    assert_eq!(server.sql(select), expected);
    assert_eq!(output.duplicates, 1);
    let failed = std::fs::read_to_string(folder.path().join("failed")).unwrap();
    for (line, reason) in failed.lines().zip(["has no id", "U+0000", "a vector can hold", "no"]) {
        assert!(line.contains(reason), "{failed}");
    }
    assert_eq!((failed.lines().count(), output.failed_bytes()), (4, failed.len() as u64));

    // Written again, nothing changes: not even the place of the rows.
    let places = server.sql("SELECT ctid, xmin FROM docs ORDER BY id");
    output.write(&mut rows).await.unwrap();
    output.settle().await.unwrap();
    assert_eq!(server.sql("SELECT ctid, xmin FROM docs ORDER BY id"), places);
    assert!(open(&server, "table=docs", false).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_rows_that_could_not_be_written_none_is_in_the_file_of_failed_ones() {
    let server = PostgresServer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("failed");
    let batch = batch();
    let mut output = open(&server, "table=docs", false).await.unwrap();
    let plan =
        Plan { files: vec![crate::InputFile { location: "/in.csv".into(), ..Default::default() }], ..Plan::default() };
    output.failed = Some((LinesFile::create(&path, false).unwrap(), Files::of(&plan)));
    output.batch_bytes = 4;
    let stored = |at: usize| row(&batch, at as u64, at, Ok(vec![vector(&[1.0], None)]));
    let failed = |n| row(&batch, n, 4, Err(WireError::invalid("no")));
    output.write(&mut [stored(0), failed(1)]).await.unwrap();
    let recorded = output.failed_bytes();
    server.sql("ALTER TABLE docs RENAME TO away");
    let mut group = [stored(1), failed(3)];
    let error = output.write(&mut group).await.unwrap_err().to_string();
    assert!(error.contains("docs"), "{error}");
    server.sql("ALTER TABLE away RENAME TO docs");
    // What was taken by then is recorded, as the writer does whatever happened; the rest comes again.
    output.settle().await.unwrap();
    assert_eq!(output.failed_bytes(), recorded);
    output.write(&mut group).await.unwrap();
    output.settle().await.unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM docs"), "2");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<_> = lines.iter().map(|line| (line["file"].as_str(), line["line"].as_u64())).collect();
    assert_eq!(places, [(Some("/in.csv"), Some(2)), (Some("/in.csv"), Some(4))], "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_another_shape_is_refused_with_what_mends_it() {
    let server = PostgresServer::start();
    server.sql("CREATE TABLE docs (id integer, title text, embedding vector(3) NOT NULL, tokens integer)");
    let batch = batch();
    let mend = |error: Error| {
        let text = error.to_string();
        let (_, sql) = text.split_once("this mends it:\n").unwrap_or_else(|| panic!("{text}"));
        server.sql(sql);
    };
    mend(open(&server, "table=docs", false).await.unwrap_err());
    let mut output = open(&server, "table=docs", false).await.unwrap();
    let mut rows = vec![row(&batch, 0, 0, Ok(vec![vector(&[1.0, 2.0], None)]))];
    // Of which dimension they are is known now only.
    mend(output.write(&mut rows).await.unwrap_err());
    output.write(&mut rows).await.unwrap();
    output.settle().await.unwrap();
    assert_eq!(server.sql("SELECT id, embedding FROM docs"), "1|[1,2]");
    server.sql("DROP EXTENSION vector CASCADE");
    let error = open(&server, "table=docs", false).await.unwrap_err().to_string();
    assert!(error.contains("CREATE EXTENSION vector"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_of_a_text_that_is_shorter_now_go() {
    let server = PostgresServer::start();
    let batch = batch();
    let mut output = open(&server, "table=docs&vector=halfvec", true).await.unwrap();
    let windows = |n: u32| {
        let window = |index| Window { index, start: u64::from(index) * 10, end: u64::from(index) * 10 + 12 };
        Ok((0..n).map(|index| vector(&[0.5, f32::from(index as u16)], Some(window(index)))).collect())
    };
    let select = "SELECT id, \"window\", start, \"end\", embedding FROM docs ORDER BY id, \"window\"";
    output.write(&mut [row(&batch, 0, 0, windows(3)), row(&batch, 1, 1, windows(1))]).await.unwrap();
    output.settle().await.unwrap();
    assert_eq!(server.sql(select), "1|0|0|12|[0.5,0]\n1|1|10|22|[0.5,1]\n1|2|20|32|[0.5,2]\n2|0|0|12|[0.5,0]");
    output.write(&mut [row(&batch, 0, 0, windows(2))]).await.unwrap();
    output.settle().await.unwrap();
    assert_eq!(server.sql(select), "1|0|0|12|[0.5,0]\n1|1|10|22|[0.5,1]\n2|0|0|12|[0.5,0]");
    assert_eq!(server.sql("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname = 'embedding'"), "halfvec(2)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_columns_are_called_by_their_ids() {
    let server = PostgresServer::start();
    let location = format!("{}?table=docs", server.url());
    let password = |name: &str| (name == "PGPASSWORD").then(|| server.password().to_owned());
    let target = Target::read(&location, password, None).unwrap();
    let mut output = Postgres::connect(&location, target, None, false, None).await.unwrap();
    let labels = [
        Label::Id("\"a\\u00e4\"".into()),
        Label::Id("1.50".into()),
        Label::Id("null".into()),
        Label::Line(4),
        Label::Id("\"\\u0000\"".into()),
    ];
    let mut rows: Vec<Done> = labels
        .into_iter()
        .zip(0..)
        .map(|(label, n)| {
            let row = row(&batch(), n, 0, Ok(vec![vector(&[1.0], None)]));
            Row { label, along: Along::Json(String::new()), ..row }
        })
        .collect();
    output.write(&mut rows).await.unwrap();
    output.settle().await.unwrap();
    assert_eq!(server.sql("SELECT id FROM docs ORDER BY id"), "1.50\naä");
    assert_eq!(rows.iter().map(|row| row.content.is_ok()).collect::<Vec<_>>(), [true, true, false, false, false]);
}

/// Takes a connection as a server that speaks TLS does, and hands on what comes through it.
async fn in_front_of(port: u16, certificates: &Path) -> u16 {
    let certificate =
        CertificateDer::pem_file_iter(certificates.join("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificates.join("server-key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(certificate, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // What asks for TLS, always the same.
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                client.write_all(b"S").await.unwrap();
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    front
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_has_to_be_who_it_says_it_is() {
    let server = PostgresServer::start();
    let certificates = embed_testkit::repository().join("producer/tests/support/tls");
    let front = in_front_of(server.port(), &certificates).await;
    let batch = batch();
    let open = async |query: &str| {
        let location = format!("postgres://test@127.0.0.1:{front}/postgres?table=docs&sslmode=require{query}");
        let password = |name: &str| (name == "PGPASSWORD").then(|| server.password().to_owned());
        let target = Target::read(&location, password, None).unwrap();
        Postgres::connect(&location, target, Some(batch.schema_ref()), false, None).await
    };
    let root = format!("&sslrootcert={}", certificates.join("ca.pem").display());
    open(&root).await.unwrap();
    let error = open("").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let error = open("&sslrootcert=/nowhere").await.unwrap_err().to_string();
    assert!(error.contains("sslrootcert=/nowhere: "), "{error}");
}

/// Rows of a table, and what is recorded of them, whatever dies: we do at first, then the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_lose_nothing_and_repeat_nothing() {
    const ROWS: u64 = 4_000;
    const GROUP: u64 = 50;
    let mut server = PostgresServer::start();
    let nats = NatsServer::start();
    let settings = ConnectSettings { server: Some(nats.url()), ..ConnectSettings::default() };
    let client = embed_client::Client::connect(&settings).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let key = RemovalKey::from_random([7; 32]);
    State::new(key, crate::tests::parameters(), Plan::default()).save(&path).unwrap();
    let recorded = || State::find(&path).unwrap().unwrap();

    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    let batch = Arc::new(RecordBatch::try_from_iter([("id", ids)]).unwrap());
    let group = |from: u64| {
        let found =
            |n: u64| row(&batch, n, n as usize, Ok(vec![vector(&[n as f32], None)])).with(|v| v.map(Found::Vectors));
        let rows: Vec<Row<Found>> = (from..from + GROUP).map(found).collect();
        let (spaces, served, ids, windows) = Default::default();
        Finished { end: rows.last().unwrap().end, rows, spaces, served, ids, windows, bytes: 0 }
    };
    let location = format!("{}?table=docs", server.url());
    let password = server.password().to_owned();
    let target = Target::read(&location, |name| (name == "PGPASSWORD").then(|| password.clone()), None).unwrap();
    let pace = Pace { keep_results: true, ..Pace::default() };
    for life in 0..3 {
        let table = Postgres::connect(&location, target.clone(), Some(batch.schema_ref()), false, None).await.unwrap();
        let output = Output::Postgres(Box::new(table));
        let books = Books::new(&client, recorded(), &path, output, None, None, &pace);
        let (groups, received) = mpsc::channel(4);
        let begun = recorded().done.rows;
        let writer = tokio::spawn(books.write_all(received));
        for from in (begun..ROWS).step_by(GROUP as usize) {
            groups.send(group(from)).await.unwrap();
            // Until then, all that was sent is written before anything dies.
            if life < 2 && from >= begun + 20 * GROUP {
                break;
            }
        }
        match life {
            0 => {
                // Some of it is in the table, perhaps, and perhaps recorded.
                writer.abort();
                let _ = writer.await;
            }
            1 => {
                server.kill();
                // What is written now waits for it.
                groups.send(group(begun + 21 * GROUP)).await.unwrap();
                tokio::task::block_in_place(|| server.restart());
                drop(groups);
                writer.await.unwrap().1.unwrap();
                assert_eq!(recorded().done.rows, begun + 22 * GROUP);
            }
            _ => {
                drop(groups);
                let (books, written) = writer.await.unwrap();
                written.unwrap();
                assert_eq!(books.close(true).await.unwrap().rows, ROWS);
            }
        }
    }
    assert_eq!((recorded().stored, recorded().finished), (ROWS, true));
    let counts = "SELECT count(*), count(DISTINCT id), sum(id), bool_and(embedding::text = '[' || id || ']') FROM docs";
    assert_eq!(server.sql(counts), format!("{ROWS}|{ROWS}|{}|t", ROWS * (ROWS - 1) / 2));
}
