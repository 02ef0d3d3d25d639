//! Answers HTTP: the page, what it is made of, and the same as JSON.

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Watch, page::page};

const STYLE: &str = include_str!("status.css");
const SCRIPT: &str = include_str!("status.js");

/// What every answer says to browsers: nothing of it is kept, shown within other pages, or read by them; and the page loads its own style and
/// script and nothing else, whatever comes to stand in it.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// `/`, `/status.json`, and what the page loads. `loopback`: it is listened to on this machine only, so that nobody has another name for it
/// than this machine's own.
pub fn routes(watch: Watch, loopback: bool) -> Router {
    let routes = Router::new()
        .route("/", get(async |State(watch): State<Watch>| html(&watch).await))
        .route("/status.json", get(async |State(watch): State<Watch>| json(&watch).await))
        .route("/status.css", get(async || ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)))
        .route("/status.js", get(async || ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT)))
        .with_state(watch);
    let routes = if loopback { routes.layer(middleware::from_fn(of_this_machine)) } else { routes };
    routes.layer(middleware::from_fn(with_headers))
}

async fn html(watch: &Watch) -> Response {
    let text = page(&*watch.status().await).into_string();
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

async fn json(watch: &Watch) -> Response {
    match serde_json::to_vec(&*watch.status().await) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// A page of somebody else's, whose name is made to lead here, is answered by its own name and not with what is here.
async fn of_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_none_or(is_loopback) {
        return next.run(request).await;
    }
    (StatusCode::MISDIRECTED_REQUEST, "ask for it as localhost or 127.0.0.1: it is for this machine only\n")
        .into_response()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9465", "127.0.0.1", "[::1]:9465", "[::1]", "127.9.9.9"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["example.com", "example.com:9465", "127.0.0.1.example.com", "10.0.0.1:80", "", "localhost.example.com"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
