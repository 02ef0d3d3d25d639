//! Clients that take their time, and one that does not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::routing::{get, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use super::*;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// A time that nobody waits for.
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(200);
/// More than the system's buffers hold of an answer.
const LARGE: usize = 64 << 20;

async fn start(limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new()
        .route("/", get(async || "ok"))
        .route("/large", get(async || vec![0u8; LARGE]))
        .route("/never", get(std::future::pending::<()>))
        .route("/body", post(async |body: String| body));
    tokio::spawn(serve(listener, routes, limits));
    address
}

/// A connection on which this was sent.
async fn sent(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes back until the connection is closed.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // One that is reset was closed, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(address: SocketAddr) -> String {
    rest(sent(address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await).await
}

/// Reads one answer of `/`, and leaves the connection open.
async fn one_answer(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("an answer").unwrap();
        assert!(read > 0, "closed after {answer:?}");
    }
}

#[tokio::test]
async fn whoever_comes_next_is_answered_whatever_the_slow_ones_hold() {
    let address = start(Limits { connections: 8, wait: LONG, request: LONG }).await;
    let mut slow = Vec::new();
    for _ in 0..300 {
        slow.push(sent(address, "GET / HTTP/1.1\r\nX: ").await);
    }
    assert!(ask(address).await.ends_with("ok"));
    // All but the last ones have been closed. Of those, one has made room for the question.
    for stream in slow.drain(..292) {
        assert_eq!(rest(stream).await, "");
    }
    // A request whose answer takes its time loses its place only to others of that kind.
    let mut busy = Vec::new();
    for _ in 0..8 {
        busy.push(sent(address, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    assert!(ask(address).await.ends_with("ok"));
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let address = start(Limits { wait: SHORT, request: LONG, ..Limits::default() }).await;
    assert_eq!(rest(sent(address, "").await).await, "");
    // A byte now and then is no head.
    let mut trickle = sent(address, "GET / HTTP/1.1\r\nX: ").await;
    let closed = async {
        while trickle.write_all(b"x").await.is_ok() {
            sleep(SHORT / 10).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("it is closed");
}

#[tokio::test]
async fn nor_is_a_body_or_an_answer_that_is_never_ready() {
    let address = start(Limits { wait: LONG, request: SHORT, ..Limits::default() }).await;
    assert_eq!(rest(sent(address, "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx").await).await, "");
    assert_eq!(rest(sent(address, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await).await, "");
    let whole = "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    assert!(rest(sent(address, whole).await).await.ends_with("abc"));
}

#[tokio::test]
async fn nor_is_a_client_that_does_not_read() {
    let address = start(Limits { wait: SHORT, request: LONG, connections: 1 }).await;
    let unread = sent(address, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let closed = async {
        // It is seen only by writing, since reading would take what waits.
        while unread.try_write(b"x").is_ok() || unread.writable().await.is_ok_and(|()| unread.try_write(b"x").is_ok()) {
            sleep(SHORT / 10).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("it is closed");
    assert!(rest(unread).await.len() < LARGE);
}

#[tokio::test]
async fn a_connection_that_is_used_stays() {
    let address = start(Limits { wait: 10 * SHORT, request: LONG, connections: 2 }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..16 {
        one_answer(&mut stream).await;
        sleep(SHORT).await;
    }
    assert_eq!(rest(stream).await, "", "and is closed when it is not used any more");
}

#[tokio::test]
async fn the_address_with_the_most_connections_gives_up_one() {
    let address = start(Limits { connections: 4, wait: LONG, request: LONG }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(address).await.unwrap();
    one_answer(&mut other).await;
    // All of them are being answered, and it only waits: but there are more of them.
    let mut many = Vec::new();
    for _ in 0..20 {
        many.push(sent(address, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await);
    }
    one_answer(&mut other).await;
    let mut closed: JoinSet<String> = many.into_iter().map(rest).collect();
    for _ in 0..17 {
        assert_eq!(closed.join_next().await.unwrap().unwrap(), "");
    }
    one_answer(&mut other).await;
}

#[tokio::test]
async fn at_the_end_what_has_begun_is_answered_and_what_only_waits_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, go, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (has_begun, may_go, stopped) = (begun.clone(), go.clone(), stop.clone());
    let answer = async move || {
        has_begun.notify_one();
        may_go.notified().await;
        // More than leaves at once.
        "x".repeat(LARGE) + "late"
    };
    let routes = Router::new().route("/", get(async || "ok")).route("/late", get(answer));
    let limits = Limits { wait: LONG, request: LONG, ..Limits::default() };
    let served =
        tokio::spawn(serve_until(listener, routes, limits, None, async move { stopped.notified().await }, LONG));
    let mut idle = TcpStream::connect(address).await.unwrap();
    one_answer(&mut idle).await;
    let half = sent(address, "GET / HT").await;
    let late = sent(address, "GET /late HTTP/1.1\r\nHost: x\r\n\r\n").await;
    timeout(PATIENCE, begun.notified()).await.unwrap();
    stop.notify_one();
    assert_eq!(rest(idle).await, "");
    assert_eq!(rest(half).await, "");
    assert!(TcpStream::connect(address).await.is_err(), "nobody else is taken");
    assert!(!served.is_finished());
    go.notify_one();
    let late = rest(late).await;
    assert!(late.ends_with("late") && late[..LARGE].contains("connection: close"), "{} bytes", late.len());
    assert!(timeout(PATIENCE, served).await.unwrap().unwrap());
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_told_of() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, limits) = (Arc::new(Notify::new()), Limits { wait: LONG, request: LONG, ..Limits::default() });
    let has_begun = begun.clone();
    let answer = async move || {
        has_begun.notify_one();
        std::future::pending::<()>().await;
    };
    let routes = Router::new().route("/never", get(answer));
    let served = serve_until(listener, routes, limits, None, async move { begun.notified().await }, SHORT);
    let never = sent(address, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(!timeout(PATIENCE, served).await.unwrap());
    assert_eq!(rest(never).await, "");
}
