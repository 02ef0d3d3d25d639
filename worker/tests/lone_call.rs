//! A call that comes while nothing is being computed has all cores, and none that comes beside other work.

use std::{fs, process::Command, time::Duration};

use async_nats::HeaderMap;
use embed_schemas::{EmbedRequest, Format, Lane, streams};
use embed_testkit::{PATIENCE, registry};

use crate::support::{Stack, difference, model};

/// Runs that had all cores.
async fn spread(stack: &Stack) -> u64 {
    let (_, metrics) = stack.get("/metrics").await;
    let line = |line: &&str| line.starts_with("akidb_batch_form_total{") && line.contains(r#"form="spread""#);
    metrics.lines().find(line).map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_call_has_all_cores_and_none_beside_bulk_has() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "[engine]\nrunners = 2\nlone_call_threads = 2\n").unwrap();
    let stack = Stack::start_with("", &["--config", file.to_str().unwrap()]).await;
    let lone = EmbedRequest::new(["a text that comes alone"]);
    let job = stack.job(Lane::Job, lone.clone(), Format::MessagePack, "on-one-core").await.into_result().unwrap();
    // On a busy machine it may seem not to gain, and is only tried now and then.
    let has_all = async {
        while spread(&stack).await == 0 {
            let call = stack.call(&lone, Format::MessagePack).await.unwrap();
            let difference = difference(&call.vector(0).unwrap(), &job.vector(0).unwrap());
            assert!(difference <= 1e-5, "the vector differs by {difference}");
        }
    };
    tokio::time::timeout(PATIENCE, has_all).await.expect("a call has all cores");

    // Some seconds of both engines, which a backfill leaves no gaps in.
    let texts = (0..256).map(|n| format!("{n} ").repeat(24)).collect::<Vec<_>>();
    let bulk = Format::MessagePack.encode(&EmbedRequest::new(texts));
    for _ in 0..4 {
        stack.publish_raw(Lane::Bulk, HeaderMap::new(), bulk.clone()).await;
    }
    while stack.worker_metric("akidb_in_flight_texts").await <= 256.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The tokenizer has them by now, and the engines what it is done with.
    stack.call(&lone, Format::MessagePack).await.unwrap();
    let before = spread(&stack).await;
    for _ in 0..10 {
        stack.call(&lone, Format::MessagePack).await.unwrap();
    }
    let after = spread(&stack).await;
    let done = stack.messages_in(&streams::results_stream(&model())).await - 1;
    assert!(done < 4, "the backfill was done before the calls were");
    assert_eq!(after, before, "a call beside a backfill had all cores");
}

#[test]
fn what_a_lone_call_has_is_told_and_can_be_turned_off() {
    let said = |threads: &str| {
        let mut check = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
        check.arg("check").env("EMBED_REGISTRY", registry()).env("EMBED_WORKER__ENGINE__LONE_CALL_THREADS", threads);
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).contains("; a call that is alone has 3 threads")
    };
    assert!(said("3") && !said("1"));
}
