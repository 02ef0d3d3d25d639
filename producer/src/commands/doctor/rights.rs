//! Whether this user may do what it is to do: by what the server says of its permissions, or, where it may not ask, by trying what does no
//! harm.

use std::time::{Duration, Instant, SystemTime};

use async_nats::RequestErrorKind;
use embed_client::{
    Client, HeaderMap,
    nats::{self, api},
};
use embed_connect::{ConnectSettings, Refusals};
use embed_control::permissions::{Held, Permissions, Scope};
use embed_schemas::{Slug, streams};
use futures::FutureExt;
use serde_json::Value;

use super::{Line, TIMEOUT};
use crate::cli::doctor::DoctorArgs;

const CHECK: &str = "permissions";
/// How many of what is lacking are named.
const NAMED: usize = 4;
/// How many subjects are tried at a time.
const AT_A_TIME: usize = 32;
/// A stream that there is not: what is published for it, no stream stores.
const EXPECT_NO_STREAM: (&str, &str) = ("Nats-Expected-Stream", "EMBED_DOCTOR_NONE");
/// What the server refuses comes before its answer to a later question, but is read by another task.
const LAST_REFUSALS: Duration = Duration::from_millis(200);

/// What a server says of the user that asks.
pub(super) struct User {
    /// Its answer.
    pub(super) answer: Value,
    /// When it was asked.
    pub(super) asked: SystemTime,
    /// How long that took.
    pub(super) took: Duration,
}

/// Asks who we are. The error says why that is not known.
pub(super) async fn user(client: &Client) -> Result<User, String> {
    let (asked, begun) = (SystemTime::now(), Instant::now());
    let subject = "$SYS.REQ.USER.INFO".to_owned();
    let answer = nats::request(client.nats(), subject, HeaderMap::new(), Default::default(), TIMEOUT).await;
    let answer = answer.map_err(|error| match (error.kind(), nats::refusal(&error)) {
        (_, Some(_)) => "it may not ask about itself".to_owned(),
        (RequestErrorKind::NoResponders, None) => "the server does not say".to_owned(),
        (_, None) => error.to_string(),
    })?;
    let answer = serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
    Ok(User { answer, asked, took: begun.elapsed() })
}

/// Whether the user may do all that its roles need.
pub(super) async fn look(
    args: &DoctorArgs,
    client: &Client,
    user: Result<User, String>,
    models: &[Slug],
    connect: &ConnectSettings,
) -> Line {
    let name = match &user {
        Ok(user) => {
            let data = &user.answer["data"];
            let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
            // Where a server asks nobody who he is, users have no names.
            let user = Some(text("user"))
                .filter(|user| !user.is_empty())
                .map_or_else(|| "this user".to_owned(), |user| format!("user {user}"));
            format!("{user} of account {}", text("account"))
        }
        Err(why) => format!("this user ({why})"),
    };
    if args.role.is_empty() {
        let next = "say what this user is to do: --role producer, for example";
        return Line::not_checked(CHECK, name, next);
    }
    if models.is_empty() {
        return Line::not_checked(CHECK, name, "say which models it is about: --model, or --registry");
    }
    let inbox = connect.inbox_prefix.as_deref().map_or("_INBOX", |prefix| prefix.trim_end_matches('.')).to_owned();
    let api = match embed_connect::api_prefix(connect) {
        Ok(api) => api,
        Err(error) => return Line::not_checked(CHECK, format!("{name}: {error}"), "mend the connection's settings"),
    };
    let scope = Scope { models: models.to_vec(), tenant: args.tenant.clone(), inboxes: vec![inbox], api };
    let needed = Permissions::of(&args.role, &scope);
    let roles = args.role.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" and ");
    let all = needed.publish.allow.len() + needed.subscribe.allow.len();
    let (lacking, tried) = match &user {
        Ok(user) => {
            let held = serde_json::from_value::<Option<Held>>(user.answer["data"]["permissions"].clone());
            match held {
                Ok(held) => (held.unwrap_or_default().lacking(&needed), all),
                Err(error) => return Line::not_checked(CHECK, format!("{name}: {error}"), "update this program"),
            }
        }
        Err(_) => try_harmless(client, &needed, models).await,
    };
    if lacking.is_empty() && tried == all {
        return Line::ok(CHECK, format!("{name} may do all that {roles} needs: {all} subjects"));
    }
    if lacking.is_empty() {
        let found = format!("{name} may do what of {roles} can be tried without harm: {tried} of {all} subjects");
        return Line::not_checked(CHECK, found, "let it publish on $SYS.REQ.USER.INFO, and all of them are looked at");
    }
    let named = lacking.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = lacking.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let printed: String = args.role.iter().map(|role| format!(" --print-permissions {role}")).collect();
    let named_models: String = models.iter().map(|model| format!(" --model {model}")).collect();
    Line::failed(
        CHECK,
        format!("{name} may not {named}{more}, as {roles} needs"),
        format!("give it what `embed init{printed}{named_models}` prints"),
    )
}

/// Tries what does no harm: messages that nobody answers or stores, and questions. What is lacking, and how many subjects were tried.
async fn try_harmless(client: &Client, needed: &Permissions, models: &[Slug]) -> (Vec<String>, usize) {
    let subjects: Vec<String> = needed.publish.allow.iter().filter_map(|subject| harmless(subject, models)).collect();
    let mut lacking = Vec::new();
    // No more at a time than refusals are remembered.
    for subjects in subjects.chunks(AT_A_TIME) {
        lacking
            .extend(refused(client, subjects, models).await.into_iter().map(|subject| format!("publish on {subject}")));
    }
    (lacking, subjects.len())
}

/// Which of these a server refuses.
async fn refused(client: &Client, subjects: &[String], models: &[Slug]) -> Vec<String> {
    let refusals = Refusals::of(client.nats());
    for subject in subjects {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECT_NO_STREAM.0, EXPECT_NO_STREAM.1);
        // Without a reply, no worker answers; a server that refuses it says so all the same.
        let _ = client.nats().publish_with_headers(subject.clone(), headers, Default::default()).await;
    }
    // Its answer comes after all of that.
    if let Some(model) = models.first() {
        let call = format!("STREAM.INFO.{}", streams::jobs_stream(model));
        let _ = api::call(client.nats(), &call, &Value::Null, TIMEOUT).await;
    }
    tokio::time::sleep(LAST_REFUSALS).await;
    let is_refused = |subject: &&String| refusals.concerning(&[subject.as_str()]).now_or_never().is_some();
    subjects.iter().filter(is_refused).cloned().collect()
}

/// A subject that stands for this permission, if publishing on it does nothing: a call or a job that nobody could answer or store, a question about
/// workers or streams.
fn harmless(permission: &str, models: &[Slug]) -> Option<String> {
    let lanes = ["embed.rpc.", "embed.job.", "embed.bulk."];
    let is_question = [".STREAM.INFO.", ".CONSUMER.INFO.", ".DIRECT.GET."].iter().any(|verb| permission.contains(verb));
    let of_ours = lanes.iter().any(|lane| permission.starts_with(lane)) || permission.starts_with("$SRV.INFO.");
    let concrete = permission.replace('*', "doctor");
    // A list of a whole stream's messages would be no small question.
    let is_whole =
        models.iter().any(|model| permission.ends_with(&format!(".DIRECT.GET.{}", streams::jobs_stream(model))));
    ((is_question || of_ours) && !is_whole && !permission.ends_with('>')).then_some(concrete)
}

#[cfg(test)]
mod tests {
    use embed_control::permissions::Role;

    use super::*;

    #[test]
    fn nothing_that_could_do_harm_is_tried() {
        let models: Vec<Slug> = vec!["m".parse().unwrap()];
        for role in Role::ALL {
            let needed = Permissions::of(&[role], &Scope::new(&models, "doctor"));
            for subject in needed.publish.allow.iter().filter_map(|permission| harmless(permission, &models)) {
                for harm in [
                    "PURGE", "DELETE", "CREATE", "UPDATE", "MSG.NEXT", "$KV", "$JS.ACK", "store", "remove", "control",
                    "RELOAD",
                ] {
                    assert!(!subject.contains(harm), "{role}: {subject}");
                }
                assert!(!subject.contains(['*', '>']), "{subject}");
            }
        }
        let producer = Permissions::of(&[Role::Producer], &Scope::new(&models, "doctor"));
        let tried: Vec<_> = producer.publish.allow.iter().filter_map(|one| harmless(one, &models)).collect();
        assert_eq!(tried.len(), producer.publish.allow.len(), "{tried:?}");
    }
}
