//! What is decided when a backfill begins, or goes on.

use super::*;

#[tokio::test]
async fn rows_are_counted_where_files_say_how_many_they_have() {
    let long = |n: usize| vec!["x".repeat(500); n];
    let folder =
        Folder::new(&[("a.parquet", content("parquet", &texts(10))), ("b.parquet", content("parquet", &long(5)))]);
    let count = async |reading: Reading, file, lines| {
        let parameters = Parameters { reading, ..folder.parameters() };
        let plan = Plan::make(&parameters, Carry::Json).await.unwrap();
        plan.count(&parameters, Position { file, lines, ..Position::default() }).await
    };
    let all = Reading::default;
    assert_eq!(count(all(), 0, 4).await, Some((4, 15)));
    assert_eq!(count(all(), 1, 2).await, Some((12, 15)));
    let mut sum = (0, 0);
    for index in 1..=2 {
        let (among, all) = count(Reading { shard: Some(Shard { index, count: 2 }), ..all() }, 1, 4).await.unwrap();
        sum = (sum.0 + among, sum.1 + all);
    }
    assert_eq!(sum, (14, 15));
    fs::write(folder.at("c.jsonl"), content("jsonl", &texts(2))).unwrap();
    assert_eq!(count(all(), 0, 4).await, None);
}

#[test]
fn what_is_named_twice_is_read_once() {
    let folder = Folder::new(&[("a.jsonl", content("jsonl", &texts(2))), ("b.jsonl", content("jsonl", &texts(1)))]);
    std::os::unix::fs::symlink(folder.at("b.jsonl"), folder.at("c.jsonl")).unwrap();
    let input = |name: &str| folder.at(name).to_str().unwrap().to_owned();
    let inputs = vec![input("b.jsonl"), input(""), input("a.jsonl")];
    let parameters = Parameters { inputs, ..folder.parameters() };
    let plan = planned(&parameters, Carry::Json).unwrap();
    assert!(plan.notes.len() == 1 && plan.notes[0].contains("read once (3 such files)"), "{:?}", plan.notes);
    let rows = read_from(&plan, &parameters, Position::default()).unwrap();
    assert_eq!(shown(&rows), [texts(1), texts(2)].concat());
}

/// It fails before anything is read of it: when it is looked what there is.
#[test]
fn files_that_cannot_be_opened_are_left_out_as_well() {
    let folder = Folder::new(&[
        ("a.jsonl", content("jsonl", &texts(2))),
        ("b.parquet.gz", b"nothing".to_vec()),
        ("c.jsonl", content("jsonl", &texts(1))),
    ]);
    let input = |name: &str| folder.at(name).to_str().unwrap().to_owned();
    for (bad, said) in [("/dev/null".to_owned(), "no regular file"), (input("b.parquet.gz"), "decompress it")] {
        let parameters =
            Parameters { inputs: vec![input("a.jsonl"), bad.clone(), input("c.jsonl")], ..folder.parameters() };
        let error = planned(&parameters, Carry::Json).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(&bad), "{error}");
        let reading = Reading { skip_bad_files: true, ..Reading::default() };
        let parameters = Parameters { reading, ..parameters };
        let plan = planned(&parameters, Carry::Json).unwrap();
        let plan: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        let rows = read_from(&plan, &parameters, Position::default()).unwrap();
        let failed = rows[2].content.clone().unwrap_err().message;
        assert!(failed.starts_with(&format!("{bad}: ")) && failed.contains(said), "{failed}");
        assert_eq!((rows.len(), rows[2].origin), (4, crate::row::Origin { file: 1, line: 1 }));
        assert_eq!(same(&read_from(&plan, &parameters, rows[2].end).unwrap()), same(&rows[3..]));
        // What is not there is named by mistake.
        let parameters = Parameters { inputs: vec![input("a.jsonl"), input("nothing.jsonl")], ..parameters };
        assert!(planned(&parameters, Carry::Json).unwrap_err().to_string().contains("nothing.jsonl"));
    }
}

#[test]
fn every_file_has_the_id_that_the_first_has() {
    let without = |format: &str| match format {
        "csv" => b"text\nrow 9\n".to_vec(),
        _ => {
            let batch = table(&texts(1)).project(&[1]).unwrap();
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.into_inner().unwrap()
        }
    };
    for format in ["csv", "parquet"] {
        let files = [(format!("a.{format}"), content(format, &texts(1))), (format!("b.{format}"), without(format))];
        let folder = Folder::new(&files.each_ref().map(|(name, content)| (&**name, content.clone())));
        let unnamed = Parameters { id_field: String::new(), ..folder.parameters() };
        for (parameters, carry) in [(folder.parameters(), Carry::Json), (unnamed.clone(), Carry::Columns)] {
            let plan = planned(&parameters, carry).unwrap();
            let error = read_from(&plan, &parameters, Position::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("b.{format}: there is no column `id`")), "{error}");
        }
        // Where the first has none, the others need none.
        fs::rename(folder.at(&format!("b.{format}")), folder.at(&format!("0.{format}"))).unwrap();
        assert_eq!(read(&unnamed).unwrap().len(), 2, "{format}");
    }
}

#[tokio::test]
async fn a_file_of_which_nothing_is_done_may_be_mended() {
    let folder = Folder::new(&[
        ("a.jsonl", content("jsonl", &texts(2))),
        ("b.parquet", b"nothing".to_vec()),
        ("c.jsonl", content("jsonl", &texts(1))),
    ]);
    let reading = Reading { skip_bad_files: true, ..Reading::default() };
    let parameters = Parameters { reading, ..folder.parameters() };
    let plan = Plan::make(&parameters, Carry::Json).await.unwrap();
    let done = |file, lines| Position { file, lines, ..Position::default() };
    let state = |plan: &Plan| {
        let key = embed_schemas::removal::RemovalKey::from_random([7; 32]);
        crate::State { id: "a".parse().unwrap(), ..crate::State::new(key, parameters.clone(), plan.clone()) }
    };
    let go_on = async |plan: &Plan, done| {
        let mut plan = plan.clone();
        plan.go_on(&parameters, done).await.map(|notes| (plan, notes))
    };
    assert_eq!(go_on(&plan, done(0, 1)).await.unwrap(), (plan.clone(), Vec::new()));
    fs::write(folder.at("b.parquet"), content("parquet", &texts(3))).unwrap();
    for behind in [done(1, 1), done(2, 0)] {
        let error = go_on(&plan, behind).await.unwrap_err().to_string();
        assert!(error.contains("b.parquet"), "{error}");
    }
    let (mended, notes) = go_on(&plan, done(1, 0)).await.unwrap();
    assert!(notes.len() == 1 && notes[0].contains("b.parquet: it holds something else"), "{notes:?}");
    // What jobs of before have left is nobody's.
    let (before, now) = (state(&plan).jobs(), state(&mended).jobs());
    assert!(before != now && now.as_str().starts_with(before.as_str()), "{before} {now}");
    let written: Plan = serde_json::from_str(&serde_json::to_string(&mended).unwrap()).unwrap();
    assert_eq!((state(&written).jobs(), go_on(&written, done(1, 2)).await.unwrap().1), (now.clone(), Vec::new()));
    fs::write(folder.at("b.parquet"), content("parquet", &texts(4))).unwrap();
    let (again, _) = go_on(&mended, done(0, 1)).await.unwrap();
    assert!(![before, now].contains(&state(&again).jobs()));
    let rows = tokio::task::spawn_blocking(move || read_from(&again, &parameters, Position::default()));
    assert_eq!(shown(&rows.await.unwrap().unwrap()), [texts(2), texts(4), texts(1)].concat());
}
