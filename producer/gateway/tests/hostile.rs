//! Clients that take their time, go away, or send what nobody can read; and very many of them.

use std::time::Duration;

use embed_testkit::PATIENCE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Http, Stack, address, command, until};

async fn open(stack: &Stack) -> TcpStream {
    TcpStream::connect(address(&stack.http.url)).await.unwrap()
}

/// What comes back until the connection is closed.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // One that is reset was closed, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

const ASK: &str = r#"{"model": "m", "input": "!wait"}"#;

fn head(length: usize) -> String {
    format!("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_given_up() {
    let stack = Stack::start(&["--body-timeout", "300ms"]).await;
    let mut slow = open(&stack).await;
    slow.write_all(head(ASK.len()).as_bytes()).await.unwrap();
    let trickle = async {
        for byte in ASK.bytes() {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rest(slow).await
    };
    let answer = trickle.await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    stack.http.embeddings("x").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_room_with_it() {
    let stack = Stack::start(&["--timeout", "1h"]).await;
    let mut gone = open(&stack).await;
    gone.write_all((head(ASK.len()) + ASK).as_bytes()).await.unwrap();
    until("the call is under way", async || stack.worker.taken() == 1).await;
    let in_flight = async |count: &str| {
        let line = format!("akidb_gateway_in_flight_texts {count}\n");
        stack.http.get("/metrics").await.ok().text.contains(&line)
    };
    assert!(in_flight("1").await);
    drop(gone);
    until("the call is dropped", async || in_flight("0").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_no_http_is_answered_and_closed() {
    let stack = Stack::start(&["--max-body", "1KiB"]).await;
    // Announced, and never sent.
    let mut large = open(&stack).await;
    large.write_all(head(1 << 40).as_bytes()).await.unwrap();
    large.shutdown().await.unwrap();
    let answer = rest(large).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Without end, in pieces.
    let mut endless = open(&stack).await;
    let begin = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    endless.write_all(begin.as_bytes()).await.unwrap();
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    for _ in 0..64 {
        endless.write_all(chunk.as_bytes()).await.unwrap();
    }
    endless.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = rest(endless).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    for nonsense in ["\0\x01\x02\r\n\r\n", "GET\r\n\r\n", "POST /v1/embeddings HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
    {
        let mut stream = open(&stack).await;
        stream.write_all(nonsense.as_bytes()).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    // Two lengths: what one reads as two requests, another may read as one.
    let mut smuggled = open(&stack).await;
    smuggled
        .write_all(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n12345")
        .await
        .unwrap();
    let answer = rest(smuggled).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    stack.http.embeddings("x").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_is_answered_while_others_hold_as_many_connections_as_they_get() {
    let stack = Stack::start(&["--max-connections", "500"]).await;
    let mut slow = Vec::new();
    for _ in 0..1500 {
        let mut stream = open(&stack).await;
        // Whoever is closed at once is slow no more.
        let _ = stream.write_all(b"POST /v1/embeddings HTTP/1.1\r\nX-Slow: ").await;
        slow.push(stream);
    }
    stack.http.embeddings("x").await.ok();
}

/// As many as there may be by default, all of them slow, and more of them than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_are_held_and_whoever_comes_is_answered() {
    const CONNECTIONS: usize = 10_000;
    let most = raise_descriptors();
    if most < CONNECTIONS as u64 + 1000 {
        return eprintln!("this process may have {most} descriptors only: {CONNECTIONS} connections are not tried");
    }
    let stack = Stack::start(&[]).await;
    let mut held = Vec::with_capacity(CONNECTIONS);
    for n in 0..CONNECTIONS + 50 {
        let mut stream = open(&stack).await;
        // Every other one says nothing at all; those that have to go are closed while they are written to.
        if n % 2 == 0 {
            let _ = stream.write_all(b"POST /v1/embeddings HTTP/1.1\r\nX-Slow: ").await;
        }
        held.push(stream);
    }
    // On a connection of its own: that from before may have had to go.
    Http::new(&stack.http.url).embeddings("x").await.ok();
    // Nothing comes back on one that is held: who was closed reads an end.
    let open = held.iter().filter(
        |stream| matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
    );
    let open = open.count();
    assert!(open > CONNECTIONS * 9 / 10, "{open} of {CONNECTIONS}");
}

/// As many as this process may have.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

#[test]
fn connections_for_which_there_are_no_descriptors_are_told_and_not_taken() {
    let server = embed_testkit::NatsServer::start();
    let wanted = command(&server.url(), &["--max-connections", "10000"]);
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "ulimit -n 1000; exec \"$@\"", "bash"]).arg(wanted.get_program()).args(wanted.get_args());
    let mut gateway = embed_testkit::Daemon::spawn(&mut limited);
    gateway.wait_for_log(
        "10000 connections need 10256 descriptors, and this process may have 1000: 744 connections are taken",
    );
}
