//! Sets the gauges to what is true now: when somebody asks, and every few seconds, since one that is not set is forgotten.

use embed_engine::settings::Provider;
use embed_otlp::Counts;
use embed_schemas::{Lane, metrics as names};
use metrics::{counter, gauge};

use crate::{
    connection::Connections,
    lease::Keeper,
    metrics::SET_GAUGES,
    serving::ServedVariants,
    spans::Tracer,
    variant::{Deployment, ServedVersion},
};

/// Knows what gauges are about.
#[derive(Debug)]
pub struct Gauges {
    served: ServedVariants,
    connections: Connections,
    keeper: Keeper,
    tracer: Tracer,
    /// The process's own: memory, processor time, files, threads.
    process: metrics_process::Collector,
}

impl Gauges {
    /// Gauges of these.
    #[must_use]
    pub fn new(served: ServedVariants, connections: Connections, keeper: Keeper, tracer: Tracer) -> Self {
        let process = metrics_process::Collector::default();
        process.describe();
        Self { served, connections, keeper, tracer, process }
    }

    /// Sets them again and again.
    pub async fn keep_setting(&self) {
        let mut ticks = tokio::time::interval(SET_GAUGES);
        loop {
            ticks.tick().await;
            self.set();
        }
    }

    /// Sets them.
    pub fn set(&self) {
        self.process.collect();
        gauge!(names::BUILD_INFO, &[(names::VERSION, env!("CARGO_PKG_VERSION"))]).set(1.0);
        gauge!(names::LEASES_HELD).set(self.keeper.held() as f64);
        for (carries, connection) in [("calls", &self.connections.online), ("stored", &self.connections.stored)] {
            gauge!(names::NATS_CONNECTED, &[(names::CONNECTION, carries)]).set(f64::from(u8::from(connection.is_up())));
        }
        if let Some(Counts { exported, dropped, refused }) = self.tracer.counts() {
            counter!(names::SPANS_EXPORTED_TOTAL).absolute(exported);
            for (reason, spans) in [("queue_full", dropped), ("not_taken", refused)] {
                counter!(names::SPANS_DROPPED_TOTAL, &[(names::REASON, reason)]).absolute(spans);
            }
        }
        for one in self.served.all() {
            set_admitted(&one.deployment);
            let served = f64::from(u8::from(one.takes_calls()));
            gauge!(names::VARIANT_SERVED, one.deployment.variant.metrics.labels()).set(served);
        }
        for (deployment, version) in self.served.live() {
            set_live(&deployment, &version);
        }
    }
}

fn set_admitted(deployment: &Deployment) {
    let variant = &deployment.variant;
    for lane in Lane::ALL {
        let labels = variant.metrics.with(names::LANE, lane.as_str());
        gauge!(names::IN_FLIGHT_TEXTS, &labels).set(variant.admission.in_flight(lane) as f64);
        gauge!(names::IN_FLIGHT_BYTES, &labels).set(variant.admission.bytes_in_flight(lane) as f64);
    }
    let busy = counter!(names::RUNNER_BUSY_SECONDS_TOTAL, variant.metrics.labels());
    busy.absolute(variant.metrics.busy().as_secs());
    // It is set where it changes, and only has to be remembered.
    gauge!(names::ENGINES_BROKEN, variant.metrics.labels()).increment(0.0);
}

fn set_live(deployment: &Deployment, version: &ServedVersion) {
    let metrics = &deployment.variant.metrics;
    for lane in Lane::ALL {
        let labels = metrics.with(names::LANE, lane.as_str());
        let depth = version.pipeline.depth(lane);
        gauge!(names::QUEUE_DEPTH, &labels).set(depth.texts as f64);
        gauge!(names::QUEUE_OLDEST_AGE_SECONDS, &labels).set(depth.oldest.as_secs_f64());
        gauge!(names::TOKENIZER_QUEUE_TEXTS, &labels).set(version.pipeline.waiting_for_tokenizer(lane) as f64);
    }
    let report = version.report();
    let on = |provider: &str| metrics.with(names::PROVIDER, provider);
    for provider in Provider::ALL {
        let skipped = report.skipped.iter().any(|one| one.provider == provider);
        gauge!(names::PROVIDER_IN_USE, &on(provider.as_str())).set(f64::from(u8::from(provider == report.provider)));
        gauge!(names::PROVIDER_SKIPPED, &on(provider.as_str())).set(f64::from(u8::from(skipped)));
    }
    if let Some(nodes) = report.nodes_elsewhere {
        gauge!(names::NODES_ELSEWHERE, metrics.labels()).set(nodes as f64);
    }
    crate::serving::set_info(deployment, version);
}
