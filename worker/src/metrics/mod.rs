//! What is measured. Knows nothing of what is served: whoever does, tells it.

mod endpoint;
mod gpu;
mod recorder;
mod shadow;
mod variant;
mod window;

pub use endpoint::EndpointStats;
pub use gpu::GpuWatch;
pub use recorder::{SET_GAUGES, install, texts_embedded};
pub use shadow::ShadowWindow;
pub use variant::{Demand, VariantMetrics, variant_labels};
pub use window::Window;
