//! Who is written down as having wanted something.

/// Who was named, or whoever runs this, as `user@host`.
pub(super) fn who(named: Option<String>) -> String {
    named.unwrap_or_else(embed_control::who)
}
