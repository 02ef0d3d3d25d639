//! Files that people write: contexts of natscli, and rows of a backfill.

use embed_backfill::{Format, Parameters, Position, ReadRow, read_rows};
use embed_connect::ConnectSettings;

pub(super) fn contexts() -> Vec<Vec<u8>> {
    let contexts = [
        r#"{"description":"d","url":"nats://a:4222","user":"u","password":"hunter2","creds":"","jetstream_domain":"d"}"#,
        r#"{"url":"tls://a,nats://b","nkey":"$HOME/${X}/~","user_jwt":"j","user_seed":"s","cert":"/c","key":"/k","ca":"~/ca","tls_first":true}"#,
        r#"{"token":"hunter2","inbox_prefix":"_I","jetstream_api_prefix":"p","nsc":"","windows_ca_certs_match":[],"socks_proxy":""}"#,
    ];
    contexts.map(|text| text.as_bytes().to_vec()).into()
}

/// A context is taken or refused, and what is said of it holds no secret.
pub(super) fn context(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // A value may name a file, and any file can be named: nobody here is to wait for a device.
    if text.contains("file:") || text.contains("env:") || text.contains("\\u") {
        return;
    }
    match ConnectSettings::default().under(text) {
        Ok(settings) => {
            let is_secret =
                [&settings.password, &settings.token].into_iter().flatten().any(|secret| secret == "hunter2");
            let said = format!("{} {:?}", settings.describe(), settings.redacted());
            assert!(!is_secret || text.matches("hunter2").count() > 1 || !said.contains("hunter2"), "{said}");
            let _ = settings.servers();
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.is_empty() && !said.contains("hunter2"), "{said}");
        }
    }
}

pub(super) fn parameters(keep: &[&str]) -> Parameters {
    let keep = keep.iter().map(ToString::to_string).collect();
    Parameters { keep, ..Parameters::new("m".parse().expect("a slug"), vec!["-".into()]) }
}

pub(super) fn all_rows() -> Vec<Vec<u8>> {
    let rows = [
        "{\"id\":1,\"text\":\"hello\"}\n{\"id\":\"b\",\"text\":\"w\\u00f6rld\",\"more\":[1,{\"x\":null}]}\n\n{\"text\":\"no id\"}\n",
        "\u{feff}{\"id\":1e400,\"text\":\"a\",\"lang\":\"de\"}\r\n{\"id\":null,\"text\":3}\nnonsense\n[1]\n{\"embedding\":1,\"text\":\"x\"}",
    ];
    rows.map(|text| text.as_bytes().to_vec()).into()
}

/// Every line that is not blank is a row, and reading can go on behind any of them.
pub(super) fn rows(bytes: &[u8]) {
    for keep in [&[][..], &["all"], &["more", "lang"]] {
        // Text that cannot be one, such as UTF-16, is refused as a whole.
        let Some(all) = read_on(bytes, Format::Jsonl, &parameters(keep)) else { continue };
        for (n, (end, _)) in (1u64..).zip(&all) {
            assert_eq!(end.rows, n);
            assert!(end.lines >= n && end.bytes <= bytes.len() as u64);
        }
    }
}

/// Texts with columns, some of which have rows that are none.
pub(super) fn all_tables() -> Vec<Vec<u8>> {
    let tables = [
        "id,text,lang\n1,hello,de\n\n2,\"a \"\"b\"\"\nc\",en\n3,\"stray\"x,\n4,\"never\n",
        "id\ttext\n1\thello\n2\tw\u{f6}rld\textra\n",
    ];
    tables.map(|text| text.as_bytes().to_vec()).into()
}

/// A table is refused or read, and reading can go on behind any of its rows.
pub(super) fn tables(bytes: &[u8]) {
    for format in [Format::Csv, Format::Tsv] {
        read_on(bytes, format, &parameters(&["all"]));
    }
}

/// Reads everything, and the second half once more. `None` of what is refused.
pub(super) fn read_on(bytes: &[u8], format: Format, parameters: &Parameters) -> Option<Vec<ReadRow>> {
    let read = |at| read_rows(bytes.to_vec().into(), format, at, parameters);
    let all = read(Position::default()).map_err(|error| assert!(!error.to_string().is_empty())).ok()?;
    if let Some((end, _)) = all.get(all.len() / 2) {
        assert_eq!(read(*end).expect("it could be read"), all[all.len() / 2 + 1..]);
    }
    Some(all)
}
