//! W3C trace context: what is taken along from a request to its outcome is a valid `traceparent`, and nothing else. Pure.

use std::fmt;

/// Length of a `traceparent` of version 00: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`.
const LEN: usize = 55;

/// A `traceparent` as it is taken along. `None` if it is none. One of a newer version is taken along as far as version 00 goes, and as
/// such, as the specification wants it.
#[must_use]
pub fn traceparent(value: &str) -> Option<String> {
    let known = value.get(..LEN)?;
    let rest = &value[LEN..];
    let fields: Vec<&str> = known.split('-').collect();
    let [version, trace, parent, flags] = fields[..] else { return None };
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, len: usize| is_hex(text, len) && text.bytes().any(|byte| byte != b'0');
    let is_version = is_hex(version, 2)
        && match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
    let is_valid = is_version && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2);
    is_valid.then(|| format!("00-{trace}-{parent}-{flags}"))
}

/// A span, as others name it: what a `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraceContext {
    /// The trace. Not 0.
    pub trace: u128,
    /// The span in it. Not 0.
    pub span: u64,
    /// The flags; see [`TraceContext::is_sampled`].
    pub flags: u8,
}

impl TraceContext {
    /// The flag that says that the trace is recorded.
    pub const SAMPLED: u8 = 1;

    /// Reads a `traceparent`. `None` if it is none.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let valid = traceparent(value)?;
        let trace = u128::from_str_radix(&valid[3..35], 16).ok()?;
        let span = u64::from_str_radix(&valid[36..52], 16).ok()?;
        Some(Self { trace, span, flags: u8::from_str_radix(&valid[53..], 16).ok()? })
    }

    /// Whether whoever made it records the trace, and others are to do so.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// Another span of the same trace.
    #[must_use]
    pub const fn with_span(self, span: u64) -> Self {
        Self { span, ..self }
    }

    /// The trace's id, as logs and trace viewers show it.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// As a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Whether a request that came without a context is recorded, by a share of all, 0 to 1, and a random number.
#[must_use]
pub fn is_picked(share: f64, random: u64) -> bool {
    // 53 bits are what a float holds.
    ((random >> 11) as f64) < share * (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_is_valid_is_taken_along() {
        assert_eq!(traceparent(VALID).as_deref(), Some(VALID));
        assert_eq!(traceparent(&VALID.replacen("00", "01", 1)).as_deref(), Some(VALID));
        assert_eq!(traceparent(&format!("cc{}-what-comes-later", &VALID[2..])).as_deref(), Some(VALID));
        for other in [
            "",
            "hello",
            &VALID[..54],
            &format!("{VALID}-more"),
            &format!("cc{}.more", &VALID[2..]),
            &VALID.replacen("00", "ff", 1),
            &VALID.replacen("0af7", "0AF7", 1),
            &VALID.replacen("0af7", "0ag7", 1),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            &"x".repeat(65_480),
        ] {
            assert_eq!(traceparent(other), None, "{other}");
        }
    }

    #[test]
    fn none_and_all_are_shares() {
        assert!([0, 1, u64::MAX].into_iter().all(|random| !is_picked(0.0, random) && is_picked(1.0, random)));
        assert!(is_picked(0.5, u64::MAX / 4) && !is_picked(0.5, u64::MAX / 4 * 3));
    }

    proptest! {
        #[test]
        fn a_context_is_written_as_it_was_read(trace in 1u128.., span in 1u64.., flags in any::<u8>()) {
            let context = TraceContext { trace, span, flags };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            prop_assert_eq!(traceparent(&context.to_string()), Some(context.to_string()));
        }

        #[test]
        fn what_is_taken_along_is_valid_itself_and_short(value in "\\PC*|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-\\PC*)?") {
            if let Some(taken) = traceparent(&value) {
                prop_assert_eq!(taken.len(), LEN);
                prop_assert_eq!(traceparent(&taken), Some(taken));
            }
        }
    }
}
