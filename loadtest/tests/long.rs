//! Long documents through the real binaries and the real model: what stands at their end is found, or not.

use std::{fs, path::Path};

use embed_testkit::repository;
use serde_json::{Value, json};

use crate::support::{Stack, embed};

/// Names the number of documents, other than the few that two slow cores can take.
const DOCUMENTS: &str = "EMBED_LONG_DOCUMENTS";
/// WordNet's sentences have about 13 tokens: more than 3,000 in a document.
const SENTENCES: usize = 270;

const PLACES: [&str; 20] = [
    "Lisbon", "Oslo", "Prague", "Athens", "Dublin", "Vienna", "Warsaw", "Helsinki", "Madrid", "Budapest", "Cairo",
    "Lima", "Nairobi", "Sydney", "Toronto", "Havana", "Tokyo", "Delhi", "Seoul", "Istanbul",
];
const THINGS: [&str; 10] = [
    "lighthouse",
    "library",
    "railway station",
    "cathedral",
    "harbour",
    "theatre",
    "museum",
    "university",
    "prison",
    "zoo",
];

/// The sentence at a document's end, and the question that it answers.
fn fact(n: usize) -> (String, String) {
    // Each place once, before any comes again.
    let (place, thing) = (PLACES[n % 20], THINGS[(n + n / 20) % 10]);
    let year = 1700 + n;
    (format!("The {thing} of {place} was opened in {year}."), format!("When was the {thing} of {place} opened?"))
}

fn document(sentences: &[String], n: usize) -> String {
    let filler = sentences.iter().cycle().skip(n * 97).take(SENTENCES).map(|sentence| format!("{sentence}. "));
    filler.collect::<String>() + &fact(n).0
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn vector(row: &Value) -> Vec<f64> {
    row["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// For each question the row that answers it best.
fn answers<'a>(questions: &[Value], rows: &'a [Value]) -> Vec<&'a Value> {
    let all: Vec<(Vec<f64>, &Value)> = rows.iter().map(|row| (vector(row), row)).collect();
    let best = |question: &Value| {
        let question = vector(question);
        let scored = all.iter().map(|(of, row)| (dot(&question, of), *row));
        scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap().1
    };
    questions.iter().map(best).collect()
}

#[test]
fn a_sentence_at_the_end_of_a_document_is_found_only_if_it_is_split() {
    let count = std::env::var(DOCUMENTS).map_or(10, |count| count.parse().unwrap());
    let path = repository().join("deploy/samples/wordnet/sentences.jsonl");
    let sentences: Vec<String> = rows(&path).iter().map(|row| capitalised(row["text"].as_str().unwrap())).collect();
    let stack = Stack::start();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &dyn Fn(usize) -> String| {
        let path = folder.path().join(name);
        fs::write(&path, (0..count).map(|n| json!({"id": n, "text": text(n)}).to_string() + "\n").collect::<String>())
            .unwrap();
        path
    };
    let documents: Vec<String> = (0..count).map(|n| document(&sentences, n)).collect();
    let input = write("documents.jsonl", &|n| documents[n].clone());
    let questions = write("questions.jsonl", &|n| fact(n).1);
    let backfill = |input: &Path, name: &str, options: &[&str]| {
        let output = folder.path().join(name);
        let mut command = embed(&stack.nats);
        command.args(["backfill", "run", "--json"]).args(options).arg(input).arg(&output);
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        (serde_json::from_slice::<Value>(&ended.stdout).unwrap(), rows(&output))
    };
    let questions = backfill(&questions, "q.jsonl", &[]).1;
    let (told, truncated) = backfill(&input, "truncated.jsonl", &[]);
    assert_eq!((&told["truncated"], &told["split"]), (&json!(count), &json!(0)));
    // What stands beside a sentence in its window is in the vector, too. Of 200 documents, the model finds each of the sentences if they are
    // embedded alone, and fewer the more is beside them, though each is whole in a window: windows are about as long as what is to be found.
    let window = ["--long", "split", "--long-window", "20", "--long-overlap", "8"];
    let (told, split) = backfill(&input, "split.jsonl", &window);
    assert_eq!((&told["truncated"], &told["split"], &told["windows"]), (&json!(0), &json!(count), &json!(split.len())));
    let (told, means) = backfill(&input, "mean.jsonl", &["--long", "mean"]);
    assert_eq!((&told["truncated"], &told["split"]), (&json!(0), &json!(count)));

    for (n, row) in means.iter().enumerate() {
        assert!(row["tokens"].as_u64().unwrap() > 3000, "{}", row["tokens"]);
        assert!((dot(&vector(row), &vector(row)) - 1.0).abs() < 1e-5);
        assert_eq!(row["id"], n);
    }
    let found = |rows: &[Value]| {
        let answers = answers(&questions, rows);
        answers.iter().zip(0..).filter(|(row, n)| row["id"] == *n).count()
    };
    let (by_windows, by_beginning) = (found(&split), found(&truncated));
    assert!(by_windows * 10 >= count * 9, "{by_windows} of {count}");
    assert!(by_beginning * 2 <= count, "{by_beginning} of {count}");
    // The windows that answer are those that hold the sentences, or parts of them.
    for (row, n) in answers(&questions, &split).into_iter().zip(0..).filter(|(row, n)| row["id"] == *n) {
        let begin = documents[n].chars().count() - fact(n).0.len();
        assert!(row["window"]["end"].as_u64().unwrap() > begin as u64, "{}", row["window"]);
    }
}
