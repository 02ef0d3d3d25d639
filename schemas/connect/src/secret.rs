//! Secrets in files and variables: read where they are named.

use std::path::Path;

use crate::ConnectError;

/// The text that a setting refers to: a file, `file://PATH`, or `env://NAME` as in contexts. Ends of lines after it are not part of it.
pub(crate) fn read(field: &str, reference: &Path) -> Result<String, ConnectError> {
    let text = reference.to_str().unwrap_or_default();
    let content = match text.split_once("://") {
        Some(("env", name)) => std::env::var(name)
            .map_err(|_| ConnectError::Settings(format!("{field}: the environment has no text in {name}")))?,
        Some(("file", path)) => file(Path::new(path))?,
        Some((scheme, _)) if is_scheme(scheme) => return Err(other_scheme(field, scheme)),
        _ => file(reference)?,
    };
    let content = content.trim_end_matches(['\r', '\n']);
    if content.is_empty() {
        return Err(ConnectError::Settings(format!("{field}: {} is empty", reference.display())));
    }
    Ok(content.to_owned())
}

/// A value that stands in a context itself, or is referred to there.
pub(crate) fn literal(field: &str, value: String) -> Result<String, ConnectError> {
    match value.split_once(':') {
        Some(("file" | "env" | "op" | "nsc", rest)) if rest.starts_with("//") => read(field, Path::new(&value)),
        Some(("data", _)) => Err(other_scheme(field, "data")),
        _ => Ok(value),
    }
}

fn is_scheme(scheme: &str) -> bool {
    scheme.len() > 1 && scheme.bytes().all(|c| c.is_ascii_alphanumeric())
}

fn other_scheme(field: &str, scheme: &str) -> ConnectError {
    ConnectError::Settings(format!(
        "{field}: {scheme}: is not read here. Put the secret into a file (for nsc: `nsc generate creds`), and name that, file://PATH or \
         env://NAME"
    ))
}

fn file(path: &Path) -> Result<String, ConnectError> {
    std::fs::read_to_string(path).map_err(|source| ConnectError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_from_where_they_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "p@ss \r\n").unwrap();
        assert_eq!(read("--password-file", &path).unwrap(), "p@ss ");
        let named = format!("file://{}", path.display());
        assert_eq!(literal("password", named.clone()).unwrap(), "p@ss ");
        assert_eq!(literal("password", "a:b//c".into()).unwrap(), "a:b//c", "a password is no reference");
        for (reference, expected) in [
            ("op://vault/item".to_owned(), "password: op: is not read here"),
            ("data:;base64,cA==".to_owned(), "password: data: is not read here"),
            ("env://NO_SUCH_VARIABLE_HERE".to_owned(), "no text in NO_SUCH_VARIABLE_HERE"),
        ] {
            let error = literal("password", reference).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(read("--token-file", &path).unwrap_err().to_string().contains("is empty"));
    }
}
