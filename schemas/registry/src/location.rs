//! Where a registry is, as it may be shown: whoever writes a key or a signature into an address is not to find it in a log.

/// What stands for what is not shown.
const HIDDEN: &str = "***";

/// A location without user name, password and query. A path is shown as it is.
#[must_use]
pub fn masked(location: &str) -> String {
    match location.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", masked_rest(scheme, rest)),
        None => location.to_owned(),
    }
}

/// A text with every address in it masked, such as an error of a client of HTTP.
pub(crate) fn masked_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(end) = rest.find("://").map(|at| at + 3) {
        let (before, after) = rest.split_at(end);
        out.push_str(before);
        let ends = |c: char| c.is_whitespace() || "\"'`<>()".contains(c);
        let (address, more) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let scheme = before[..before.len() - 3].rsplit(|c: char| !c.is_ascii_alphanumeric()).next();
        out.push_str(&masked_rest(scheme.unwrap_or_default(), address));
        rest = more;
    }
    out + rest
}

/// Whether an address holds more than a place: who one is, or a query.
pub(crate) fn has_secrets(scheme: &str, rest: &str) -> bool {
    rest.contains('?') || user_end(scheme, rest).is_some()
}

fn masked_rest(scheme: &str, rest: &str) -> String {
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let mut shown = match user_end(scheme, place) {
        Some(end) => format!("{HIDDEN}@{}", &place[end..]),
        None => place.to_owned(),
    };
    if query.is_some_and(|query| !query.is_empty()) {
        shown.push('?');
        shown.push_str(HIDDEN);
    }
    shown
}

/// Where the place begins, if somebody stands before it: after the `@`. A bucket has no port, so that a `:` before it means a key, and a key
/// may have a `/` in it.
fn user_end(scheme: &str, place: &str) -> Option<usize> {
    let place = place.split('?').next().unwrap_or_default();
    let host = place.split('/').next().unwrap_or_default();
    let is_key = host.contains(':') && !scheme.starts_with("http");
    let end = if is_key { place.rfind('@') } else { host.rfind('@') };
    end.map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_location_is_shown_without_secrets() {
        for (location, shown) in [
            ("/srv/models@home?x", "/srv/models@home?x"),
            ("file:///srv/models", "file:///srv/models"),
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("s3://bucket/models@2", "s3://bucket/models@2"),
            ("s3://KEY:sEc/rEt@bucket/prefix", "s3://***@bucket/prefix"),
            ("s3://KEY:12/34@bucket/prefix", "s3://***@bucket/prefix"),
            ("s3://token@bucket", "s3://***@bucket"),
            ("az://container/p?sv=1&sig=s3cret", "az://container/p?***"),
            ("https://u:p@host:9000/b?X-Amz-Signature=s3cret", "https://***@host:9000/b?***"),
            ("https://host:9000/b/models@2", "https://host:9000/b/models@2"),
        ] {
            assert_eq!(masked(location), shown);
        }
    }

    #[test]
    fn addresses_in_a_text_are_shown_without_secrets() {
        let text = "Error performing GET http://me:s3cret@host:9000/b/x?sig=s3cret in 1s (http://u:s3cret@h): refused";
        let shown = "Error performing GET http://***@host:9000/b/x?*** in 1s (http://***@h): refused";
        assert_eq!(masked_addresses(text), shown);
        assert_eq!(masked_addresses("no address: at all?"), "no address: at all?");
    }

    proptest! {
        #[test]
        fn no_secret_is_left(
            user in "[a-zA-Z0-9]{1,20}", secret in "S3CRET[a-zA-Z0-9/+=:]{0,20}", query in "[a-z]{1,5}", around in "[ -~]{0,20}"
        ) {
            let location = format!("s3://{user}:{secret}@bucket/prefix?{query}={secret}");
            prop_assert!(has_secrets("s3", location.split_once("://").unwrap().1));
            for shown in [masked(&location), masked_addresses(&format!("{around} {location} {around}"))] {
                prop_assert!(!shown.contains("S3CRET"), "{shown}");
                prop_assert!(shown.contains("bucket/prefix"), "{shown}");
            }
        }
    }
}
