//! What is served: for each variant an intake, and a controller that brings the version that is live to the one that is wanted.
//!
//! The [`Reconciler`] knows which variants are wanted, and starts and ends their controllers. A controller resolves, loads, swaps and goes
//! back, and waits for nobody else's.

mod budget;
mod controller;
mod desired;
mod eviction;
mod load;
mod reconcile;
mod retries;
mod select;
mod served_variants;
mod shadow;
mod shared;
mod watch;

pub use controller::set_info;
pub use desired::VariantSpec;
pub use load::StartError;
pub use reconcile::{Reconciler, ServeError, ServingContext};
pub use select::{SelectError, Selected, Selection, Unnamed, select};
pub use served_variants::{ServedVariant, ServedVariants};
pub use shadow::follow_shadows;
