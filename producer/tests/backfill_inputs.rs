//! What backfills can be told to read, by the command.

use std::{fs, sync::Arc};

use crate::support::{
    Server,
    command::{run, stderr, stdout},
    files::rows,
    slug,
    worker::{Worker, embed, vector},
};
use serde_json::{Value, json};

async fn served() -> (Server, [Worker; 2]) {
    let server = Server::start();
    let client = server.provisioned().await;
    let calls = Worker::calls(&client, slug("m"), Arc::new(|r| Some(embed(r)))).await;
    let jobs = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    (server, [calls, jobs])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_several_formats_is_read_with_conditions_and_a_template() {
    let (server, _workers) = served().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("in")).unwrap();
    fs::write(path("in/a.csv"), "key,title,body,lang\n1,A,\"a\nb\",de\n2,B,b,en\n3,C,,de\n").unwrap();
    fs::write(path("in/b.jsonl"), "{\"key\":4,\"title\":\"D\",\"lang\":\"de\"}\n{\"key\":5,\"lang\":\"de\"}\n")
        .unwrap();
    fs::write(path("in/_SUCCESS"), "").unwrap();
    let begin =
        ["backfill", "run", "-s", &server.url(), "-m", "m", "--where", "lang=de", "--template", r"{title}\n{body}"];
    let answer = run(&[&begin[..], &["--keep", "lang", &path("in"), &path("out.jsonl")]].concat()).await;
    assert_eq!(answer.status.code(), Some(3), "{}", stderr(&answer));
    let told = stderr(&answer);
    assert!(told.contains("`key` is taken for the id") && told.contains("_SUCCESS"), "{told}");
    let rows = rows(path("out.jsonl").as_ref());
    let seen: Vec<(&Value, &Value)> = rows.iter().map(|row| (&row["id"], &row["embedding"])).collect();
    let texts = ["A\na\nb", "C\n", "D\n"].map(|text| json!(vector(text)));
    assert_eq!(seen[..3], [(&json!("1"), &texts[0]), (&json!("3"), &texts[1]), (&json!(4), &texts[2])]);
    assert!(rows[3]["error"]["message"].as_str().unwrap().contains("line 2: there is no field `title` or `body`"));
    assert!(rows.iter().all(|row| row["lang"] == "de") && rows.len() == 4, "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_read_ends_the_run_and_can_be_left_out() {
    let (server, _workers) = served().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("a.jsonl"), "{\"id\":1,\"text\":\"a\"}\n").unwrap();
    fs::write(path("b.jsonl"), [0xff, 0xfe, b'{', 0]).unwrap();
    fs::write(path("c.jsonl"), "{\"id\":3,\"text\":\"c\"}\n").unwrap();
    let (url, out) = (server.url(), path("out.jsonl"));
    let answer = run(&["backfill", "run", "-s", &url, "-m", "m", &path("[abc].jsonl"), &out]).await;
    assert_eq!(answer.status.code(), Some(1), "{}", stdout(&answer));
    assert!(stderr(&answer).contains("b.jsonl: it is written in UTF-16"), "{}", stderr(&answer));
    let answer = run(&["backfill", "resume", "-s", &url, "--skip-bad-files", &out]).await;
    assert_eq!(answer.status.code(), Some(3), "{}", stderr(&answer));
    let told = stdout(&answer);
    assert!(told.contains("2 stored, 1 failed") && told.contains("b.jsonl: it is written in UTF-16"), "{told}");
    let ids: Vec<Value> = rows(out.as_ref()).iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, [json!(1), Value::Null, json!(3)]);
}
