//! Numbers as people read them.

const UNITS: [(f64, &str); 3] = [(1e12, "T"), (1e9, "G"), (1e6, "M")];

/// A number to so many significant digits, with thousands set apart: `12.35`, `1,235`, `12.35M`. Whole digits are never
/// rounded away below a million. What is not finite is a dash.
#[must_use]
pub fn significant(value: f64, digits: i32) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = to_step(value, 10f64.powi(value.abs().log10().floor() as i32 + 1 - digits));
    match text.contains('.') && !text.ends_with(char::is_alphabetic) {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A number with as many decimals as tell multiples of `step` apart.
pub(crate) fn to_step(value: f64, step: f64) -> String {
    let unit = UNITS.iter().find(|(size, _)| value.abs() >= *size && step >= size / 1e4);
    let (value, step, unit) = unit.map_or((value, step, ""), |(size, name)| (value / size, step / size, *name));
    if step < 1e-7 {
        return format!("{value:e}");
    }
    let decimals = (-(step * 1.000_001).log10().floor()).clamp(0.0, 7.0) as usize;
    let text = format!("{value:.decimals$}");
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    // A rounded zero has no sign.
    let sign = if digits.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) { sign } else { "" };
    format!("{sign}{}{rest}{unit}", thousands(whole))
}

/// A count, with thousands set apart: `1,234,567`.
#[must_use]
pub fn grouped(n: u64) -> String {
    thousands(&n.to_string())
}

fn thousands(digits: &str) -> String {
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_people_write_them() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
        for (value, digits, text) in [
            (0.0, 3, "0"),
            (1.0, 3, "1"),
            (0.012_345, 3, "0.0123"),
            (12.3456, 4, "12.35"),
            (1234.5, 3, "1,234"),
            (-999_999.0, 6, "-999,999"),
            (12_345_678.0, 4, "12.35M"),
            (f64::NAN, 3, "–"),
        ] {
            assert_eq!(significant(value, digits), text);
        }
        assert_eq!(to_step(0.30000000000000004, 0.1), "0.3");
        assert_eq!(to_step(2500.0, 500.0), "2,500");
        assert_eq!(to_step(-0.0001, 0.5), "0.0");
    }

    proptest! {
        #[test]
        fn what_is_written_is_close(value in -1e6f64..1e6) {
            let read: f64 = significant(value, 4).replace(',', "").parse().unwrap();
            prop_assert!((read - value).abs() <= value.abs() * 6e-4 + 1e-12, "{read} for {value}");
        }
    }
}
