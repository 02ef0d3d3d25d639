//! W3C trace context: what is taken along from a request to its outcome is a valid `traceparent`, and nothing else. Pure.

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

    proptest! {
        #[test]
        fn what_is_taken_along_is_valid_itself_and_short(value in "\\PC*|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-\\PC*)?") {
            if let Some(taken) = traceparent(&value) {
                prop_assert_eq!(taken.len(), LEN);
                prop_assert_eq!(traceparent(&taken), Some(taken));
            }
        }
    }
}
