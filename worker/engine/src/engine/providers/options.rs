//! How options of providers are written.

/// What a provider is told, as ONNX Runtime names it.
pub type Options = Vec<(&'static str, String)>;

/// A switch.
pub(super) fn flag(on: bool) -> String {
    u8::from(on).to_string()
}
