//! What `strict` asks of a graph: that the provider that was asked for runs it, and not another one under its name. Pure.

use crate::{
    engine::{Assignment, EngineError},
    settings::Provider,
};

/// Of so many nodes one may run elsewhere. They are those that compute shapes, of which exported graphs are full, and which ONNX Runtime leaves to the
/// processor on purpose.
const ONE_IN: usize = 4;

/// Refuses a graph whose work another provider does.
///
/// # Errors
/// If any product, attention, norm or quantization runs elsewhere, or more than a quarter of all nodes, or if nobody can tell.
pub(super) fn check(provider: Provider, assignment: Option<Assignment>) -> Result<(), EngineError> {
    let refuse = |reason: String| Err(EngineError::Provider { provider: provider.as_str(), reason });
    let Some(Assignment { nodes, elsewhere, work_elsewhere }) = assignment else {
        return refuse(
            "ONNX Runtime does not tell which nodes of the graph it runs, so `strict` cannot be kept".to_owned(),
        );
    };
    if work_elsewhere > 0 {
        return refuse(format!(
            "another provider would run {work_elsewhere} of the graph's products, norms and quantizations; take a precision that this one computes, \
             or set `strict = false`"
        ));
    }
    if elsewhere * ONE_IN > nodes {
        return refuse(format!(
            "another provider would run {elsewhere} of the graph's {nodes} nodes; take a graph that is written for this one, or set `strict = false`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_elsewhere_is_bounded() {
        let said = |nodes, elsewhere, work_elsewhere| {
            let found = check(Provider::Cuda, Some(Assignment { nodes, elsewhere, work_elsewhere }));
            found.map_or_else(|error| error.to_string(), |()| "served".to_owned())
        };
        assert_eq!(said(40, 0, 0), "served");
        assert_eq!(said(40, 10, 0), "served");
        assert!(said(40, 11, 0).starts_with("cuda: another provider would run 11 of the graph's 40 nodes"));
        assert!(said(400, 1, 1).contains("1 of the graph's products"));
        assert!(check(Provider::Tensorrt, None).unwrap_err().to_string().contains("does not tell"));
    }
}
