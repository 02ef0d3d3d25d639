//! Permissions as text: the block of a user, and whole accounts, as nats-server's configuration has them.

use std::fmt::Write;

use embed_schemas::{Lane, Slug, streams, subjects};

use super::{API, Permissions, Role, Scope};

/// The account of the streams and the workers.
const ACCOUNT: &str = "EMBED";

/// The block for a user's `permissions`.
#[must_use]
pub fn block(permissions: &Permissions) -> String {
    let mut text = String::from("{\n");
    for (what, allowed) in [("publish", &permissions.publish), ("subscribe", &permissions.subscribe)] {
        let _ = writeln!(text, "  {what}: {{ allow: [");
        for subject in &allowed.allow {
            let _ = writeln!(text, "    {subject:?}");
        }
        text.push_str("  ] }\n");
    }
    text.push('}');
    text
}

/// All accounts, with a user for each role: the file that a server includes. With tenants, each of them has an account of its own, into
/// which calls and jobs are exported; otherwise all are users of one.
#[must_use]
pub fn accounts(models: &[Slug], tenants: &[String]) -> String {
    let named = models.iter().map(|model| format!(" --model {model}")).collect::<String>();
    let mut text = String::new();
    if tenants.is_empty() {
        let _ = write!(text, "# Made by: embed init --print-permissions all{named}\n#\n");
        text.push_str(
            "# A user for each role, with the least that it needs, for the models named above: make it anew for others. Leave out whom you do\n\
             # not need. Two who must not hear each other need users, and inboxes, of their own:\n\
             #   embed init --print-permissions producer --model MODEL --inbox-prefix _INBOX.NAME\n",
        );
    } else {
        let of = tenants.iter().map(|tenant| format!(" --tenant {tenant}")).collect::<String>();
        let _ = write!(text, "# Made by: embed init --print-permissions all{named}{of}\n#\n");
        text.push_str(
            "# An account for each tenant, into which calls and jobs are exported, and one for the streams and workers. What a tenant's users do\n\
             # among themselves is the tenant's own business.\n",
        );
    }
    text.push_str(
        "#\n# Passwords come from the environment; without one of them the server does not start. A bcrypt hash is one, too, and an empty one\n\
         # is none: do not set it so. For an nkey, write `nkey: U…` in place of user and password.\n\
         # Each program needs its inboxes: --inbox-prefix _INBOX.NAME, or inbox_prefix in the [nats] section of a worker's configuration.\n\n\
         accounts {\n  # For `embed route` and `embed rollout`, which have servers read what they have changed. It tells nothing of any message.\n  $SYS { users: [\n",
    );
    for role in Role::ALL.into_iter().filter(|role| role.is_in_system_account()) {
        text.push_str(&user(role, models));
    }
    let _ = write!(text, "  ] }}\n\n  {ACCOUNT} {{\n    jetstream: enabled\n");
    text.push_str(
        "    # `embed route` writes this file (--mappings-file).\n    mappings { include \"embed-mappings.conf\" }\n",
    );
    if !tenants.is_empty() {
        text.push_str("    exports: [\n");
        for Export { subject, answers } in exports(models) {
            let kind = if answers == Answers::Many { ", response_type: stream" } else { "" };
            let _ = writeln!(text, "      {{ service: {subject:?}{kind}, accounts: [{}] }}", tenants.join(", "));
        }
        text.push_str("    ]\n");
    }
    text.push_str("    users: [\n");
    // Where tenants have accounts of their own, nobody calls from this one.
    let is_here = |role: &Role| !role.is_in_system_account() && (tenants.is_empty() || !role.is_for_tenants());
    for role in Role::ALL.into_iter().filter(is_here) {
        text.push_str(&user(role, models));
    }
    text.push_str("    ]\n  }\n");
    for tenant in tenants {
        let _ = write!(text, "\n  {tenant} {{\n    imports: [\n");
        for export in exports(models) {
            // The server says in calls whose they are, in a header that nobody else can write: workers may serve tenants in turn.
            let shared = if export.answers == Answers::OfCalls { ", share: true" } else { "" };
            let subject = export.subject;
            let _ = writeln!(text, "      {{ service: {{ account: {ACCOUNT}, subject: {subject:?} }}{shared} }}");
        }
        let name = tenant.to_ascii_lowercase();
        let _ = write!(text, "    ]\n    users: [ {{ user: {name:?}, password: ${} }} ]\n  }}\n", variable(tenant));
    }
    text.push_str("}\n");
    text
}

/// What tenants get of the account of the streams.
struct Export {
    subject: String,
    answers: Answers,
}

/// What a request gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// One answer of a worker.
    OfCalls,
    /// One answer of the server.
    One,
    /// One of each worker.
    Many,
}

fn exports(models: &[Slug]) -> Vec<Export> {
    let discovery = format!("$SRV.INFO.{}", subjects::SERVICE_NAME);
    let mut all = vec![Export { subject: discovery, answers: Answers::Many }];
    for model in models {
        for lane in Lane::ALL {
            let answers = if lane == Lane::Rpc { Answers::OfCalls } else { Answers::One };
            let bare = subjects::bare(lane, model);
            all.extend([format!("{bare}.*"), bare].map(|subject| Export { subject, answers }));
        }
        let (stream, results) = (streams::results_stream(model), subjects::results(model));
        all.push(Export { subject: format!("{API}.DIRECT.GET.{stream}.{results}"), answers: Answers::One });
    }
    all
}

/// The environment's variable for a user's password.
fn variable(name: &str) -> String {
    format!("{}_PASSWORD", name.to_ascii_uppercase().replace('-', "_"))
}

/// A user, in a list of them.
fn user(role: Role, models: &[Slug]) -> String {
    let permissions = block(&Permissions::of(&[role], &scope(role, models)));
    let mut text = format!("      # {}\n      {{\n", role.purpose());
    let _ = writeln!(text, "        user: \"{role}\"\n        password: ${}", variable(role.as_str()));
    let permissions = permissions.replace('\n', "\n        ");
    let _ = write!(text, "        permissions: {permissions}\n      }}\n");
    text
}

/// What a role's user is made with, unless somebody says otherwise.
pub(super) fn scope(role: Role, models: &[Slug]) -> Scope {
    let mut scope = Scope::new(models, role.as_str());
    if role.is_in_system_account() {
        // One program, two connections, one --inbox-prefix.
        for other in [Role::Routes, Role::Rollouts, Role::Operator] {
            scope.inboxes.extend(Scope::new(models, other.as_str()).inboxes);
        }
    }
    scope
}
