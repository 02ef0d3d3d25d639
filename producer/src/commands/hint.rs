//! The command that a hint names: as it was given, so that it can be run as it is printed. Never a secret.

/// Options whose values are secrets.
const SECRETS: [&str; 2] = ["--password", "--token"];
/// In place of a secret.
const HIDDEN: &str = "…";

/// The arguments of this process (the program first) but for those of `without`, which take no value, and with more behind them.
pub(super) fn command(arguments: impl IntoIterator<Item = String>, without: &[&str], with: &[&str]) -> String {
    let mut words = vec!["embed".to_owned()];
    let mut hide = false;
    for argument in arguments.into_iter().skip(1).filter(|argument| !without.contains(&argument.as_str())) {
        words.push(match argument.split_once('=') {
            _ if hide => HIDDEN.to_owned(),
            Some((name, _)) if SECRETS.contains(&name) => format!("{name}={HIDDEN}"),
            _ => quoted(&without_credentials(&argument)),
        });
        hide = !hide && SECRETS.contains(&argument.as_str());
    }
    words.extend(with.iter().map(|argument| quoted(argument)));
    words.join(" ")
}

/// `nats://user:password@host` -> `nats://…@host`, in each URL of a list.
fn without_credentials(argument: &str) -> String {
    let hide = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}{HIDDEN}{}", &url[..scheme + 3], &url[at..]),
        // A server without a scheme; a user and a password, or a token.
        (None, Some(at)) if !url.contains('/') => format!("{HIDDEN}{}", &url[at..]),
        _ => url.to_owned(),
    };
    argument.split(',').map(hide).collect::<Vec<_>>().join(",")
}

/// As a shell reads it back.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@,+%…".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_run_as_it_is_printed_but_for_secrets() {
        let given = "embed -s nats://me:pw@a:1,tls://b --password pw --token=pw init --check --tlsca";
        let given = given.split(' ').map(str::to_owned).chain(["it's here".to_owned()]);
        assert_eq!(
            command(given, &["--check"], &["--results-max-bytes", "4GiB"]),
            "embed -s nats://…@a:1,tls://b --password … --token=… init --tlsca 'it'\\''s here' --results-max-bytes 4GiB"
        );
    }
}
