//! Completions and man pages: a real bash completes, and `man` has nothing to complain of.

use std::process::Command;

use crate::support::command::{embed, output, stdout};
use embed_testkit::on_path;

/// What bash offers for a line.
fn completed(line: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("embed.bash");
    std::fs::write(&script, output(&["completions", "bash"]).stdout).unwrap();
    // As readline asks for it.
    let ask = r#"source "$1"; COMP_WORDS=($2); [[ $2 == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _embed embed "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
    let asked = Command::new("bash").args(["--norc", "-c", ask, "bash"]).arg(&script).arg(line).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    String::from_utf8(asked.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_real_bash_completes_commands_and_options() {
    if on_path("bash").is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no bash");
        return;
    }
    assert_eq!(completed("embed stat"), ["status"]);
    assert_eq!(completed("embed rollout res"), ["resume"]);
    let routes = completed("embed route ");
    assert!(["set", "show", "sync"].iter().all(|name| routes.iter().any(|one| one == name)), "{routes:?}");
    assert_eq!(completed("embed backfill run --long s"), ["split"]);
    assert!(completed("embed publish --la").contains(&"--lane".to_owned()));
}

#[test]
fn every_shell_gets_a_script() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(stdout(&output(&["completions", shell])).contains("rollout"), "{shell}");
    }
    assert_eq!(output(&["completions", "cmd"]).status.code(), Some(2));
}

#[test]
fn every_command_has_a_man_page_that_man_can_show() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("new/man1");
    assert!(embed(&["man"]).arg(&pages).output().unwrap().status.success());
    for (page, said) in
        [("embed.1", "embed\\-status"), ("embed-rollout-start.1", "\\-\\-steps"), ("embed-status.1", "9465")]
    {
        let text = std::fs::read_to_string(pages.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(said), "{page}: {text}");
    }
    // Nothing is where a folder is to be.
    let refused = embed(&["man"]).arg(pages.join("embed.1")).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("embed.1"), "{refused:?}");
    let Some(lint) = on_path("mandoc").or_else(|| on_path("groff")) else { return };
    for page in std::fs::read_dir(&pages).unwrap() {
        let path = page.unwrap().path();
        let mut command = Command::new(&lint);
        if lint.ends_with("mandoc") {
            command.args(["-T", "lint", "-W", "error"])
        } else {
            command.args(["-Kutf8", "-man", "-ww", "-z"])
        };
        let looked = command.arg(&path).output().unwrap();
        let said = [looked.stdout, looked.stderr].concat();
        assert!(looked.status.success() && said.is_empty(), "{}: {}", path.display(), String::from_utf8_lossy(&said));
    }
}
