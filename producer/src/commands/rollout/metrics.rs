//! A controller's metrics, for Prometheus.

use embed_control::rollout::Progress;
use embed_rollout::state::Phase;
use embed_schemas::metrics as names;
use metrics::{counter, gauge};

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
