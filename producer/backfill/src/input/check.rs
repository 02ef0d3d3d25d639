//! Whether what is read is still as it was when the backfill began, and what was mended since.

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{
    InputFile, Plan,
    find::{Stores, is_remote},
    identity, in_a_thread, is_stream,
    plan::{Opener, find_format},
};
use crate::{Error, Parameters, row::Position};

/// Hexadecimal digits of [`Plan::mended`]: it is part of the ids of jobs.
const MENDED_DIGITS: usize = 12;

impl Plan {
    /// Makes sure that everything is still as it was.
    ///
    /// # Errors
    /// [`Error::Backfill`] if something is not; the message says what to do.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        self.check_in(&Stores::default()).await
    }

    pub(super) async fn check_in(&self, stores: &Stores) -> Result<(), Error> {
        for file in &self.files {
            check(file, stores).await?;
        }
        Ok(())
    }

    /// Makes sure that everything that was read is still as it was. A file of which nothing is done by then may have been mended: it is
    /// taken as it is now, and a note says so. Returns these notes.
    ///
    /// # Errors
    /// As [`Plan::check`].
    pub(crate) async fn go_on(&mut self, parameters: &Parameters, done: Position) -> Result<Vec<String>, Error> {
        let (stores, runtime) = (Stores::default(), Handle::try_current().ok());
        let mut notes = Vec::new();
        for n in 0..self.files.len() {
            let file = self.files[n].clone();
            let is_done = n < done.file || n == done.file && done.lines > 0;
            let now = if file.unreadable.is_some() {
                match look_again(file, &stores).await {
                    Ok(now) if !is_done => now,
                    _ => continue,
                }
            } else {
                let Err(differs) = check(&file, &stores).await else { continue };
                if is_done || is_stream(&file.location) {
                    return Err(differs);
                }
                look_again(file, &stores).await?
            };
            let (parameters, opener) =
                (parameters.clone(), Opener { stores: stores.clone(), runtime: runtime.clone() });
            let was_unreadable = self.files[n].unreadable.is_some();
            let found = in_a_thread(move || {
                let mut now = now;
                find_format(&mut now, &parameters, &opener).map(|()| now)
            });
            self.files[n] = match found.await {
                Err(_) if was_unreadable => continue,
                found => found?,
            };
            notes.push(format!(
                "{}: it holds something else than when the backfill began, and nothing of it is done: it is read as it is now",
                self.files[n].location
            ));
        }
        if !notes.is_empty() {
            let files = serde_json::to_vec(&self.files).map_err(|error| Error::Backfill(error.to_string()))?;
            let mut digest = format!("{:x}", Sha256::digest(files));
            digest.truncate(MENDED_DIGITS);
            self.mended = Some(digest);
            self.notes.extend(notes.clone());
        }
        Ok(notes)
    }
}

/// Makes sure that a file is still as it was.
async fn check(file: &InputFile, stores: &Stores) -> Result<(), Error> {
    if file.unreadable.is_some() {
        return Ok(());
    }
    if is_remote(&file.location) {
        return identity::check_object(file, &stores.look(&file.location).await?);
    }
    let file = file.clone();
    in_a_thread(move || identity::check(&file)).await
}

/// A file as it is now.
async fn look_again(file: InputFile, stores: &Stores) -> Result<InputFile, Error> {
    if is_remote(&file.location) {
        let meta = stores.look(&file.location).await?;
        return Ok(identity::of_object(file.location, &meta));
    }
    // One that was known by its digest is so again.
    let may_read = match (&file.sha256, &file.unreadable) {
        (Some(_), _) => u64::MAX,
        (None, Some(_)) => identity::DIGESTED,
        (None, None) => 0,
    };
    in_a_thread(move || identity::look(file.location.as_ref(), may_read)).await
}
