//! A backfill's metrics, for Prometheus.

use embed_backfill::Progress;
use embed_schemas::metrics as names;
use metrics::{counter, gauge};

/// Counts what a backfill has to tell. Without a recorder it counts for nobody.
pub(super) fn hear(progress: &Progress) {
    counter!(names::BACKFILL_ROWS_TOTAL).absolute(progress.rows);
    counter!(names::BACKFILL_FAILED_ROWS_TOTAL).absolute(progress.failed);
    counter!(names::BACKFILL_TOKENS_TOTAL).absolute(progress.tokens_now);
    counter!(names::BACKFILL_INPUT_BYTES_TOTAL).absolute(progress.input_bytes);
    // Precise up to 2^53.
    if let Some(size) = progress.input_size {
        gauge!(names::BACKFILL_INPUT_SIZE_BYTES).set(size as f64);
    }
    gauge!(names::BACKFILL_JOBS_IN_FLIGHT).set(progress.in_flight as f64);
    if let Some(waiting) = progress.waiting {
        gauge!(names::BACKFILL_JOBS_QUEUED).set(waiting as f64);
    }
    gauge!(names::BACKFILL_HELD).set(f64::from(u8::from(progress.is_held)));
}
