//! One connection, from its first byte to its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Limits, Tls, slots::Slot};

/// Bytes of one request's head, and of what is buffered of its body.
const BUFFER: usize = 64 << 10;

/// How long a client may still take for a request that it has begun to send when no more are taken.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a client may take to read an answer that was made when no more are.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// What is the same for all connections.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) routes: Router,
    pub(super) limits: Limits,
    pub(super) tls: Option<Tls>,
    /// Whether connections are to end with what they have begun.
    pub(super) stopping: watch::Receiver<bool>,
}

/// Serves a connection until it ends or its time is up.
pub(super) async fn serve_one(stream: TcpStream, serving: Arc<Serving>, slot: Slot) {
    // An answer's last packet does not wait for more.
    let _ = stream.set_nodelay(true);
    match &serving.tls {
        None => converse(stream, &serving, slot).await,
        #[cfg(feature = "tls")]
        Some(tls) => {
            let greeting = tokio::time::timeout(serving.limits.wait, tls.accept(stream));
            let mut stopping = serving.stopping.clone();
            let too_late = async {
                is_set(&mut stopping).await;
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                // Who does not come to terms with us is let go.
                greeting = greeting => if let Ok(Ok(stream)) = greeting {
                    converse(stream, &serving, slot).await;
                },
                () = too_late => {}
            }
        }
        #[cfg(not(feature = "tls"))]
        Some(never) => match *never {},
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, serving: &Serving, slot: Slot) {
    let limits = serving.limits;
    let routes = TowerToHyperService::new(serving.routes.clone());
    let state = slot.clone();
    // Whether an answer was made: it may still be on its way.
    let answered = Arc::new(AtomicBool::new(false));
    let has_answered = Arc::clone(&answered);
    let service = service_fn(move |request: Request<Incoming>| {
        state.answers();
        let answer = routes.call(request);
        let (state, has_answered) = (state.clone(), Arc::clone(&has_answered));
        async move {
            let answer = answer.await;
            has_answered.store(true, Ordering::Relaxed);
            state.waits();
            answer
        }
    });
    let connection = http1::Builder::new().max_buf_size(BUFFER).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopping = serving.stopping.clone();
    let mut last: Option<Instant> = None;
    loop {
        let (since, answering) = slot.state();
        let deadline = match last {
            Some(last) if !answering && answered.load(Ordering::Relaxed) => last.max(since + LAST_ANSWER),
            Some(last) if !answering => last,
            _ => since + if answering { limits.request } else { limits.wait },
        };
        tokio::select! {
            // However it ended, it is over.
            _ = &mut connection => return,
            () = slot.changed() => {}
            () = is_set(&mut stopping), if last.is_none() => {
                connection.as_mut().graceful_shutdown();
                last = Some(Instant::now() + LAST_WORDS);
            }
            () = sleep_until(deadline) => if deadline <= Instant::now() && slot.state() == (since, answering) {
                return;
            },
        }
    }
}

/// Waits until it is set. For ever, if nobody is left who could.
async fn is_set(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|set| *set).await.is_err() {
        std::future::pending::<()>().await;
    }
}
