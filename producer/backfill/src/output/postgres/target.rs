//! `postgres://user@host/database?table=schema.name`: which table of which database.

use std::{path::PathBuf, str::FromStr};

use tokio_postgres::{Config, config::Host};

use super::passfile;

/// How OUTPUT begins, if it is a table.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
/// Where there is no `port`.
const PORT: u16 = 5432;

/// Whether an output is a table.
pub(crate) fn is_table(location: &str) -> bool {
    SCHEMES.iter().any(|scheme| location.starts_with(scheme))
}

/// The type of a column of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VectorType {
    /// 4 bytes a number.
    Vector,
    /// 2 bytes a number.
    Halfvec,
}

impl VectorType {
    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Halfvec => "halfvec",
        }
    }
}

impl FromStr for VectorType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "vector" => Ok(Self::Vector),
            "halfvec" => Ok(Self::Halfvec),
            _ => Err(format!("vector={name}: there are `vector` and `halfvec`")),
        }
    }
}

/// A table. It holds the password, which is never shown.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    /// Its name, quoted.
    pub(super) table: String,
    /// Certificates that are trusted, rather than those that this machine trusts.
    pub(super) roots: Option<PathBuf>,
    /// The type of its vectors, where it is made.
    pub(super) vector: VectorType,
}

impl Target {
    /// Reads a location, with the variables of the surroundings and what is in the file of passwords.
    pub(super) fn read(
        location: &str,
        variable: impl Fn(&str) -> Option<String>,
        passwords: Option<&str>,
    ) -> Result<Self, String> {
        let (server, query) = location.split_once('?').unwrap_or((location, ""));
        let (mut table, mut vector, mut roots, mut others) = (None, VectorType::Vector, None, Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("table", name)) => table = Some(quoted_table(name)?),
                Some(("vector", name)) => vector = name.parse()?,
                Some(("sslrootcert", path)) => roots = Some(PathBuf::from(path)),
                _ => others.push(parameter),
            }
        }
        let table = table.ok_or("which table? Write `postgres://user@host/database?table=schema.name`")?;
        let location = format!("{server}?{}", others.join("&"));
        let mut config = Config::from_str(&location).map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })?;
        if config.get_password().is_some() {
            return Err(
                "leave out the password, which the state and the list of processes would show: set PGPASSWORD, or \
                        write it into ~/.pgpass"
                    .into(),
            );
        }
        if config.get_user().is_none()
            && let Some(user) = variable("PGUSER").or_else(|| variable("USER"))
        {
            config.user(user);
        }
        if config.get_application_name().is_none() {
            config.application_name("embed backfill");
        }
        let user = config.get_user().unwrap_or_default().to_owned();
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            _ => "localhost".to_owned(),
        };
        let port = config.get_ports().first().map_or(PORT, |port| *port).to_string();
        let found = || passfile::find(passwords?, [&host, &port, &database, &user]);
        if let Some(password) = variable("PGPASSWORD").or_else(found) {
            config.password(password);
        }
        Ok(Self { config, table, roots, vector })
    }
}

/// A name as SQL takes it, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_table(name: &str) -> Result<String, String> {
    let parts: Vec<&str> = name.split('.').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        return Err(format!("table={name}: write `table=name` or `table=schema.name`"));
    }
    Ok(parts.into_iter().map(quoted).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(location: &str) -> Result<Target, String> {
        Target::read(location, |name| (name == "PGUSER").then(|| "me".into()), Some("db:*:*:me:from file"))
    }

    #[test]
    fn a_location_names_server_and_table() {
        let target = read("postgres://you@db:5433/docs?sslmode=disable&table=public.a\"b&vector=halfvec").unwrap();
        assert_eq!((target.table.as_str(), target.vector), ("\"public\".\"a\"\"b\"", VectorType::Halfvec));
        assert_eq!((target.config.get_user(), target.config.get_dbname()), (Some("you"), Some("docs")));
        assert_eq!((target.config.get_ports(), target.config.get_password()), (&[5433][..], None));
        let target = read("postgresql://db/docs?table=t").unwrap();
        assert_eq!((target.config.get_user(), target.config.get_password()), (Some("me"), Some(&b"from file"[..])));
        assert!(!format!("{target:?}").contains("from file"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (location, said) in [
            ("postgres://db/docs", "which table?"),
            ("postgres://db/docs?table=a.b.c", "table=a.b.c"),
            ("postgres://db/docs?table=a&vector=bit", "vector=bit"),
            ("postgres://me:secret@db/docs?table=a", "PGPASSWORD"),
            ("postgres://db/docs?table=a&nonsense=1", "nonsense"),
        ] {
            let error = read(location).unwrap_err();
            assert!(error.contains(said) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn tables_are_known_by_their_scheme() {
        assert!(is_table("postgres://h/d?table=t") && is_table("postgresql://h/d") && !is_table("out/postgres"));
    }
}
