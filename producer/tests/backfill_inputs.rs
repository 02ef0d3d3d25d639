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
    assert!(told.contains(&format!("files left out, wholly or in part (1): {}", path("b.jsonl"))), "{told}");
    assert!(told.contains(&format!("{}, line 1: ", path("b.jsonl"))), "{told}");
    assert_eq!(rows(out.as_ref())[1]["file"], json!(path("b.jsonl")));
    let ids: Vec<Value> = rows(out.as_ref()).iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, [json!(1), Value::Null, json!(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_mended_is_read_when_the_run_goes_on() {
    let (server, _workers) = served().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let line = |id: u64, text: &str| json!({"id": id, "text": text}).to_string() + "\n";
    let url = server.url();
    for output in [path("out.jsonl"), path("out")] {
        fs::write(path("a.jsonl"), line(1, "a") + &line(2, "b")).unwrap();
        fs::write(path("b.jsonl"), [0xff, 0xfe, b'{', 0]).unwrap();
        fs::write(path("c.jsonl"), line(5, "e")).unwrap();
        let format: &[&str] = if output.ends_with("out") { &["--format", "jsonl"] } else { &[] };
        let inputs = path("[abc].jsonl");
        let answer = run(&[
            &["backfill", "run", "-s", &url, "-m", "m", "--chunk", "1", "--window", "1", &inputs, &output],
            format,
        ]
        .concat())
        .await;
        assert_eq!(answer.status.code(), Some(1), "{}", stdout(&answer));
        assert!(stderr(&answer).contains("b.jsonl: it is written in UTF-16"), "{}", stderr(&answer));
        fs::write(path("b.jsonl"), line(3, "c") + &line(4, "d")).unwrap();
        // Nothing that is in the output may change.
        let resume = async || run(&["backfill", "resume", "-s", &url, &output]).await;
        fs::write(path("a.jsonl"), line(1, "a") + &line(2, "B")).unwrap();
        let answer = resume().await;
        assert!(stderr(&answer).contains("a.jsonl holds something else"), "{}", stderr(&answer));
        fs::write(path("a.jsonl"), line(1, "a") + &line(2, "b")).unwrap();
        let answer = resume().await;
        assert_eq!(answer.status.code(), Some(0), "{}", stderr(&answer));
        assert!(stderr(&answer).contains("b.jsonl: it holds something else"), "{}", stderr(&answer));
        let mut found = Vec::new();
        if format.is_empty() {
            found = rows(output.as_ref());
        } else {
            let manifest: Value = serde_json::from_slice(&fs::read(path("out/manifest.json")).unwrap()).unwrap();
            for part in manifest["parts"].as_array().unwrap() {
                found.extend(rows(folder.path().join("out").join(part["name"].as_str().unwrap()).as_path()));
            }
        }
        let seen: Vec<_> = found.iter().map(|row| (row["id"].as_u64(), row["embedding"].clone())).collect();
        let all = ["a", "b", "c", "d", "e"].into_iter().zip(1..);
        assert_eq!(seen, all.map(|(text, id)| (Some(id), json!(vector(text)))).collect::<Vec<_>>());
    }
}
