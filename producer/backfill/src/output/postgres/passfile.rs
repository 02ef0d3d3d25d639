//! The file of passwords that PostgreSQL's own programs read: `host:port:database:user:password` in each line.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// What the file holds, if there is one that nobody else can read: any other is ignored, as by PostgreSQL's own programs.
pub(super) fn load(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let path = match variable("PGPASSFILE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(variable("HOME")?).join(".pgpass"),
    };
    let mode = fs::metadata(&path).ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("{} is ignored, since others can read it: `chmod 600` it", path.display());
        return None;
    }
    fs::read_to_string(path).ok()
}

/// The password of the first line that fits host, port, database and user.
pub(super) fn find(passwords: &str, who: [&str; 4]) -> Option<String> {
    let lines = passwords.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|fields| {
        let [host, port, database, user, password] = <[String; 5]>::try_from(fields).ok()?;
        let fits = [host, port, database, user].iter().zip(who).all(|(field, value)| field == "*" || field == value);
        fits.then_some(password)
    })
}

/// Fields between colons. A backslash takes what follows as it is; the fifth goes to the end of the line.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let begun = fields.len();
        match character {
            ':' if begun < 5 => fields.push(String::new()),
            character => {
                let taken = if character == '\\' { characters.next() } else { Some(character) };
                fields[begun - 1].extend(taken);
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let file = "# h:1:d:u:no\nh:2:d:u:other port\nbroken\nh:1:a\\:b:u:col:on\\\\\n*:*:*:u:any\n";
        assert_eq!(find(file, ["h", "1", "a:b", "u"]).as_deref(), Some("col:on\\"));
        assert_eq!(find(file, ["h", "2", "d", "u"]).as_deref(), Some("other port"));
        assert_eq!(find(file, ["x", "9", "d", "u"]).as_deref(), Some("any"));
        assert_eq!(find(file, ["h", "1", "d", "v"]), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwords");
        fs::write(&path, "x").unwrap();
        let load = || load(|name| (name == "PGPASSFILE").then(|| path.to_str().unwrap().to_owned()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(load(), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(load().as_deref(), Some("x"));
    }
}
