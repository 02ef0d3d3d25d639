//! What operators look at may have been written by anybody.

use crate::support::{Server, slug};
use embed_control::jobs::Jobs;
use embed_testkit::RawClient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_listed_to_the_end_whatever_their_headers_are() {
    let server = Server::start();
    let client = server.provisioned().await;
    let mut raw = RawClient::connect(&server.address()).unwrap();
    let blocks: [&[u8]; 10] = [
        b"NATS/1.0 404 No Messages\r\nX: x\r\n\r\n",
        b"NATS/1.0 204 EOB\r\nX: x\r\n\r\n",
        b"NATS/1.0 500 x\r\nX: x\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: embed.job.x\r\nNats-Time-Stamp: x\r\n\r\n",
        b"NATS/1.0\r\nX: \xff\r\n\r\n",
        b"NATS/1.0\r\nX: a\rb\r\n\r\n",
        b"garbage",
        b"\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\nX: ",
        b"NATS/1.0\r\n\r\n",
    ];
    for block in blocks {
        raw.publish(b"embed.job.m", None, Some(block), br#"{"texts":["x"]}"#).unwrap();
    }
    // A subject that is none for a client, either.
    raw.publish(b"embed.job.m.\xff", None, None, b"x").unwrap();
    raw.publish(b"embed.job.m", None, None, br#"{"id":"last","texts":["x"]}"#).unwrap();
    raw.flush().unwrap();
    let mut jobs = Jobs::new(&client, &slug("m")).await.unwrap();
    let mut listed = Vec::new();
    loop {
        let page = jobs.page().await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
        assert!(listed.len() <= blocks.len() + 2, "it comes to an end");
    }
    let sequences: Vec<_> = listed.iter().map(|job| job.sequence).filter(|n| *n <= blocks.len() as u64).collect();
    assert_eq!(sequences, (1..=blocks.len() as u64).collect::<Vec<_>>());
    assert_eq!(listed.last().unwrap().id.as_ref().unwrap().as_str(), "last");
}
