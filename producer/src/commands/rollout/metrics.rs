//! A controller's metrics, for Prometheus.

use std::net::SocketAddr;

use anyhow::Context;
use axum::{Router, routing::get};
use embed_control::rollout::Progress;
use embed_http::Limits;
use embed_rollout::state::Phase;
use embed_schemas::metrics as names;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::super::print;

/// Serves them, as long as the process lives.
///
/// # Errors
/// If the address cannot be listened on.
pub(super) async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let handle = PrometheusBuilder::new().install_recorder().context("--metrics-listen")?;
    describe_gauge!(names::ROLLOUT_PERCENT, "The candidate's share of the traffic, in percent");
    describe_gauge!(names::ROLLOUT_ACTIVE, "1 while the rollout is under way, 0 once it is over");
    describe_gauge!(names::ROLLOUT_PAUSED, "1 while the rollout is paused, until somebody decides");
    describe_gauge!(names::ROLLOUT_WINDOWS, "Windows of the step that were judged");
    describe_gauge!(names::ROLLOUT_REQUESTS, "Requests that the step's evidence has, by variant");
    describe_counter!(names::ROLLOUT_CHANGES_TOTAL, "What this controller has brought about, by state");
    describe_counter!(names::ROLLOUT_TROUBLES_TOTAL, "What failed, and was tried again");
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("--metrics-listen: cannot listen on {address}"))?;
    print::note(format_args!("metrics: http://{}/metrics", listener.local_addr()?));
    let routes = Router::new().route("/metrics", get(move || async move { handle.render() }));
    tokio::spawn(embed_http::serve(listener, routes, Limits::default()));
    Ok(())
}

/// Counts what a controller has to tell. Without a recorder it counts for nobody.
pub(super) fn hear(progress: &Progress<'_>) {
    match progress {
        Progress::Changed(rollout) => {
            let state = rollout.phase.as_str();
            counter!(names::ROLLOUT_CHANGES_TOTAL, names::MODEL => rollout.model.to_string(), names::STATE => state)
                .increment(1);
            of(rollout);
        }
        Progress::Event(rollout, _) | Progress::Waiting(rollout, _) | Progress::Shadow { rollout, .. } => of(rollout),
        Progress::Windows { rollout, requests, .. } => {
            of(rollout);
            let model = rollout.model.to_string();
            let windows = rollout.stage().map_or(0, |stage| stage.windows);
            gauge!(names::ROLLOUT_WINDOWS, names::MODEL => model.clone()).set(f64::from(windows));
            for (variant, requests) in [&rollout.from, &rollout.to].into_iter().zip(requests) {
                let labels = [(names::MODEL, model.clone()), (names::MODEL_VERSION, variant.to_string())];
                gauge!(names::ROLLOUT_REQUESTS, &labels).set(*requests as f64);
            }
        }
        Progress::Trouble(_) => counter!(names::ROLLOUT_TROUBLES_TOTAL).increment(1),
    }
}

fn of(rollout: &embed_rollout::Rollout) {
    let model = rollout.model.to_string();
    gauge!(names::ROLLOUT_PERCENT, names::MODEL => model.clone()).set(rollout.percent());
    let paused = matches!(rollout.phase, Phase::Paused { .. });
    gauge!(names::ROLLOUT_PAUSED, names::MODEL => model.clone()).set(f64::from(u8::from(paused)));
    gauge!(names::ROLLOUT_ACTIVE, names::MODEL => model).set(f64::from(u8::from(rollout.outcome().is_none())));
}
