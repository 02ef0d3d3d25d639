//! The registry as workers see it, which can be taken away and put back: a folder behind a link, or a bucket behind a relay.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use embed_testkit::Relay;

/// Where the library that reads buckets finds a server of one's own.
const ENDPOINT: &str = "AWS_ENDPOINT_URL";

/// A registry, there or away.
#[derive(Debug)]
pub(super) struct Registry {
    location: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The link, and what it is called while the registry is away.
    Link(PathBuf, PathBuf),
    /// In front of the bucket's server.
    Relay(Relay),
    /// Straight.
    Fixed,
}

impl Registry {
    /// `folder` is a place for what is needed in between.
    pub(super) fn new(location: &str, folder: &Path) -> io::Result<Self> {
        if let Ok(path) = fs::canonicalize(location) {
            let (link, away) = (folder.join("registry"), folder.join("away"));
            symlink(path, &link)?;
            return Ok(Self { location: link.display().to_string(), way: Way::Link(link, away) });
        }
        let way = endpoint(location).map_or(Way::Fixed, |server| Way::Relay(Relay::start(server)));
        Ok(Self { location: location.to_owned(), way })
    }

    /// Why a registry at this location cannot be taken away; `None` if it can.
    pub(super) fn stays(location: &str) -> Option<&'static str> {
        let can_go = Path::new(location).is_dir() || endpoint(location).is_some();
        (!can_go).then_some(
            "the registry is neither a folder nor a bucket of an S3 server at AWS_ENDPOINT_URL, by plain http",
        )
    }

    /// What workers are told.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// What workers have in their environment to get there.
    pub(super) fn environment(&self) -> Option<(&'static str, String)> {
        match &self.way {
            Way::Relay(relay) => Some((ENDPOINT, format!("http://{}", relay.address()))),
            Way::Link(..) | Way::Fixed => None,
        }
    }

    /// Takes it away.
    pub(super) fn take_away(&self) -> io::Result<()> {
        match &self.way {
            Way::Link(link, away) => fs::rename(link, away),
            Way::Relay(relay) => {
                relay.go_down();
                Ok(())
            }
            Way::Fixed => Err(io::Error::other("the registry cannot be taken away")),
        }
    }

    /// Puts it back.
    pub(super) fn put_back(&self) -> io::Result<()> {
        match &self.way {
            Way::Link(link, away) => fs::rename(away, link),
            Way::Relay(relay) => {
                relay.mend();
                Ok(())
            }
            Way::Fixed => Ok(()),
        }
    }
}

/// Host and port of the server of a bucket, if a relay can stand in front of it.
fn endpoint(location: &str) -> Option<String> {
    let url = env::var(ENDPOINT).ok().filter(|_| location.starts_with("s3://"))?;
    let address = url.strip_prefix("http://")?.trim_end_matches('/');
    Some(if address.contains(':') { address.to_owned() } else { format!("{address}:80") })
}
