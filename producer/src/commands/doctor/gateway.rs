//! Whether a gateway answers, and is ready.

use std::time::Duration;

use reqwest::{Client, StatusCode};

use super::Line;

const CHECK: &str = "gateway";
/// For one question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks it whether it is ready.
pub(super) async fn look(address: Option<&str>) -> Line {
    let Some(address) = address else {
        return Line::not_checked(CHECK, "none is named", "name it with --gateway, such as http://localhost:8080");
    };
    match ready(address).await {
        Ok((status, _)) if status.is_success() => Line::ok(CHECK, format!("{address} is ready")),
        Ok((status, said)) => {
            let said = said.lines().next().unwrap_or_default().to_owned();
            Line::failed(
                CHECK,
                format!("{address}/readyz says {status}: {said}"),
                "look at its log: it is up, and not ready",
            )
        }
        Err(error) => Line::failed(CHECK, format!("{address}: {error:#}"), "start it, or correct the address"),
    }
}

async fn ready(address: &str) -> anyhow::Result<(StatusCode, String)> {
    // An earlier one stays, and does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(PATIENCE).build()?;
    let answer = client.get(format!("{}/readyz", address.trim_end_matches('/'))).send().await?;
    Ok((answer.status(), answer.text().await?))
}
