//! What a client promises of calls: time-outs, deadlines, retries, streams of texts.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    PATIENCE, Server, slug, until,
    worker::{Worker, embed, failure, vector},
};
use async_nats::HeaderMap;
use embed_client::{CallOptions, Error, Retry, StreamOptions};
use embed_schemas::{EmbedRequest, ErrorCode, Format, Lane, WireError, headers, subjects, wire};
use futures::{StreamExt, stream};

#[tokio::test]
async fn workers_are_told_how_long_the_caller_waits_and_what_it_sends_along() {
    let server = Server::start();
    let client = server.client().await;
    let nats = client.nats().clone();
    let mut calls = nats.subscribe(subjects::bare(Lane::Rpc, &slug("m"))).await.unwrap();
    nats.flush().await.unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut more = HeaderMap::new();
    more.insert("Tenant", "acme");
    let options = CallOptions::default().timeout(PATIENCE).traceparent(trace.to_owned()).headers(more);
    let answer = async {
        let call = calls.next().await.unwrap();
        let (request, _) = wire::decode_request(&call.payload, None).unwrap();
        nats.publish(call.reply.unwrap(), Format::MessagePack.encode(&embed(&request))).await.unwrap();
        (request, call.headers.unwrap())
    };
    let (model, request) = (slug("m"), EmbedRequest::new(["a"]));
    let (result, (request, sent)) = tokio::join!(client.embed(&model, request, &options), answer);
    result.unwrap();
    let told = Duration::from_millis(request.deadline_ms.unwrap());
    assert!(told <= PATIENCE && told > PATIENCE / 2, "{told:?}");
    assert_eq!(
        (sent.get(headers::TRACEPARENT).unwrap().as_str(), sent.get("Tenant").unwrap().as_str()),
        (trace, "acme")
    );
}

/// Workers serve callers in turn, and tell them apart by that.
#[tokio::test]
async fn the_inboxes_of_one_client_begin_alike_and_those_of_two_do_not() {
    let server = Server::start();
    let (one, other) = (server.client().await, server.client().await);
    let mut calls = one.nats().subscribe(subjects::bare(Lane::Rpc, &slug("m"))).await.unwrap();
    one.nats().flush().await.unwrap();
    let mut inboxes = Vec::new();
    for client in [&one, &one, &other] {
        let (model, options) = (slug("m"), CallOptions::default().timeout(PATIENCE));
        let answer = async {
            let call = calls.next().await.unwrap();
            let (request, _) = wire::decode_request(&call.payload, None).unwrap();
            let reply = call.reply.unwrap();
            one.nats().publish(reply.clone(), Format::MessagePack.encode(&embed(&request))).await.unwrap();
            reply.to_string()
        };
        let (result, inbox) = tokio::join!(client.embed(&model, EmbedRequest::new(["a"]), &options), answer);
        result.unwrap();
        inboxes.push(inbox);
    }
    let begins = |inbox: &String| inbox.rsplit_once('.').unwrap().0.to_owned();
    let senders: Vec<String> = inboxes.iter().map(begins).collect();
    assert!(senders.iter().all(|sender| sender.starts_with("_INBOX.")), "{senders:?}");
    assert_eq!(senders[0], senders[1]);
    assert_ne!(senders[0], senders[2]);
    assert_ne!(inboxes[0], inboxes[1]);
}

#[tokio::test]
async fn a_call_waits_for_workers_that_are_being_restarted_and_for_no_others() {
    let server = Server::start();
    let client = server.provisioned().await;
    let (model, options) = (slug("m"), CallOptions::default().timeout(PATIENCE));
    let waiting = tokio::spawn({
        let (client, options) = (client.clone(), options.clone());
        async move { client.embed(&slug("m"), EmbedRequest::new(["a"]), &options).await }
    });
    // A look at the stream says that it is worth waiting.
    let mut looks = client.nats().subscribe("$JS.API.STREAM.INFO.EMBED_m").await.unwrap();
    client.nats().flush().await.unwrap();
    let quick = CallOptions::default().timeout(PATIENCE).retry(Retry::Refused);
    let error = client.embed(&model, EmbedRequest::new(["a"]), &quick).await.unwrap_err();
    assert!(matches!(error, Error::UnknownModel { .. }), "{error}");
    let pinned = options.clone().variant(slug("none"));
    let error = client.embed(&model, EmbedRequest::new(["a"]), &pinned).await.unwrap_err();
    assert!(matches!(error, Error::UnknownModel { .. }), "no consumer has that name: {error}");
    let soon = CallOptions::default().timeout(Duration::from_secs(2));
    let error = client.embed(&model, EmbedRequest::new(["a"]), &soon).await.unwrap_err();
    assert!(matches!(error, Error::UnknownModel { .. }), "{error}");
    looks.next().await.unwrap();
    let worker = Worker::calls(&client, model, Arc::new(|r| Some(embed(r)))).await;
    assert_eq!(waiting.await.unwrap().unwrap().vector(0).unwrap(), vector("a"));
    assert_eq!(worker.taken(), 1);
}

#[tokio::test]
async fn a_time_out_holds_while_the_server_is_away_and_nothing_arrives_late() {
    let mut server = Server::start();
    let client = server.client().await;
    server.kill();
    until("the client notices", async || {
        client.nats().connection_state() == async_nats::connection::State::Disconnected
    })
    .await;
    let began = Instant::now();
    let soon = CallOptions::default().timeout(Duration::from_millis(300));
    let error = client.embed(&slug("m"), EmbedRequest::new(["late"]), &soon).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15));
    server.restart();
    let other = server.client().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let answer = {
        let heard = Arc::clone(&heard);
        move |request: &EmbedRequest| {
            heard.lock().unwrap().extend(request.texts.clone());
            Some(embed(request))
        }
    };
    let _worker = Worker::calls(&other, slug("m"), Arc::new(answer)).await;
    let options = CallOptions::default().timeout(PATIENCE);
    client.embed(&slug("m"), EmbedRequest::new(["in time"]), &options).await.unwrap();
    assert_eq!(*heard.lock().unwrap(), ["in time"]);
}

#[tokio::test]
async fn what_was_answered_before_a_part_failed_is_not_lost() {
    let server = Server::start();
    let client = server.client().await;
    let answer = |request: &EmbedRequest| match request.texts.iter().any(|text| text == "bad") {
        true => Some(failure(request, WireError::new(ErrorCode::UnknownPrompt, "no prompt `q`"))),
        false => Some(embed(request)),
    };
    let _worker = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    let mut texts: Vec<String> = (0..200).map(|n| "x".repeat(n)).collect();
    texts[150] = "bad".to_owned();
    let options = CallOptions::default().timeout(PATIENCE);
    let error = client.embed(&slug("m"), EmbedRequest::new(texts.clone()), &options).await.unwrap_err();
    assert_eq!(error.code(), "unknown_prompt");
    assert!(error.to_string().ends_with("(128 of 200 texts had been answered)"), "{error}");
    let Error::Incomplete { answered, .. } = error else { panic!("{error}") };
    assert_eq!(answered.iter().map(|part| part.texts.clone()).collect::<Vec<_>>(), [0..64, 64..128]);
    assert_eq!(answered[1].result.vector(3).unwrap(), vector(&texts[67]));
}

#[tokio::test]
async fn a_stream_is_embedded_in_order_and_read_no_further_than_it_is_taken_out() {
    let server = Server::start();
    let client = server.client().await;
    let worker = Worker::calls(&client, slug("m"), Arc::new(|r| Some(embed(r)))).await;
    let read = Arc::new(AtomicU64::new(0));
    let texts = {
        let read = Arc::clone(&read);
        // Without end.
        stream::iter((0..).map(move |n: usize| {
            read.fetch_add(1, Ordering::SeqCst);
            "x".repeat(n % 50)
        }))
    };
    let number = |number| NonZeroUsize::new(number).unwrap();
    let options = StreamOptions::default()
        .call(CallOptions::default().timeout(PATIENCE))
        .texts_per_call(number(10))
        .in_flight(number(3));
    let mut rows = Box::pin(client.embed_stream(&slug("m"), texts, options));
    for n in 0..200 {
        let row = rows.next().await.unwrap().unwrap();
        assert_eq!(row.vector().unwrap(), vector(&"x".repeat(n % 50)));
        assert_eq!(row.result().variant, slug("fp32"));
        let ahead = read.load(Ordering::SeqCst) - n as u64;
        assert!(ahead <= 50, "{ahead} texts are read ahead of {n}");
    }
    assert!(worker.taken() >= 20);
    drop(rows);
}

#[tokio::test]
async fn a_stream_ends_after_its_first_error() {
    let server = Server::start();
    let client = server.client().await;
    let answer = |request: &EmbedRequest| match request.texts[0].len() {
        5 => Some(failure(request, WireError::new(ErrorCode::UnknownPrompt, "no prompt `q`"))),
        _ => Some(embed(request)),
    };
    let _worker = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    let options = StreamOptions::default().texts_per_call(NonZeroUsize::MIN);
    let texts = stream::iter((0..20).map(|n| "x".repeat(n)));
    let rows: Vec<_> = client.embed_stream(&slug("m"), texts, options).collect().await;
    assert_eq!(rows.len(), 6);
    assert!(rows[..5].iter().all(Result::is_ok));
    assert_eq!(rows[5].as_ref().unwrap_err().code(), "unknown_prompt");
}

#[tokio::test]
async fn what_would_be_refused_too_late_is_not_asked_again() {
    let server = Server::start();
    let client = server.client().await;
    let nats = client.nats().clone();
    let mut calls = nats.subscribe(subjects::bare(Lane::Rpc, &slug("m"))).await.unwrap();
    nats.flush().await.unwrap();
    let answer = async {
        let call = calls.next().await.unwrap();
        let (request, _) = wire::decode_request(&call.payload, None).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let error = WireError { retry_after_ms: Some(1), ..WireError::new(ErrorCode::Overloaded, "full") };
        nats.publish(call.reply.unwrap(), Format::MessagePack.encode(&failure(&request, error))).await.unwrap();
    };
    // A second answer as late as this one would come after the call's end, which would be a time-out then.
    let options = CallOptions::default().timeout(Duration::from_millis(5_500));
    let (model, request) = (slug("m"), EmbedRequest::new(["a"]));
    let (result, ()) = tokio::join!(client.embed(&model, request, &options), answer);
    assert_eq!(result.unwrap_err().code(), "overloaded");
}
